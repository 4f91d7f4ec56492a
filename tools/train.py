"""See mmseg_kd.cli.train."""

from mmseg_kd.cli.train import main

if __name__ == '__main__':
    raise SystemExit(main())
