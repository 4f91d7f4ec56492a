"""`mmseg-kd convert-camvid`, where mmseg has it."""

from mmseg_kd.cli.convert_camvid import main

if __name__ == '__main__':
    raise SystemExit(main())
