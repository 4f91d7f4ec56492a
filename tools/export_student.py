"""See mmseg_kd.cli.export_student."""

from mmseg_kd.cli.export_student import main

if __name__ == '__main__':
    raise SystemExit(main())
