"""`mmseg-kd test`, where mmseg has it."""

from mmseg_kd.cli.test import main

if __name__ == '__main__':
    raise SystemExit(main())
