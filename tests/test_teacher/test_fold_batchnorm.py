"""BatchNorm goes into the convolution before it, and no tapped layer sees the difference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch
from builders import BN, CLASSES, build, fcn_head, fpn, mit, ocr_cascade, preprocessor, resnet
from timm.layers import BatchNormAct2d, StdConv2d
from torch import Tensor, nn

from mmseg_kd.errors import ShapeError
from mmseg_kd.networks.forward import run_whole
from mmseg_kd.networks.recorder import Recorder
from mmseg_kd.teacher.fold_batchnorm import Folding, fold_batchnorm

TOLERANCE = dict(rtol=1e-10, atol=1e-10)


def mobilenet() -> dict[str, Any]:
    """A MobileNetV2 under a head of separable convolutions at several dilations."""
    return dict(
        type='EncoderDecoder',
        data_preprocessor=preprocessor(),
        backbone=dict(
            type='MobileNetV2',
            widen_factor=0.1,
            out_indices=(0, 1),
            norm_cfg=BN,
        ),
        decode_head=dict(
            type='DepthwiseSeparableASPPHead',
            in_channels=8,
            in_index=1,
            channels=8,
            dilations=(1, 2),
            c1_in_channels=8,
            c1_channels=4,
            dropout_ratio=0.1,
            num_classes=CLASSES,
            norm_cfg=BN,
            align_corners=False,
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


def efficientnet() -> dict[str, Any]:
    """timm's EfficientNet-lite0, whose BatchNorm layers have activations inside."""
    backbone = dict(
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        features_only=True,
        pretrained=False,
        out_indices=(0, 1),
    )
    return resnet(backbone=backbone, decode_head=fcn_head(24, 1))


def without_later_stages(network: Any) -> Any:
    """Networks whose stages are many and alike keep the two that the head needs."""
    if type(network.backbone).__name__ == 'MobileNetV2':
        for layer in network.backbone.layers[2:]:
            delattr(network.backbone, layer)
        del network.backbone.layers[2:]
    elif type(network.backbone).__name__ == 'TIMMBackbone':
        del network.backbone.timm_model.blocks[2:]
    return network


def frozen(network: nn.Module, seed: int = 0) -> Any:
    """`network` in float64 and eval mode, with BatchNorm layers that have much to do."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                for tensor in (module.weight, module.bias, module.running_mean):
                    if tensor is not None:
                        draw(tensor, -1.5, 1.5)
                if module.running_var is not None:
                    draw(module.running_var, 0.3, 3.0)
    return network.double().eval().requires_grad_(False)


def images(size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)


def runner(network: nn.Module, layers: Collection[str] = (), clone: Collection[str] = ()) -> Any:
    """A run of a plain module or a segmentor that gives `layers` and the output of the whole."""

    def run() -> dict[str, Tensor]:
        with torch.no_grad(), Recorder(network, layers, clone) as taps:
            whole = run_whole(network, images(), layers)
            return {**taps.outputs, '': whole}

    return run


def fold(network: nn.Module, *layers: str) -> Folding:
    """Fold, with the outputs of `layers` and of the whole left as they are."""
    expected = runner(network, layers, layers)()
    folding = fold_batchnorm(network, runner(network, layers))
    found = runner(network, layers, layers)()
    assert found.keys() == expected.keys()
    for name, output in expected.items():
        torch.testing.assert_close(found[name], output, **TOLERANCE)
        assert output.std() > 1e-3
    assert not any(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())
    return folding


class Net(nn.Module):
    """A module with children by name and a forward pass of the test's own."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **children: Any) -> None:
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def conv(channels: int = 3, **changes: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, 4, 3, **changes)


def pair(forward: Callable[[Any, Tensor], Tensor], **children: Any) -> Any:
    """A frozen module with a convolution `conv` and a BatchNorm `bn`."""
    torch.manual_seed(0)
    children = {'conv': conv(), 'bn': nn.BatchNorm2d(4), **children}
    return frozen(Net(forward, **children))


def in_a_row(net: Any, x: Tensor) -> Tensor:
    return torch.relu(net.bn(net.conv(x)))


# Whole networks.

NETWORKS = {
    'resnet': resnet(auxiliary_head=fcn_head(4, 0)),
    'mobilenet': mobilenet(),
    'mit': mit(),
    'fpn': fpn(),
    'cascade': ocr_cascade(),
    'efficientnet': efficientnet(),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Any:
    return frozen(without_later_stages(build(NETWORKS[request.param])))


def tensor_layers(network: Any) -> list[str]:
    """The layers that run and put out one tensor."""
    names = []
    for name, _ in network.named_modules():
        try:
            if name and name in runner(network, [name])():
                names.append(name)
        except ShapeError:
            continue
    return names


def test_all_batchnorm_of_mmsegs_networks_is_folded(network: Any) -> None:
    network = copy.deepcopy(network)
    norms = [n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    layers = ['auxiliary_head.conv_seg'] if hasattr(network, 'auxiliary_head') else []
    folding = fold(network, *layers)
    assert sorted(folding.folded) == sorted(norms)
    assert len(norms) >= 3
    assert folding.kept == []
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert not any(p.requires_grad for p in network.parameters())


def test_every_layer_of_a_network_keeps_its_output_when_it_is_tapped(network: Any) -> None:
    layers = tensor_layers(network)
    assert len(layers) > 40
    last = ['auxiliary_head.conv_seg'] if 'auxiliary_head.conv_seg' in layers else []
    everything = set(fold(copy.deepcopy(network), *last).folded)
    convs = 0
    for layer in layers:
        tapped = copy.deepcopy(network)
        is_conv = isinstance(tapped.get_submodule(layer), nn.Conv2d)
        stays = everything - set(fold(tapped, layer, *last).folded)
        # A tap takes one BatchNorm, behind the convolution that is tapped, out of the folding.
        assert len(stays) <= is_conv
        convs += len(stays)
    assert convs == len(everything)


# What a tap on one of the two does.


def test_a_tap_on_the_convolution_keeps_its_batchnorm() -> None:
    assert fold(pair(in_a_row), 'conv') == Folding([], [])


def test_a_tap_that_is_copied_keeps_its_batchnorm_too() -> None:
    net = pair(in_a_row)
    # What the recorder keeps is then not the very tensor that the convolution put out.
    assert fold_batchnorm(net, runner(net, ['conv'], ['conv'])) == Folding([], [])


def test_a_tap_on_the_batchnorm_gives_the_folded_convolution() -> None:
    net = pair(in_a_row)
    assert fold(net, 'bn') == Folding(['bn'], [])
    with Recorder(net, ['conv', 'bn']) as taps:
        net(images())
        assert taps['bn'] is taps['conv']


def test_a_tap_on_what_hands_on_the_convolution_keeps_its_batchnorm() -> None:
    net = pair(in_a_row, conv=nn.Sequential(conv(), nn.Identity()))
    assert fold(net, 'conv') == Folding([], [])
    assert fold(net) == Folding(['bn'], [])


@pytest.mark.parametrize('layer', ['bn', 'bn.drop', 'bn.act'])
def test_an_activation_inside_the_batchnorm_stays_under_its_name(layer: str) -> None:
    net = pair(
        lambda net, x: net.bn(net.conv(x)) * 2,
        bn=BatchNormAct2d(4, act_layer=nn.ReLU, drop_layer=nn.Identity),
    )
    expected = runner(net, [layer], [layer])()[layer]
    assert (expected.min() < 0) == (layer == 'bn.drop')
    # In place: what the recorder must copy is the same as before.
    folding = fold_batchnorm(net, runner(net, [layer], [layer]))
    assert folding == Folding(['bn'], [])
    torch.testing.assert_close(runner(net, [layer], [layer])()[layer], expected, **TOLERANCE)


# Which pairs are folded.


@pytest.mark.parametrize(
    'children',
    [
        dict(conv=conv(bias=False)),
        dict(conv=conv(stride=2, padding=2, dilation=2)),
        dict(conv=conv(padding=1, padding_mode='reflect')),
        dict(conv=nn.Conv2d(3, 6, 3, groups=3), bn=nn.BatchNorm2d(6)),
        dict(bn=nn.BatchNorm2d(4, affine=False)),
        dict(bn=nn.BatchNorm2d(4, eps=0.5)),
        dict(bn=nn.SyncBatchNorm(4)),
    ],
    ids=['no bias', 'dilated', 'reflecting', 'depthwise', 'not affine', 'eps', 'SyncBN'],
)
def test_kinds_of_pairs(children: dict[str, nn.Module]) -> None:
    net = pair(in_a_row, **children)
    assert fold(net) == Folding(['bn'], [])
    assert set(net.state_dict()) == {'conv.weight', 'conv.bias'}


def test_arithmetic_is_that_of_float64() -> None:
    net = pair(in_a_row)
    exact = copy.deepcopy(net)
    fold_batchnorm(exact, runner(exact))
    half = net.half()
    rounded = copy.deepcopy(half).double()
    fold_batchnorm(rounded, runner(rounded))
    with torch.no_grad():
        fold_batchnorm(half, lambda: {'': half(images().half())})
    assert half.conv.weight.dtype == half.conv.bias.dtype == torch.float16
    assert torch.equal(half.conv.weight, rounded.conv.weight.half())
    assert torch.equal(half.conv.bias, rounded.conv.bias.half())


def test_random_state_and_images_are_left_alone() -> None:
    net = pair(in_a_row)
    state = torch.random.get_rng_state()
    fold_batchnorm(net, runner(net))
    assert torch.equal(torch.random.get_rng_state(), state)


# Which are not, and are not even tried: the run shows that more than the BatchNorm is concerned.


def residual(net: Any, x: Tensor) -> Tensor:
    out = net.conv(x)
    return net.bn(out) + out


def changed_before(net: Any, x: Tensor) -> Tensor:
    out = net.conv(x)
    out.mul_(2)
    return net.bn(out)


def gated(net: Any, x: Tensor) -> Tensor:
    out = net.conv(x)
    return net.bn(out) * out.flatten(2).mean(-1)[..., None, None].sigmoid()


def listed(net: Any, x: Tensor) -> Tensor:
    out = net.conv(x)
    return torch.cat([net.bn(out), out], 1)


def read_first(net: Any, x: Tensor) -> Tensor:
    out = net.conv(x)
    scale = out.amax()
    return net.bn(out) / scale


def taken_out(net: Any, x: Tensor) -> Tensor:
    out = net.conv(x)
    return net.bn(out) + float(out.numpy().mean())


@pytest.mark.parametrize(
    'forward', [residual, changed_before, gated, listed, read_first, taken_out]
)
def test_an_output_that_is_used_elsewhere(forward: Callable[[Any, Tensor], Tensor]) -> None:
    assert fold(pair(forward)) == Folding([], [])


CONV, NORM = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
BARE = nn.BatchNorm2d(3, affine=False)
TWIN = nn.Conv2d(3, 3, 3, padding=1)
TWIN.weight = CONV.weight


@pytest.mark.parametrize(
    ('forward', 'children'),
    [
        (lambda net, x: net.bn(net.conv(net.conv(x))), dict(conv=CONV, bn=NORM)),
        (lambda net, x: net.bn(net.conv(x)) + net.conv(x), dict(conv=CONV, bn=NORM)),
        (lambda net, x: net.bn(net.bn(net.conv(x))), dict(conv=CONV, bn=NORM)),
        (lambda net, x: net.bn(net.conv(x)) + net.bn(x), dict(conv=CONV, bn=NORM)),
        (lambda net, x: net.bn(net.conv(x)), dict(conv=CONV, bn=NORM, again=CONV)),
        (lambda net, x: net.bn(net.conv(x)), dict(conv=CONV, bn=NORM, again=NORM)),
        (lambda net, x: net.bn(net.conv(x)), dict(conv=CONV, bn=BARE, again=BARE)),
        (lambda net, x: net.bn(net.conv(net.twin(x))), dict(conv=CONV, bn=NORM, twin=TWIN)),
        (lambda net, x: net.bn(net.conv(x).relu()), dict(conv=CONV, bn=NORM)),
        (lambda net, x: net.bn(x) + net.conv(x), dict(conv=CONV, bn=NORM)),
        (lambda net, x: net.conv(net.bn(x)), dict(conv=CONV, bn=NORM)),
        (lambda net, x: net.conv(x), dict(conv=CONV, bn=NORM)),
    ],
    ids=[
        'convolution in a row with itself',
        'convolution used twice',
        'BatchNorm in a row with itself',
        'BatchNorm used twice',
        'convolution with two names',
        'BatchNorm with two names',
        'BatchNorm with two names and no weights',
        'weights shared',
        'something between',
        'side by side',
        'BatchNorm first',
        'BatchNorm does not run',
    ],
)
def test_pairs_that_are_none(
    forward: Callable[[Any, Tensor], Tensor], children: dict[str, nn.Module]
) -> None:
    net = pair(forward, **copy.deepcopy(children))
    assert fold(net) == Folding([], [])


def test_only_frozen_layers_in_eval_mode() -> None:
    for part in ('conv', 'bn'):
        net = pair(in_a_row)
        next(net.get_submodule(part).parameters()).requires_grad_(True)
        assert fold(net) == Folding([], [])
    net = pair(in_a_row)
    net.bn.train()
    assert fold_batchnorm(net, runner(net)) == Folding([], [])


def test_batchnorm_without_statistics_stays() -> None:
    net = pair(in_a_row, bn=nn.BatchNorm2d(4, track_running_stats=False))
    assert fold(net) == Folding([], [])


@pytest.mark.parametrize('part', ['conv', 'bn'])
def test_layers_with_hooks_of_their_own_stay(part: str) -> None:
    net = pair(in_a_row)
    net.get_submodule(part).register_forward_hook(lambda module, args, output: output * 2)
    assert fold_batchnorm(net, runner(net)) == Folding([], [])


def test_weights_that_are_computed_stay() -> None:
    for wrap in (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm):
        net = pair(in_a_row, conv=wrap(conv()))
        assert fold(net) == Folding([], [])


# Which are tried and undone, because the outputs say so.


class OddNorm(nn.BatchNorm2d):
    """A subclass can compute anything."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square()


def test_a_subclass_of_batchnorm_is_not_tried() -> None:
    assert fold(pair(in_a_row, bn=OddNorm(4))) == Folding([], [])


def reads_weight(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.conv(x)) * net.conv.weight.mean((1, 2, 3))[:, None, None]


def reads_norm(net: Any, x: Tensor) -> Tensor:
    return net.bn(net.conv(x)) * net.bn.weight[:, None, None]


def holds_norm(net: Any, x: Tensor) -> Tensor:
    (norm,) = net.norms
    return norm(net.conv(x))


@pytest.mark.parametrize(
    ('forward', 'children'),
    [
        (in_a_row, dict(conv=StdConv2d(3, 4, 3))),
        (reads_weight, {}),
        (reads_norm, {}),
        (holds_norm, {}),
    ],
    ids=['weights are standardised', 'weights are read', 'BatchNorm is read', 'BatchNorm is held'],
)
def test_a_fold_that_changes_the_output_is_undone(
    forward: Callable[[Any, Tensor], Tensor], children: dict[str, nn.Module]
) -> None:
    net = pair(forward, **children)
    net.norms = [net.bn]
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modules = dict(net.named_modules())
    assert fold(net) == Folding([], ['bn'])
    assert dict(net.named_modules()) == modules
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize('guilty', [(0,), (6,), (2, 3), (0, 5)])
def test_only_what_is_to_blame_is_undone(guilty: tuple[int, ...]) -> None:
    kinds = [StdConv2d if i in guilty else nn.Conv2d for i in range(7)]
    parts = [(kind(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh()) for kind in kinds]
    torch.manual_seed(0)
    net = frozen(nn.Sequential(*(layer for part in parts for layer in part)))
    folding = fold(net)
    assert folding.kept == [str(3 * i + 1) for i in guilty]
    assert folding.folded == [str(3 * i + 1) for i in range(7) if i not in guilty]


def test_a_run_that_fails_leaves_nothing_behind() -> None:
    def fails(net: Any, x: Tensor) -> Tensor:
        net.bn(net.conv(x))
        raise RuntimeError('out of memory')

    net = pair(fails)
    with pytest.raises(RuntimeError, match='out of memory'):
        fold_batchnorm(net, runner(net))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert isinstance(net.bn, nn.BatchNorm2d)
