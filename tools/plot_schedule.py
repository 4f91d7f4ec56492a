"""See mmseg_kd.cli.plot_schedule."""

from mmseg_kd.cli.plot_schedule import main

if __name__ == '__main__':
    raise SystemExit(main())
