"""See mmseg_kd.cli.export."""

from mmseg_kd.cli.export import main

if __name__ == '__main__':
    raise SystemExit(main())
