"""See mmseg_kd.cli.print_config."""

from mmseg_kd.cli.print_config import main

if __name__ == '__main__':
    raise SystemExit(main())
