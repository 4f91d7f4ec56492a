"""Any network, whoever made it: run to its taps, and looked at."""

from mmseg_kd.networks.forward import as_network, run_to_layers
from mmseg_kd.networks.network import Network, Preprocessing
from mmseg_kd.networks.recorder import Recorder
from mmseg_kd.networks.taps import Taps

__all__ = ['Network', 'Preprocessing', 'Recorder', 'Taps', 'as_network', 'run_to_layers']
