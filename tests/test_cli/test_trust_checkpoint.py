"""A checkpoint that would write a file, on every road by which a command reads one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    RunsCode,
    resnet,
    save_weights,
    term,
    wrapper_config,
    write_config,
    write_dataset,
)
from mmengine.registry import init_default_scope

from mmseg_kd.cli import convert_segdistill
from mmseg_kd.cli import list_layers as layers
from mmseg_kd.cli import test as test_command
from mmseg_kd.cli import train as train_command

Command = tuple[Any, list[str]]


class Files:
    """Sound checkpoints, and the same with code in them, which writes `target`.

    Args:
        folder: Has a data set, the weights of a teacher and a run of one iteration.
        own: A folder for this test alone.
    """

    def __init__(self, folder: Path, own: Path) -> None:
        self.folder = folder
        self.own = own
        self.target = own / 'written'
        self.teacher = self.with_code('teacher.pth')
        self.run = self.with_code('work/iter_1.pth')

    def with_code(self, name: str) -> str:
        content = torch.load(self.folder / name, weights_only=False)
        content = content if 'state_dict' in content else dict(state_dict=content)
        path = self.own / Path(name).name
        torch.save({**content, 'more': RunsCode(open, str(self.target), 'w')}, path)
        return str(path)

    def config(self, student: dict[str, Any] | None = None, teacher: str | None = None) -> str:
        # Without terms no teacher is read, nor even built.
        terms = [] if teacher is None else [term()]
        model = wrapper_config(student or resnet(4), resnet(8), teacher or '', *terms)
        return str(write_config(self.own, model, self.folder / 'data'))

    def with_backbone(self, **changes: Any) -> str:
        model = resnet(4)
        return self.config({**model, 'backbone': {**model['backbone'], **changes}})


def train(config: str, *options: str) -> Command:
    return train_command, [config, *options, '--cfg-options', 'train_cfg.max_iters=2']


def newest(files: Files) -> Command:
    work = files.own / 'work'
    work.mkdir()
    (work / 'last_checkpoint').write_text(files.run, encoding='utf-8')
    return train(files.config(), '--resume', '--allow-changes')


def converted(files: Files) -> Command:
    arguments = ['checkpoint', files.run, str(files.own / 'new.pth'), '--config', files.config()]
    return convert_segdistill, arguments


def pretrained(files: Files) -> dict[str, Any]:
    return dict(type='Pretrained', checkpoint=files.run, prefix='student.backbone.')


ROADS: dict[str, Callable[[Files], Command]] = {
    'teacher': lambda f: train(f.config(teacher=f.teacher)),
    'student': lambda f: train(f.config({**resnet(4), 'checkpoint': f.run})),
    'init_cfg': lambda f: train(f.with_backbone(init_cfg=pretrained(f))),
    'pretrained': lambda f: train(f.with_backbone(pretrained=f.run)),
    'load_from': lambda f: (train_command, [*train(f.config())[1], f'load_from={f.run}']),
    '--resume FILE': lambda f: train(f.config(), '--resume', f.run, '--allow-changes'),
    '--resume': newest,
    'test': lambda f: (test_command, [f.config(), f.run]),
    'test --teacher': lambda f: (test_command, [f.config(teacher=f.teacher), '--teacher']),
    'convert': converted,
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    init_default_scope('mmseg')  # no fixture of a test has been here yet
    folder = tmp_path_factory.mktemp('trust')
    write_dataset(folder / 'data')
    checkpoint = save_weights(resnet(8), folder / 'teacher.pth')
    model = wrapper_config(resnet(4), resnet(8), checkpoint, term())
    config = write_config(folder, model, folder / 'data')
    options = ['train_cfg.max_iters=1', 'default_hooks.checkpoint.interval=1']
    assert train_command.main([str(config), '--cfg-options', *options]) == 0
    return folder


@pytest.mark.parametrize('road', ROADS)
def test_code_is_run_with_the_flag_alone(
    road: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Files(folder, tmp_path)
    command, arguments = ROADS[road](files)
    capsys.readouterr()
    assert command.main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: ')
    assert f'.pth: refused, because reading it would run code ({open.__module__}.open)' in err
    assert '--trust-checkpoint' in err
    assert not files.target.exists()

    # Options of the config take all words behind them.
    at = arguments.index('--cfg-options') if '--cfg-options' in arguments else len(arguments)
    assert command.main([*arguments[:at], '--trust-checkpoint', *arguments[at:]]) == 0
    assert files.target.exists()


def test_timm_runs_no_code_either(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """timm opens the file of `checkpoint_path` by itself."""
    files = Files(folder, tmp_path)
    backbone = dict(
        type='TIMMBackbone',
        model_name='mobilenetv3_small_050',
        pretrained=False,
        checkpoint_path=files.teacher,
    )
    command, arguments = train(files.config({**resnet(4), 'backbone': backbone}))
    capsys.readouterr()
    assert command.main(arguments) == 1
    assert 'io.open' in capsys.readouterr().err
    assert not files.target.exists()


def test_commands_that_read_no_checkpoint_have_no_flag(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Files(folder, tmp_path)
    config = files.config(pretrained_student(files), files.teacher)
    assert layers.main([config]) == 0
    assert not files.target.exists()
    with pytest.raises(SystemExit):
        layers.main([config, '--trust-checkpoint'])


def pretrained_student(files: Files) -> dict[str, Any]:
    return {**resnet(4), 'checkpoint': files.run, 'init_cfg': pretrained(files)}
