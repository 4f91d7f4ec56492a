from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from mmseg_kd.hooks.live_progress import LiveProgress, Stage

ENTRIES = [
    [('loss', '1.234'), ('decode.loss_ce', '0.912')],
    [('kd.decode_head_attention_of_the_last_block', '0.322'), ('', '9 images/s')],
]


def drawn(what: RenderableType, width: int, **settings: object) -> list[str]:
    file = io.StringIO()
    defaults = dict(force_terminal=True, soft_wrap=True, color_system=None)
    Console(file=file, width=width, **(defaults | settings)).print(what)  # type: ignore[arg-type]
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_wide_terminal() -> None:
    stages = [Stage('train', 400, 1200, 3725.9), Stage('val', 25, 100)]
    assert drawn(LiveProgress(stages, ENTRIES), 80) == [
        'train  ━━━━━━━━━━━━━━━                                400/1200  33%  eta 1:02:05',
        'val    ━━━━━━━━━━━                                    25/100    25%  eta -:--:--',
        'loss 1.234  decode.loss_ce 0.912',
        'kd.decode_head_attention_of_the_last_block 0.322  9 images/s',
    ]


def test_a_narrow_terminal() -> None:
    """The count stays, before time, bar and percentage; no entry is torn in two."""
    stage = LiveProgress([Stage('train', 41234, 160000, 90000.0)], ENTRIES)
    assert drawn(stage, 40) == [
        'train  41234/160000  eta 1 day, 1:00:00',
        'loss 1.234  decode.loss_ce 0.912',
        'kd.decode_head_a..f_the_last_block 0.322',
        '9 images/s',
    ]
    assert drawn(stage, 30)[:3] == ['train  41234/160000', 'loss 1.234', 'decode.loss_ce 0.912']


def test_entries_of_a_group_are_below_each_other() -> None:
    terms = [('kd.cgd', '0.322'), ('kd_weight.cgd', '3.000'), ('kd.at', '12.5'), ('x', '0.1')]
    assert drawn(LiveProgress([Stage('train', 1, 2)], [terms]), 30)[1:] == [
        'kd.cgd 0.322',
        'kd_weight.cgd 3.000',
        'kd.at 12.5',
        'x 0.1',
    ]
    assert drawn(LiveProgress([Stage('train', 1, 2)], [terms]), 40)[1:] == [
        'kd.cgd 0.322  kd_weight.cgd 3.000',
        'kd.at 12.5    x 0.1',
    ]


@pytest.mark.parametrize('width', [1, 8, 20, 33, 40, 41, 57, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    stages = [Stage('train', 41234, 160000, 5.0), Stage('val', 0, 0)]
    lines = drawn(LiveProgress(stages, ENTRIES), width)
    assert max(map(cell_len, lines)) <= width


def test_colours_and_none() -> None:
    stage = LiveProgress([Stage('train', 1, 2)])
    assert '\x1b[38;5;' in drawn(stage, 80, color_system='256')[0]
    assert '\x1b[3' not in drawn(stage, 80, color_system='256', no_color=True)[0]


@pytest.mark.parametrize('width', [1, 8, 40, 60])
def test_a_terminal_without_unicode(width: int) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    console = Console(
        file=file, width=width, force_terminal=True, color_system=None, soft_wrap=True
    )
    console.print(LiveProgress([Stage('train', 4, 8)], ENTRIES))
    file.seek(0)
    lines = file.read().splitlines()
    assert len(lines) >= 3
    assert ('train  ----' in lines[0]) is (width == 60)
