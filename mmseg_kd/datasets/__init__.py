"""Data sets for mmseg's registry."""

from mmseg_kd.datasets.camvid import CamVidDataset
from mmseg_kd.datasets.paired import PairedDataset
from mmseg_kd.datasets.stored_scores import PackStoredScores, TrackPixels
from mmseg_kd.datasets.toy_scenes.dataset import ToyScenesDataset
from mmseg_kd.datasets.unlabelled import MixedDataset, MixedSampler, UnlabelledDataset

__all__ = [
    'CamVidDataset',
    'MixedDataset',
    'MixedSampler',
    'PackStoredScores',
    'PairedDataset',
    'ToyScenesDataset',
    'TrackPixels',
    'UnlabelledDataset',
]
