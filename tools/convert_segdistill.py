"""See mmseg_kd.cli.convert_segdistill."""

from mmseg_kd.cli.convert_segdistill import main

if __name__ == '__main__':
    raise SystemExit(main())
