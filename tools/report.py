"""See mmseg_kd.cli.report."""

from mmseg_kd.cli.report import main

if __name__ == '__main__':
    raise SystemExit(main())
