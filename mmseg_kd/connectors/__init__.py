"""Connectors bring the student's map to the teacher's channels. Losses align the sizes.

One with a method `of_teacher` changes the teacher's map too.
"""

from mmseg_kd.connectors.chain_connector import ChainConnector, teacher_side
from mmseg_kd.connectors.conv_connector import ConvConnector
from mmseg_kd.connectors.conv_module_connector import ConvModuleConnector
from mmseg_kd.connectors.linear_connector import LinearConnector
from mmseg_kd.connectors.norm_connector import NormConnector

__all__ = [
    'ChainConnector',
    'ConvConnector',
    'ConvModuleConnector',
    'LinearConnector',
    'NormConnector',
    'teacher_side',
]
