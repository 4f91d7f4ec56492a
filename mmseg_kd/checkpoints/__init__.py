"""Reading checkpoints, safely and with a report, and writing weights."""

from mmseg_kd.checkpoints.load import LoadReport, load_weights, read_state_dict
from mmseg_kd.checkpoints.read import read_checkpoint
from mmseg_kd.checkpoints.save import save_weights
from mmseg_kd.checkpoints.trust import checkpoint_trust

__all__ = [
    'LoadReport',
    'checkpoint_trust',
    'load_weights',
    'read_checkpoint',
    'read_state_dict',
    'save_weights',
]
