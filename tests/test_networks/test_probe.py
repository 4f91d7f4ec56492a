from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from builders import batch, build, fcn_head, mit, resnet
from torch import Tensor, nn

from mmseg_kd.errors import ConfigError, ShapeError
from mmseg_kd.networks.probe import evaluating, probe
from mmseg_kd.networks.recorder import Recorder


def network_with_auxiliary_head() -> Any:
    return build(resnet(auxiliary_head=fcn_head(4, 0)))


def keys_under(network: nn.Module, *prefixes: str) -> set[str]:
    return {key for key in network.state_dict() if key.startswith(prefixes)}


def hooks_of(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def draw(module: nn.Module, inputs: Any, output: Any) -> None:
    """A hook that uses the random state, as a layer may that samples in eval mode."""
    torch.rand(1)


def test_outputs_of_the_layers() -> None:
    layers = ['backbone.layer1', 'decode_head.conv_seg', 'auxiliary_head.conv_seg']
    outputs = probe(network_with_auxiliary_head(), layers, 'student').outputs
    shapes = {name: tuple(output.shape) for name, output in outputs.items()}
    assert shapes == dict(
        zip(layers, [(1, 4, 32, 32), (1, 5, 16, 16), (1, 5, 32, 32)], strict=True)
    )
    assert not any(output.requires_grad for output in outputs.values())


def test_network_is_as_before() -> None:
    network = network_with_auxiliary_head()
    network.train()
    network.backbone.layer1.eval()
    network.backbone.layer1[0].conv1.train()
    network.backbone.register_forward_hook(draw)
    modes = {name: module.training for name, module in network.named_modules()}
    assert set(modes.values()) == {True, False}
    state = {key: value.clone() for key, value in network.state_dict().items()}
    hooks = hooks_of(network)
    random_state = torch.random.get_rng_state()
    probe(network, ['decode_head.conv_seg', 'auxiliary_head.conv_seg'], 'student')
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert hooks_of(network) == hooks


def test_network_is_as_before_where_it_fails() -> None:
    network = build(resnet())
    network.train()
    hooks = hooks_of(network)
    network.decode_head.conv_seg = nn.Conv2d(3, 5, 1)
    expected = 'student: a dry run on an image of 128x128 failed: RuntimeError: .*channels'
    with pytest.raises(ConfigError, match=expected):
        probe(network, ['decode_head.conv_seg'], 'student')
    assert all(module.training for module in network.modules())
    assert hooks_of(network) == hooks


def test_evaluating_restores_modes_after_an_error() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout()).train()
    network[1].eval()
    with pytest.raises(ZeroDivisionError), evaluating(network):
        assert not any(module.training for module in network.modules())
        assert not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert [module.training for module in network.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


def test_same_outputs_every_time() -> None:
    network = network_with_auxiliary_head()
    runs: list[Tensor] = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network.train()
        runs.append(probe(network, ['decode_head.conv_seg'], '').outputs['decode_head.conv_seg'])
    assert torch.equal(*runs)


@pytest.mark.parametrize('head', ['decode_head', 'auxiliary_head'])
def test_layers_changed_in_place(head: str) -> None:
    changed = {'backbone.layer1.0.bn1', 'backbone.layer1.0.bn2', f'{head}.convs.0.bn'}
    kept = {'backbone.layer1.0.conv1', 'backbone.layer1', f'{head}.convs.0', f'{head}.conv_seg'}
    network = network_with_auxiliary_head()
    assert probe(network, changed | kept, 'student').modified_in_place == changed


def test_used_of_a_tap_in_the_backbone() -> None:
    network = network_with_auxiliary_head()
    expected = keys_under(network, 'backbone.stem', 'backbone.layer1')
    assert len(expected) > 10
    assert probe(network, ['backbone.layer1'], 'teacher').used == expected


def test_used_of_a_tap_inside_a_block() -> None:
    network = network_with_auxiliary_head()
    used = probe(network, ['backbone.layer2.0.conv1'], 'teacher').used
    assert 'backbone.layer2.0.conv1.weight' in used
    assert used >= keys_under(network, 'backbone.layer1')
    assert not used & keys_under(network, 'backbone.layer2.0.conv2', 'backbone.layer2.1')


def test_used_of_a_tap_in_the_head() -> None:
    network = network_with_auxiliary_head()
    used = probe(network, ['decode_head.conv_seg'], 'teacher').used
    assert used == keys_under(network, 'backbone', 'decode_head')


def test_used_of_a_tap_in_the_auxiliary_head() -> None:
    network = network_with_auxiliary_head()
    used = probe(network, ['auxiliary_head.conv_seg'], 'teacher').used
    assert used == keys_under(network, 'backbone', 'auxiliary_head')


def test_used_of_taps_in_both_heads() -> None:
    network = network_with_auxiliary_head()
    layers = ['auxiliary_head.conv_seg', 'decode_head.conv_seg']
    assert probe(network, layers, 'teacher').used == set(network.state_dict())


def test_used_counts_the_projections_inside_attention() -> None:
    network = build(mit())
    block = 'backbone.layers.0.1.0'
    used = probe(network, [f'{block}.ffn'], 'teacher').used
    assert used >= keys_under(network, f'{block}.attn')
    assert f'{block}.attn.attn.out_proj.weight' in used
    assert not used & keys_under(network, 'backbone.layers.1', 'decode_head')


def test_used_counts_what_a_head_itself_owns() -> None:
    model = resnet()
    model['decode_head'] = dict(
        type='SegmenterMaskTransformerHead',
        in_channels=8,
        in_index=1,
        channels=8,
        embed_dims=8,
        num_layers=1,
        num_heads=1,
        num_classes=5,
        dropout_ratio=0.0,
    )
    network = build(model)
    assert 'decode_head.cls_emb' in network.state_dict()
    used = probe(network, ['decode_head.mask_norm'], 'teacher').used
    assert used == set(network.state_dict())
    used = probe(network, ['backbone.layer2'], 'teacher').used
    assert used == keys_under(network, 'backbone')


@pytest.mark.parametrize('layer', ['decode_head', 'auxiliary_head', 'auxiliary_head.loss_decode'])
def test_layer_that_is_never_called_is_absent(layer: str) -> None:
    """mmseg calls the method `forward` of a head, so that no hook on the head itself fires."""
    assert probe(network_with_auxiliary_head(), [layer], 'student').outputs == {}


@pytest.mark.parametrize('make', [network_with_auxiliary_head, lambda: build(mit())])
def test_what_the_probe_finds_runs_in_training_too(make: Any) -> None:
    network = make()
    names = [
        name
        for name, module in network.named_modules()
        if name and (not list(module.children()) or name.endswith(('_head', 'layer1', '.ffn')))
    ]
    found = set(probe(network, names, 'student').outputs)
    assert len(found) > 20
    network.train()
    data = network.data_preprocessor(batch(), True)
    with Recorder(network, found) as taps:
        network.loss(**data)
        assert set(taps.outputs) == found


def test_layer_with_several_outputs() -> None:
    expected = re.escape("layer 'backbone' (ResNetV1c) puts out a tuple, not one tensor")
    with pytest.raises(ShapeError, match=expected):
        probe(build(resnet()), ['backbone'], 'teacher')
