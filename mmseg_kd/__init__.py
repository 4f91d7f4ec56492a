"""Distil large semantic segmentation networks into small ones.

Importing this package registers its distillation, losses, connectors, schedules and data sets:
a config needs only `custom_imports = dict(imports=['mmseg_kd'])`. From then on mmengine reads
checkpoints as data alone.
"""

from mmseg_kd.checkpoints.host_loader import take_over_loading
from mmseg_kd.host.quiet import import_quietly, name_distribution

name_distribution()
take_over_loading()
import_quietly('mmseg.models', 'mmseg.datasets', 'mmseg.engine', 'mmseg.visualization')

# Registration happens on import, after the hosts are in.
from mmseg_kd import connectors, datasets, distillation, hooks, losses, schedules  # noqa: E402
from mmseg_kd.engine.distill import Distilled, distill  # noqa: E402

__version__ = '0.1.0'

__all__ = [
    'Distilled',
    'connectors',
    'datasets',
    'distill',
    'hooks',
    'losses',
    'schedules',
    'distillation',
]
