"""Bad files during training, validation and test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bad_files import ERRORS, spoil
from builders import resnet, same_tensors, write_config, write_dataset
from mmengine.logging import MessageHub
from torch import distributed
from training_runs import forked_ranks

from mmseg_kd.cli import test as test_command
from mmseg_kd.cli import train
from mmseg_kd.data_checks import preflight
from mmseg_kd.data_checks.checked_loading import ReportingCollate
from mmseg_kd.errors import ConfigError, DatasetError
from mmseg_kd.hooks import BadDataHook

SAMPLES = 6
EXTRA = """
train_pipeline = [
    *load,
    dict(type='RandomResize', scale=(32, 32), ratio_range=(1.0, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(32, 32)),
    dict(type='PackSegInputs'),
]
train_dataloader['dataset']['pipeline'] = train_pipeline
train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=1000)
default_hooks['checkpoint'] = dict(type='CheckpointHook', by_epoch=False, interval=4)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look before the run sees one sample."""
    monkeypatch.setattr(preflight, 'SAMPLED', 1)


class Project:
    """Data and a config.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = write_dataset(folder / 'data', train=SAMPLES)
        self.file = write_config(folder, resnet(4), self.data)
        self.config()

    def config(self, skipped: int | None = None, workers: int = 0) -> None:
        """Change the config."""
        text = self.file.read_text(encoding='utf-8').split('\n# changes')[0] + '\n# changes' + EXTRA
        text += f"train_dataloader['num_workers'] = {workers}\n"
        if skipped is not None:
            text += f"custom_hooks = [dict(type='BadDataHook', max_skipped={skipped})]\n"
        self.file.write_text(text, encoding='utf-8')

    def spoil(self, name: str, way: str, split: str = 'train') -> None:
        spoil(self.data, split, name, ERRORS[way][1])

    def train(self, work: str = 'work', *args: str, resume: Sequence[str] = ()) -> int:
        folder = str(self.folder / work)
        options = ['--cfg-options', f'visualizer.name={folder}', *args]
        return train.main([str(self.file), '--work-dir', folder, *resume, *options])

    def state(self, work: str, iteration: int = 8) -> Any:
        path = self.folder / work / f'iter_{iteration}.pth'
        return torch.load(path, weights_only=False)

    def log(self, work: str = 'work') -> str:
        path = max((self.folder / work).glob('*/*.log'))
        return path.read_text(encoding='utf-8')


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.parametrize(
    ('way', 'says', 'workers'),
    [('truncated image', 'is truncated', 2), ('value that is no class', 'holds the value 5', 0)],
)
def test_a_run_stops_at_a_bad_file(
    project: Project, capsys: pytest.CaptureFixture[str], way: str, says: str, workers: int
) -> None:
    project.spoil('3', way)
    project.config(workers=workers)
    assert project.train() == 1
    [line] = capsys.readouterr().err.splitlines()
    role = way.split()[-1] if way.startswith('truncated') else 'mask'
    assert line.startswith(f'error: train data: {role} {project.data}')
    assert f'3.{"jpg" if role == "image" else "png"} {says}' in line


@pytest.mark.parametrize('workers', [0, 2])
def test_bad_samples_are_skipped_and_a_resumed_run_is_the_same(
    project: Project, workers: int
) -> None:
    project.spoil('2', 'truncated image')
    project.spoil('4', 'mask of another size')
    project.config(skipped=2, workers=workers)
    assert project.train('whole') == 0
    log = project.log('whole')
    named = re.findall(r'skipped bad sample (\d) of at most 2: (\w+ \S+) is', log)
    assert sorted(name.split('/')[-1] for _, name in named) == ['2.jpg', '4.png']
    assert [number for number, _ in named] == ['1', '2']
    assert '2 bad samples were skipped' in log

    whole = project.state('whole')
    found = whole['message_hub']['runtime_info']['skipped_samples']
    assert {Path(name).name for name in found} == {'2.jpg', '4.png'}

    first = str(project.folder / 'whole' / 'iter_4.pth')
    assert project.train('resumed', resume=['--resume', first]) == 0
    resumed = project.state('resumed')
    assert same_tensors(whole['state_dict'], resumed['state_dict'])
    assert resumed['message_hub']['runtime_info']['skipped_samples'] == found
    # What the first half has named is not named again.
    half = project.state('whole', 4)['message_hub']['runtime_info'].get('skipped_samples', {})
    assert project.log('resumed').count('skipped bad sample') == 2 - len(half)


def test_sound_data_are_trained_on_as_without_the_hook(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project.train('checked') == 0
    monkeypatch.setattr(BadDataHook, 'before_train', lambda self, runner: None)
    assert project.train('plain') == 0
    assert same_tensors(
        project.state('checked')['state_dict'], project.state('plain')['state_dict']
    )


def test_more_bad_samples_than_are_let_pass(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in '345':
        project.spoil(name, 'mask of zero bytes')
    project.config(skipped=2)
    assert project.train() == 1
    err = capsys.readouterr().err
    assert 'error: train data: more than max_skipped=2 bad samples, the last: mask ' in err
    assert 'Traceback' not in err
    assert project.log().count('skipped bad sample') == 2


@pytest.mark.parametrize('split', ['val', 'test'])
def test_no_sample_is_skipped_where_it_is_measured(
    project: Project, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    project.config(skipped=2)
    if split == 'test':
        assert project.train() == 0
    project.spoil('2', 'truncated image', 'val')
    if split == 'val':
        assert project.train('work', 'train_cfg.val_interval=1') == 1
    else:
        checkpoint = str(project.folder / 'work' / 'iter_8.pth')
        options = ['--work-dir', str(project.folder / 'test'), '--cfg-options']
        options.append('test_dataloader.num_workers=1')
        assert test_command.main([str(project.file), checkpoint, *options]) == 1
    err = capsys.readouterr().err
    assert f'error: {split} data: image {project.data}/images/val/2.jpg is truncated' in err
    assert 'Traceback' not in err


@pytest.mark.parametrize('wrong', [-1, 2.0, True, '3', None])
def test_wrong_numbers(wrong: Any) -> None:
    with pytest.raises(ConfigError, match='expected max_skipped to be a number of samples'):
        BadDataHook(max_skipped=wrong)


def test_not_all_samples_are_let_pass(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.config(skipped=SAMPLES)
    assert project.train() == 1
    assert 'less than the 6 samples of the train data; got 6' in capsys.readouterr().err


def test_a_wrong_number_in_a_config(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.config(skipped=-1)
    assert project.train() == 1
    assert 'expected max_skipped to be a number of samples' in capsys.readouterr().err


# Several ranks.


def report(rank: int, file: str, folder: str) -> None:
    """What each process does: in each iteration one of them meets a bad sample."""
    distributed.init_process_group('gloo', init_method=f'file://{file}', rank=rank, world_size=2)
    hook = BadDataHook(max_skipped=2)
    hook.group = distributed.new_group(backend='gloo')
    hub = MessageHub.get_instance('test')
    warnings: list[str] = []
    runner = SimpleNamespace(message_hub=hub, logger=SimpleNamespace(warning=warnings.append))
    stopped = None
    for iteration, found in enumerate([{}, {0: 'a'}, {1: 'b'}, {0: 'b', 1: 'a'}, {1: 'c'}]):
        batch = dict(inputs=[])
        if rank in found:
            batch[ReportingCollate.KEY] = {found[rank]: f'image {found[rank]} is empty.'}
        try:
            hook.before_train_iter(runner, iteration, batch)
        except DatasetError:
            stopped = iteration
        assert batch == dict(inputs=[])
    seen = dict(hub.runtime_info['skipped_samples'])
    torch.save((stopped, list(seen), len(warnings)), Path(folder) / f'{rank}.pth')
    distributed.destroy_process_group()


def test_ranks_count_together(tmp_path: Path) -> None:
    with forked_ranks(report, str(tmp_path / 'store'), str(tmp_path)):
        pass
    for rank in range(2):
        assert torch.load(tmp_path / f'{rank}.pth') == (4, ['a', 'b'], 2)
