"""Connectors bring the student's map to the teacher's channels. Losses align the sizes."""

from mmseg_kd.connectors.conv_connector import ConvConnector

__all__ = ['ConvConnector']
