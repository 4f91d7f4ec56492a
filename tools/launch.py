"""See mmseg_kd.cli.launch; the arguments are those of torchrun.

python tools/launch.py [options of torchrun] tools/train.py CONFIG --launcher pytorch
"""

from mmseg_kd.cli.launch import torchrun

if __name__ == '__main__':
    raise SystemExit(torchrun())
