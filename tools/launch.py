"""See mmseg_kd_entry.launch; the arguments are those of torchrun.

python tools/launch.py [options of torchrun] tools/train.py CONFIG --launcher pytorch
"""

from mmseg_kd_entry.launch import torchrun

if __name__ == '__main__':
    raise SystemExit(torchrun())
