"""Decode heads and their losses."""

from __future__ import annotations

from typing import Any

from mmseg.registry import MODELS

from mmseg_kd.migration.registered import as_it_is
from mmseg_kd.migration.section import Section

# NVIDIA's head, spelt unlike mmseg's SegformerHead.
NVIDIA_HEAD = 'SegFormerHead'


def convert_head(section: Section) -> dict[str, Any]:
    """Convert `decode_head=dict(...)` or `auxiliary_head=dict(...)`."""
    losses = [as_it_is(loss, MODELS, 'loss') for loss in section.sections('loss_decode')]
    if section.peek('type') == NVIDIA_HEAD:
        model = _segformer(section)
    else:
        model = as_it_is(section, MODELS, 'head')
    if losses:
        model['loss_decode'] = losses if len(losses) > 1 else losses[0]
    return model


def _segformer(section: Section) -> dict[str, Any]:
    section.drop('feature_strides', 'mmseg resizes to the first map without being told strides')
    section.take('channels')
    parameters = section.section_or_empty('decoder_params')
    width = parameters.take('embed_dim')
    parameters.close()
    if width is None:
        section.problem('expected decoder_params=dict(embed_dim=...), got none')
    model = as_it_is(section, MODELS, 'head', name='SegformerHead')
    if 'norm_cfg' not in model:
        model['norm_cfg'] = dict(type='SyncBN', requires_grad=True)
    return {'type': 'SegformerHead', **model, 'channels': width}
