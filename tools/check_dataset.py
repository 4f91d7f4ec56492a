"""See mmseg_kd.cli.check_dataset."""

from mmseg_kd.cli.check_dataset import main

if __name__ == '__main__':
    raise SystemExit(main())
