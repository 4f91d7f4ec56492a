"""See mmseg_kd.cli.visualize."""

from mmseg_kd.cli.visualize import main

if __name__ == '__main__':
    raise SystemExit(main())
