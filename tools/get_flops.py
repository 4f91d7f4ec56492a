"""See mmseg_kd.cli.get_flops."""

from mmseg_kd.cli.get_flops import main

if __name__ == '__main__':
    raise SystemExit(main())
