"""`mmseg-kd train`, where mmseg has it."""

from mmseg_kd.cli.train import main

if __name__ == '__main__':
    raise SystemExit(main())
