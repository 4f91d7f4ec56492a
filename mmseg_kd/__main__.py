"""`python -m mmseg_kd` is `mmseg-kd`."""

from mmseg_kd.cli.main import main

if __name__ == '__main__':
    raise SystemExit(main())
