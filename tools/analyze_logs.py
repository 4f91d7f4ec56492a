"""See mmseg_kd.cli.analyze_logs."""

from mmseg_kd.cli.analyze_logs import main

if __name__ == '__main__':
    raise SystemExit(main())
