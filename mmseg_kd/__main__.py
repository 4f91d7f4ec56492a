"""`python -m mmseg_kd` is `mmseg-kd`."""

from mmseg_kd_entry.main import main

if __name__ == '__main__':
    raise SystemExit(main())
