"""Connectors bring the student's map to the teacher's channels. Losses align the sizes."""

from mmseg_kd.connectors.conv_connector import ConvConnector
from mmseg_kd.networks.tokens import as_map

__all__ = ['ConvConnector', 'as_map']
