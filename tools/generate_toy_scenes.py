"""See mmseg_kd.cli.generate_toy_scenes."""

from mmseg_kd.cli.generate_toy_scenes import main

if __name__ == '__main__':
    raise SystemExit(main())
