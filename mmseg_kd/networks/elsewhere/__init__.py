"""Networks from elsewhere as segmentors of mmseg, and as teachers of features: a library a file.

Importing registers them; the libraries are imported where a network of theirs is built.
"""

from mmseg_kd.networks.elsewhere.hf_features import HFFeatures
from mmseg_kd.networks.elsewhere.hf_segmentor import HFSegmentor
from mmseg_kd.networks.elsewhere.smp_segmentor import SMPSegmentor
from mmseg_kd.networks.elsewhere.timm_features import TimmFeatures
from mmseg_kd.networks.elsewhere.timm_segmentor import TimmSegmentor
from mmseg_kd.networks.elsewhere.torch_segmentor import TorchSegmentor
from mmseg_kd.networks.elsewhere.torchvision_segmentor import TorchvisionSegmentor

__all__ = [
    'HFFeatures',
    'HFSegmentor',
    'SMPSegmentor',
    'TimmFeatures',
    'TimmSegmentor',
    'TorchSegmentor',
    'TorchvisionSegmentor',
]
