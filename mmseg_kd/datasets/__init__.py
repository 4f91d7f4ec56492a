"""Data sets for mmseg's registry."""

from mmseg_kd.datasets.camvid import CamVidDataset
from mmseg_kd.datasets.paired import PairedDataset
from mmseg_kd.datasets.toy_scenes.dataset import ToyScenesDataset

__all__ = ['CamVidDataset', 'PairedDataset', 'ToyScenesDataset']
