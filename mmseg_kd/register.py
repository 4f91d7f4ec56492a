"""Makes the hosts know this package: `custom_imports = dict(imports=['mmseg_kd.register'])`.

Importing it registers segmentor, losses, connectors, schedules, hooks, metric, data sets and an
optimiser's wrapper, and has mmengine read checkpoints as data alone and find configs that are
called `mmseg_kd::...`. Every command of this package imports it by itself.
"""

from mmseg_kd.checkpoints.host_loader import take_over_loading
from mmseg_kd.host.quiet import import_quietly, name_distribution

name_distribution()
take_over_loading()
import_quietly('mmseg.models', 'mmseg.datasets', 'mmseg.engine', 'mmseg.visualization')

# Registration happens on import, after the hosts are in.
from mmseg_kd import (  # noqa: E402, F401
    connectors,
    datasets,
    distillation,
    evaluation,
    hooks,
    losses,
    schedules,
)
from mmseg_kd.config.packaged import take_over_bases  # noqa: E402
from mmseg_kd.host import bfloat16_optim_wrapper  # noqa: E402, F401
from mmseg_kd.networks import elsewhere  # noqa: E402, F401

take_over_bases()
