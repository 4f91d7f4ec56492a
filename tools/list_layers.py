"""See mmseg_kd.cli.list_layers."""

from mmseg_kd.cli.list_layers import main

if __name__ == '__main__':
    raise SystemExit(main())
