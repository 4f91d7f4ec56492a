"""Terms and differences of configs, and the commands that repeat a run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from builders import term
from mmengine.config import Config

from mmseg_kd.cli import train
from mmseg_kd.report.configuration import call, differences, term_rows
from mmseg_kd.report.environment import commands, commit_of
from mmseg_kd.report.run import Run


def run(title: str, *terms: dict[str, Any], role: str = 'student', **config: Any) -> Run:
    model = dict(type='DistillationWrapper', distillation=list(terms))
    return Run(title, Path('work dirs') / title, role, config=Config(dict(model=model, **config)))


def test_terms_are_listed_as_calls() -> None:
    schedule = [dict(type='LinearWarmup', end=10), dict(type='LinearDecay', begin=20, end=30)]
    loss = dict(type='CGDLoss', group_size=2, tau=4.0)
    [row] = term_rows([run('a', term(loss=loss, weight=0.5, schedule=schedule, teacher='b'))])
    assert (row.run, row.name) == ('a', 'term 0')
    assert row.cells == [
        'CGDLoss(group_size=2, tau=4.0)',
        'decode_head.conv_seg',
        'decode_head.conv_seg',
        '0.5',
        'LinearWarmup(end=10) · LinearDecay(begin=20, end=30)',
        "teacher='b'",
    ]
    assert term_rows([run('a', role='baseline')]) == []


def test_weights_that_set_themselves() -> None:
    weights = ['auto', dict(share=0.5, conflict='drop')]
    rows = term_rows([run('a', *(term(weight=weight) for weight in weights))])
    assert [row.cells[3] for row in rows] == ['auto', 'share=0.5, conflict=drop']


def test_broken_terms_are_listed_as_they_are() -> None:
    broken = dict(student_layer=None, teacher_layer=['x', 'y'], loss='KLLoss', weight='much')
    [row] = term_rows([run('a', broken, 'no dict')])  # type: ignore[arg-type]
    assert row.cells[:4] == ["'KLLoss'", 'None', 'x, y', 'much']


def test_values_are_written_as_plain_ones() -> None:
    config = Config(dict(a=dict(b=[dict(type='X', c=(1, 'two'))])))
    assert call(config.a) == "{'b': [{'type': 'X', 'c': (1, 'two')}]}"
    assert call(config.a.b[0]) == "X(c=(1, 'two'))"


def test_differences_are_those_of_the_experiment() -> None:
    loss = dict(type='CDLoss', tau=4.0)
    first = run(
        'a', term(loss=loss, weight=3.0), train_cfg=dict(max_iters=10), work_dir='x', mine=1
    )
    second = run('b', term(loss=loss, weight=6.0), train_cfg=dict(max_iters=10), work_dir='y')
    base = run('c', role='baseline', train_cfg=dict(max_iters=20), launcher='slurm')
    assert differences([first, second, base]) == (
        ['a', 'b', 'c'],
        [
            ('model.distillation.0.weight', ['3.0', '6.0', '']),
            ('train_cfg.max_iters', ['10', '10', '20']),
        ],
    )
    assert differences([first, base]) == (['a', 'c'], [('train_cfg.max_iters', ['10', '20'])])
    assert differences([first, run('t', role='teacher')]) == ([], [])


def test_commands_are_those_of_the_run() -> None:
    one = run('a', randomness=dict(seed=3, deterministic=True))
    one.config_file, one.checkpoint = Path('work dirs/a/config.py'), 'work dirs/a/best.pth'
    [found] = commands([one, run('no file')])
    assert found.lines == [
        "mmseg-kd train 'work dirs/a/config.py' --work-dir 'work dirs/a_again' --seed 3 "
        '--deterministic',
        "mmseg-kd test 'work dirs/a/config.py' 'work dirs/a/best.pth' "
        "--work-dir 'work dirs/a_test'",
    ]
    one.log.environment = {'Distributed launcher': 'pytorch', 'GPU number': '8'}
    assert (
        commands([one])[0]
        .lines[0]
        .startswith("mmseg-kd launch 8 train 'work dirs/a/config.py' --work-dir")
    )


def test_a_resumed_run_is_repeated_from_its_beginning() -> None:
    one = run('a', resume=True, load_from='a/iter_2.pth')
    one.config_file = Path('config.py')
    [command] = commands([one])[0].lines
    _, _, *arguments = shlex.split(command)
    options = train._parser().parse_args(arguments).cfg_options
    assert options == {'resume': False, 'load_from': None}


def test_commit_is_read_from_behind_the_version() -> None:
    one = run('a')
    assert commit_of(one) is None
    for version in ('0.10.12', '0.10.7unknown'):
        one.meta = dict(mmengine_version=version)
        assert commit_of(one) is None
    for commit in ('e' * 40, '12' * 20):
        one.meta = dict(mmengine_version=f'0.10.12{commit}')
        assert commit_of(one) == commit
