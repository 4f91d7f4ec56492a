"""Reading checkpoints, safely and with a report."""

from mmseg_kd.checkpoints.load import LoadReport, load_weights, read_state_dict

__all__ = ['LoadReport', 'load_weights', 'read_state_dict']
