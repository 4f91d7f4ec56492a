"""Parameters and operations of the networks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from builders import build, fcn_head, mit, resnet, term, wrapper_config, write_config
from torch import Tensor, nn

from mmseg_kd.cli.get_flops import main
from mmseg_kd.evaluation.complexity import complexity

STUDENT = resnet(4, auxiliary_head=fcn_head(4, 0))


def config(folder: Path, model: dict[str, Any] | None = None) -> str:
    """A distillation; neither its data nor the teacher's file exist."""
    model = model or wrapper_config(STUDENT, resnet(8), 'absent.pth', term())
    return str(write_config(folder, model, folder / 'absent'))


def rows(out: str) -> dict[str, tuple[str, str]]:
    return {
        n: (p, f) for n, p, f in re.findall(r'^\| (.+?) +\| +([\w. ]+) \| +(.+?) \|$', out, re.M)
    }


class OneConv(nn.Module):
    """A convolution under the interface of a network."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, images_NCHW: Tensor) -> Any:
        return self.backbone(images_NCHW)


class Attention(OneConv):
    """The same, and attention among its pixels."""

    def forward(self, images_NCHW: Tensor) -> Any:
        tokens_NLC = super().forward(images_NCHW).flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens_NLC, tokens_NLC[:, :7], tokens_NLC[:, :7])


def test_a_multiply_add_is_counted_once() -> None:
    cost = complexity(OneConv(), (6, 5)).whole
    assert cost.parameters == 3 * 9 * 4 + 4
    assert cost.flops == 3 * 9 * 4 * 6 * 5
    # Grey images have a third of that.
    assert complexity(OneConv(1), (6, 5)).whole.flops == 9 * 4 * 6 * 5


def test_products_of_attention_that_computes_no_weights_are_counted() -> None:
    more = complexity(Attention(), (6, 5)).whole.flops - complexity(OneConv(), (6, 5)).whole.flops
    assert more == 2 * (6 * 5) * 7 * 4


def test_products_of_mmsegs_attention_are_counted() -> None:
    """A step between two sizes: linear parts grow with the pixels, attention with their square."""
    network = build(mit())
    small, large = (complexity(network, (side, side)).parts['backbone'].flops for side in (64, 128))
    # Stage 1 has (side/4)^2 tokens of 8 channels and (side/16)^2 keys, stage 2 (side/8)^2 of 16.
    products = 2 * (16**2 * 4**2 * 8 + 8**2 * 4**2 * 16)
    assert large - 4 * small == (16 - 4) * products


@pytest.mark.parametrize('model', [STUDENT, mit()])
def test_the_parts_add_up_to_the_whole(model: dict[str, Any]) -> None:
    found = complexity(build(model), (64, 64))
    assert sum(part.flops for part in found.parts.values()) == found.whole.flops
    assert sum(part.parameters for part in found.parts.values()) == found.whole.parameters


def test_the_table_has_both_networks_their_parts_and_the_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([config(tmp_path), '--shape', '64', '96']) == 0
    out = capsys.readouterr().out
    table = rows(out)
    student = complexity(build(STUDENT), (64, 96))
    teacher = complexity(build(resnet(8)), (64, 96))
    assert table['student'] == (
        f'{student.whole.parameters / 1e6:.3f} M',
        f'{student.whole.flops / 1e9:.3f}',
    )
    assert list(table)[-1] == 'teacher / student'
    assert table['teacher / student'] == (
        f'{teacher.whole.parameters / student.whole.parameters:.1f} x',
        f'{teacher.whole.flops / student.whole.flops:.1f} x',
    )
    assert table['- auxiliary_head'][1] == '-'
    assert 'For one image of 64x96.' in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_image_is_by_default_what_the_config_feeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = wrapper_config(STUDENT, resnet(8), 'absent.pth', term(), input_size=(64, 64))
    assert main([config(tmp_path, teacher)]) == 0
    out = capsys.readouterr().out
    assert 'For one image of 32x32; the teacher scales it to (64, 64).' in out.replace('\n', ' ')
    large = complexity(build(resnet(8)), (64, 64)).whole.flops
    assert rows(out)['teacher'][1] == f'{large / 1e9:.3f}'


def test_a_network_on_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([config(tmp_path, resnet())]) == 0
    assert list(rows(capsys.readouterr().out)) == [
        'network',
        'model',
        '- backbone',
        '- decode_head',
    ]


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([config(tmp_path), '--shape', '0', '5']) == 1
    assert 'a height and a width >= 1, got (0, 5)' in capsys.readouterr().err
    assert main([config(tmp_path, resnet(data_preprocessor=None))]) == 1
    assert 'give --shape H W' in capsys.readouterr().err
