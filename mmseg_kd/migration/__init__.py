"""From SegDistill, the predecessor on mmcv 1.x and mmseg 0.x: configs in its format."""

from mmseg_kd.migration.config import ConvertedConfig, convert_config

__all__ = ['ConvertedConfig', 'convert_config']
