"""See mmseg_kd.cli.list_experiments."""

from mmseg_kd.cli.list_experiments import main

if __name__ == '__main__':
    raise SystemExit(main())
