from __future__ import annotations

from typing import Any

import pytest
from builders import build, fpn, mit, ocr_cascade, resnet
from torch import nn

from mmseg_kd.errors import ConfigError
from mmseg_kd.networks.roles import ROLES, Roles


@pytest.mark.parametrize(
    ('network', 'scores', 'features', 'stage'),
    [
        (resnet(), 'decode_head.conv_seg', 'decode_head.convs', 'backbone.layer2'),
        (mit(), 'decode_head.conv_seg', 'decode_head.fusion_conv', 'backbone.layers.1.2'),
        (fpn(), 'decode_head.conv_seg', 'decode_head.convs', 'backbone.layer2'),
        (
            ocr_cascade(),
            'decode_head.1.conv_seg',
            'decode_head.1.object_context_block',
            'backbone.layer2',
        ),
    ],
    ids=['resnet', 'mit', 'fpn', 'ocr'],
)
def test_layers_of_roles(network: Any, scores: str, features: str, stage: str) -> None:
    roles = Roles(build(network))
    found = [roles.layer(name, 'student') for name in ROLES]
    assert dict(zip(ROLES, found, strict=True)) == {
        '@scores': scores,
        '@features': features,
        '@stage': stage,
    }


def test_a_layer_is_itself_and_needs_no_pass() -> None:
    roles = Roles(nn.Linear(1, 1))
    assert roles.layer('decode_head.conv_seg', 'student') == 'decode_head.conv_seg'
    assert 'seen' not in vars(roles)


def test_what_is_not_there() -> None:
    roles = Roles(nn.Sequential(nn.Conv2d(3, 2, 1)))
    with pytest.raises(ConfigError, match="no role '@score'; nearest: @scores"):
        roles.layer('@score', 'student')
    for name in ROLES:
        with pytest.raises(ConfigError, match=f"'{name}': no layer of the teacher puts out"):
            roles.layer(name, 'teacher')
