"""See mmseg_kd.cli.convert_camvid."""

from mmseg_kd.cli.convert_camvid import main

if __name__ == '__main__':
    raise SystemExit(main())
