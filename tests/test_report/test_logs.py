"""What is read from logs, whole, torn and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_logs import train_line, val_line, write_start

from mmseg_kd.report.logs import environment_of, printed_classes, read_logs

HEAD = """2026/01/01 14:11:17 - mmengine - INFO -
------------------------------------------------------------
System environment:
    sys.platform: linux
    Python: 3.11.7 (main, May  9 2026, 07:35:25) [GCC 12.2.0]
    PyTorch: 2.6.0
    PyTorch compiling details: PyTorch built with:
  - GCC 13.3
  - Build settings: A=1, B=2: 3

    TorchVision: 0.21.0

Runtime environment:
    seed: 0
    mp_cfg: {'mp_start_method': 'fork', 'opencv_num_threads': 0}
    GPU number: 2
------------------------------------------------------------

2026/01/01 14:11:17 - mmengine - INFO - Config:
    seed: 7
"""


def table(*rows: str, score: float = 50.0, images: int = 51) -> str:
    return '\n'.join(
        [
            '2026/01/01 - mmengine - INFO - per class results:',
            '2026/01/01 - mmengine - INFO - ',
            '+---+---+---+',
            '|  Class  |  IoU  |  Acc  |',
            '+---+---+---+',
            *rows,
            '+---+---+---+',
            f'2026/01/01 - mmengine - INFO - Iter(val) [{images}/51]  aAcc: 9.0  mIoU: {score:.4f}',
            '',
        ]
    )


def test_environment_is_that_of_the_head() -> None:
    assert environment_of(HEAD) == {
        'sys.platform': 'linux',
        'Python': '3.11.7 (main, May  9 2026, 07:35:25) [GCC 12.2.0]',
        'PyTorch': '2.6.0',
        'TorchVision': '0.21.0',
        'seed': '0',
        'mp_cfg': "{'mp_start_method': 'fork', 'opencv_num_threads': 0}",
        'GPU number': '2',
    }
    assert environment_of('') == {}
    torn = HEAD[: HEAD.index(' (main')]
    assert environment_of(torn) == {'sys.platform': 'linux', 'Python': '3.11.7'}


def test_table_of_classes_is_the_last_whole_one() -> None:
    first = table('|   Sky   | 90.0 | 95.0 |', score=90)
    second = table(
        '| Sky | 91.5 | 95.0 |', '| a | b | nan | nan |', '| <b> | 0.0 | 0.0 |', score=45
    )
    score, classes = printed_classes(first + second) or (0, {})
    assert score == 45
    assert list(classes) == ['Sky', 'a | b', '<b>']
    assert classes['Sky'] == 91.5
    assert classes['a | b'] != classes['a | b']
    # A validation that was killed has no line with its mIoU.
    torn = first + second[: second.index('Iter(val)')]
    assert printed_classes(torn) == (90, {'Sky': 90.0})
    assert printed_classes('nothing of this kind') is None


def write_log(folder: Path, start: str, text: str) -> None:
    (folder / start / f'{start}.log').write_text(text, encoding='utf-8')


def test_resumed_run_is_one_without_double_iterations(tmp_path: Path) -> None:
    first = [train_line(i, 10.0 - i / 100) for i in (100, 200, 300)]
    first.insert(2, val_line(200, 40.0))
    write_start(tmp_path, '20260101_000000', [*first, '{"loss": 1.2, "it'])
    write_log(tmp_path, '20260101_000000', HEAD + table('| Sky | 40.0 | 1 |', score=40))
    second = [train_line(300, 5.0), train_line(400, 4.0), val_line(400, 55.0)]
    write_start(tmp_path, '20260102_000000', second)
    write_log(tmp_path, '20260102_000000', HEAD.replace('2.6.0', '2.7.0'))
    log = read_logs(tmp_path)
    assert [start.name for start in log.starts] == ['20260101_000000', '20260102_000000']
    assert log.train['loss'] == [(100, 9.0), (200, 8.0), (300, 5.0), (400, 4.0)]
    assert log.validations == {
        200: {'aAcc': 90.0, 'mIoU': 40.0},
        400: {'aAcc': 90.0, 'mIoU': 55.0},
    }
    assert log.unread == 1
    assert log.last_iteration == 400
    assert log.median('time') == 0.5
    assert log.environment['PyTorch'] == '2.7.0'
    # The later log has no table yet: the one there is belongs to the validation before.
    assert (log.classes, log.classes_at) == ({'Sky': 40.0}, 200)


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    lines = [train_line(1, 1.0), train_line(2, float('nan')), train_line(3, float('inf'))]
    write_start(tmp_path, '20260101_000000', lines)
    assert read_logs(tmp_path).train['loss'] == [(1, 1.0)]


@pytest.mark.parametrize(
    ('content', 'unread'),
    [('', 0), ('\n', 0), ('{"torn', 1), ('\x00\x01', 1), ('[1]\n"a"\nnull', 3)],
)
def test_logs_with_nothing_in_them(tmp_path: Path, content: str, unread: int) -> None:
    write_start(tmp_path, '20260101_000000', [content], end='')
    log = read_logs(tmp_path)
    assert log.starts == []
    assert log.train == {}
    assert log.median('time') is None
    assert log.last_iteration == 0
    assert log.unread == unread


def test_no_logs(tmp_path: Path) -> None:
    log = read_logs(tmp_path)
    assert (log.starts, log.unread) == ([], 0)
