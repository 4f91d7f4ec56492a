from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import batch, build, mit, resnet, save_weights, term, wrapper_config
from torch import Tensor, nn

from mmseg_kd.host.bfloat16_optim_wrapper import BFloat16OptimWrapper


@pytest.fixture
def network(tmp_path: Path) -> Any:
    teacher = save_weights(mit(16), tmp_path / 'teacher.pth')
    return build(wrapper_config(resnet(4), mit(16), teacher, term(loss='KLLoss', name='kl')))


def wrapped(network: nn.Module, **kwargs: Any) -> BFloat16OptimWrapper:
    return BFloat16OptimWrapper(torch.optim.SGD(network.parameters(), lr=0.01), **kwargs)


def test_layers_are_in_bfloat16_and_losses_as_in_float32(network: Any) -> None:
    kinds: dict[str, torch.dtype] = {}

    def note(name: str) -> Any:
        return lambda _module, _inputs, output: kinds.update({name: output.dtype})

    network.student.backbone.stem[0].register_forward_hook(note('student'))
    next(iter(network.teachers.values())).decode_head.conv_seg.register_forward_hook(
        note('teacher')
    )
    network.train()
    with torch.no_grad():
        plain = network(**network.data_preprocessor(batch(), True), mode='loss')
    assert kinds == dict(student=torch.float32, teacher=torch.float32)
    log: dict[str, Tensor] = network.train_step(batch(), wrapped(network))
    assert kinds == dict(student=torch.bfloat16, teacher=torch.bfloat16)
    for name in ('kd.kl', 'decode.loss_ce'):
        assert log[name].dtype == torch.float32
        torch.testing.assert_close(log[name], plain[name].detach(), rtol=0.03, atol=0.0)
        assert log[name] != plain[name]
    learnt = [p for p in network.parameters() if p.requires_grad]
    assert {p.dtype for p in learnt} == {torch.float32}


def test_gradients_are_accumulated(network: Any) -> None:
    network.train()
    wrapper = wrapped(network, accumulative_counts=2)
    weight = network.student.decode_head.conv_seg.weight
    before = weight.detach().clone()
    network.train_step(batch(), wrapper)
    assert torch.equal(weight, before)
    network.train_step(batch(), wrapper)
    assert not torch.equal(weight, before)
