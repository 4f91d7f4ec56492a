from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from mmseg_kd.errors import ShapeError
from mmseg_kd.networks.recorder import ForwardStopped, Recorder


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1))


def hooks_of(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


IMAGES = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError('out of memory')


def test_outputs_of_named_layers() -> None:
    network = make_network()
    with Recorder(network, ['1', '2']) as taps:
        out = network(IMAGES)
        assert taps['2'] is out
        assert '1' in taps
        assert '0' not in taps
        assert set(taps.outputs) == {'1', '2'}
    expected = network[0](IMAGES).relu()
    with Recorder(network, ['1']) as taps:
        network(IMAGES)
        assert torch.equal(taps['1'], expected)


def test_layer_inside_a_layer() -> None:
    network = nn.Sequential(nn.Sequential(make_network()))
    with Recorder(network, ['0.0.2', '0']) as taps:
        network(IMAGES)
        assert taps['0.0.2'] is taps['0']


def test_gradient_reaches_the_network() -> None:
    network = make_network()
    with Recorder(network, ['0'], modified_in_place=['0']) as taps:
        network(IMAGES)
        taps['0'].sum().backward()
    assert network[0].weight.grad is not None
    assert network[2].weight.grad is None


def test_hooks_and_outputs_go_with_the_context() -> None:
    network = make_network()
    with Recorder(network, ['0', '2']) as taps:
        network(IMAGES)
        assert hooks_of(network) == 2
    assert hooks_of(network) == 0
    assert taps.outputs == {}
    assert taps.modified_in_place == set()
    network(IMAGES)
    assert taps.outputs == {}


@pytest.mark.parametrize('run', [lambda n: n(IMAGES), lambda n: n(IMAGES[:, :2])])
def test_hooks_go_where_the_forward_raises(run: Callable[[nn.Module], Tensor]) -> None:
    network = nn.Sequential(make_network(), Failing())
    recorder = Recorder(network, ['0', '1'])
    with pytest.raises(RuntimeError), recorder:
        run(network)
    assert hooks_of(network) == 0
    assert recorder.outputs == {}


def test_recorder_can_be_entered_again() -> None:
    network = make_network()
    recorder = Recorder(network, ['2'], calls={})
    for _ in range(2):
        with recorder, suppress(ForwardStopped):
            network(IMAGES)
        assert hooks_of(network) == 0


def test_stops_when_every_layer_has_fired() -> None:
    network = nn.Sequential(make_network(), nn.Identity(), Failing())
    with Recorder(network, ['0.2', '1'], calls={}) as taps, pytest.raises(ForwardStopped):
        network(IMAGES)
    with Recorder(network, ['1', '0.2'], calls={}) as taps:
        with suppress(ForwardStopped):
            network(IMAGES)
        assert set(taps.outputs) == {'0.2', '1'}


def test_stops_after_the_last_call_of_a_layer() -> None:
    relu = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(3, 3, 1), relu, nn.Conv2d(3, 3, 1), relu, Failing())
    with Recorder(network, ['1']) as taps:
        network[:4](IMAGES)
        assert taps.calls == {'1': 2}
        last = taps['1']
    with Recorder(network, ['1'], calls={'1': 2}) as taps:
        with suppress(ForwardStopped):
            network(IMAGES)
        assert torch.equal(taps['1'], last)


def test_stop_is_not_caught_as_an_exception() -> None:
    assert not issubclass(ForwardStopped, Exception)


def test_layer_that_runs_twice_leaves_its_last_output() -> None:
    layer = nn.Conv2d(3, 3, 1)
    network = nn.Sequential(layer, nn.Sigmoid(), layer)
    with Recorder(network, ['0']) as taps:
        out = network(IMAGES)
        assert taps['0'] is out


def test_changed_in_place() -> None:
    network = make_network()
    with Recorder(network, ['0', '1', '2']) as taps:
        network(IMAGES)
        # The ReLU puts out the tensor that it changed, after the change.
        assert taps.modified_in_place == {'0'}
        assert taps['0'].min() >= 0


def test_clone_keeps_what_the_layer_put_out() -> None:
    network = make_network()
    expected = network[0](IMAGES)
    assert expected.min() < 0
    with Recorder(network, ['0'], modified_in_place=['0']) as taps:
        network(IMAGES)
        assert torch.equal(taps['0'], expected)
        assert taps.modified_in_place == set()


def test_output_that_is_no_tensor() -> None:
    network = nn.Sequential(Pair())
    with (
        Recorder(network, ['0']),
        pytest.raises(ShapeError, match=r"layer '0' \(Pair\) puts out a tuple, not one tensor"),
    ):
        network(IMAGES)
    assert hooks_of(network) == 0
