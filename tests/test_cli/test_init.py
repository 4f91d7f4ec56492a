"""mmseg-kd init: from a folder of images and masks to configs that are whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import write_dataset
from mmengine.config import Config
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_kd.cli import init
from mmseg_kd.comparison.plan import Budget, read_plan
from mmseg_kd.config.load import load_config
from mmseg_kd.distillation import DistillationWrapper

NAMES = ['sky', 'road', 'car', 'tree', 'wall']
TINY = ['--teacher', 'mit-slim', '--student', 'mobilenetv2', '--workers', '0']


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images with masks, in the folder that is worked in."""
    monkeypatch.chdir(tmp_path)
    return write_dataset(Path('street')).relative_to('.')


def test_configs_that_train(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init.main([str(folder), '--classes', *NAMES, *TINY]) == 0
    out = capsys.readouterr().out
    assert 'street: 4 train, 3 val (splits: folders)' in out
    assert 'height x width: 32x32 (7)' in out
    assert 'mmseg-kd train street-kd/street_distilled.py' in out
    trained = ('teacher', 'baseline', 'distilled')
    files = {part: Path(f'street-kd/street_{part}.py') for part in ('data', *trained, 'plan')}
    assert all(len(file.read_text().splitlines()) < 40 for file in files.values())
    cfgs = {part: load_config(str(file), None) for part, file in files.items() if part in trained}
    for part in ('train', 'val', 'test'):
        dataset = DATASETS.build(cfgs['distilled'][f'{part}_dataloader'].dataset)
        assert len(dataset) == (4 if part == 'train' else 3)
        assert dataset.metainfo['classes'] == tuple(NAMES)
    sample = dataset[0]['data_samples']
    assert sample.gt_sem_seg.data.unique().tolist() == [0, 1, 2, 3, 4, 255]
    teacher = DistillationWrapper(**without_type(cfgs['teacher']))
    assert teacher.student.decode_head.num_classes == 5
    work = Path('work_dirs/street_teacher')
    work.mkdir(parents=True)
    # What a training leaves.
    torch.save(dict(state_dict=teacher.student.state_dict(), meta={}), work / 'student_best.pth')
    distilled = DistillationWrapper(**without_type(cfgs['distilled']))
    assert [type(term.loss).__name__ for term in distilled.terms.values()] == ['CWD']
    assert next(iter(distilled.terms.values())).loss.ignore_index == 255
    plan = read_plan('street-kd/street_plan.py', budget=Budget(iterations=100))
    assert (plan.baseline, plan.seeds) == ('alone', [0, 1, 2])
    terms = {name: len(method.model.distillation) for name, method in plan.methods.items()}
    assert terms == {'alone': 0, 'distilled': 1}
    assert out.endswith('  mmseg-kd compare street-kd/street_plan.py\n')


def without_type(cfg: Config) -> dict[str, Any]:
    return {key: value for key, value in cfg.model.items() if key != 'type'}


def test_masks_in_colours_are_written_anew(folder: Path) -> None:
    colours = [(9 * i, 0, 0) for i in range(1, 6)]
    for file in Path(folder).glob('annotations/*/*.png'):
        mask = Image.open(file)
        mask.putpalette([v for colour in colours for v in colour] + [0] * 753)
        mask.convert('RGB').save(file)
    rows = [f'{r} {g} {b} {name}' for (r, g, b), name in zip(colours, NAMES, strict=True)]
    Path(folder, 'classes.txt').write_text('\n'.join([*rows, '0 0 0 void']))
    assert init.main([str(folder), *TINY, '--out', 'out']) == 0
    cfg = Config.fromfile('out/street_data.py')
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    assert dataset.metainfo['palette'] == [list(colour) for colour in colours]
    mask = Image.open(dataset.get_data_info(0)['seg_map_path'])
    assert mask.mode == 'L'
    assert {value for _, value in mask.getcolors()} == {0, 1, 2, 3, 4, 255}


def test_a_trained_run_as_teacher(folder: Path) -> None:
    run = Path('runs/big')
    run.mkdir(parents=True)
    assert init.main([str(folder), '--classes', *NAMES, *TINY, '--out', 'first']) == 0
    shutil.copy('first/street_baseline.py', run / 'street_baseline.py')
    text = (run / 'street_baseline.py').read_text().replace('./street', '../../first/street')
    (run / 'street_baseline.py').write_text(f'{text}work_dir = "runs/big"\n')
    torch.save(dict(state_dict={}, meta={}), run / 'iter_2.pth')
    args = ['--classes', *NAMES, '--student', 'mobilenetv2', '--workers', '0']
    assert init.main([str(folder), *args, '--teacher', str(run)]) == 0
    assert not Path('street-kd/street_teacher.py').exists()
    cfg = Config.fromfile('street-kd/street_distilled.py')
    assert cfg.model.teacher.checkpoint == 'runs/big/iter_2.pth'
    for file in Path(folder).glob('annotations/*/*.png'):
        mask = Image.open(file).point(lambda value: min(value, 3))
        mask.save(file)
    args = ['--classes', *NAMES[:4], '--student', 'mobilenetv2', '--workers', '0', '--overwrite']
    assert init.main([str(folder), *args, '--teacher', str(run)]) == 1


def test_all_that_is_wrong_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ['--classes', 'a', 'b', '--teacher', 'segformer-b9', '--schedule', 'adamw_2k']
    Path('out').mkdir()
    Path('out/mine.txt').touch()
    args = [str(folder), *args, '--out', 'out']
    assert init.main([*args, '--size', '0', '64', '--workers', '-1']) == 1
    err = capsys.readouterr().err
    assert '5 problems' in err
    for text in (
        "teacher: there is no network 'segformer-b9'; nearest: segformer-b",
        "schedule: there is no 'adamw_2k'; nearest: adamw_2",
        'out is not empty',
        '--size: expected a height and a width >= 1, got [0, 64]',
        '--workers: expected 0 or more processes; got -1',
    ):
        assert text in err
    assert not list(Path('out').glob('*.py'))
    assert init.main([*args, '--workers', '0']) == 1
    assert 'masks hold 5 values' in capsys.readouterr().err


def test_names_are_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init.main([str(folder), *TINY]) == 1
    assert 'Expected --classes NAME' in capsys.readouterr().err
    answers = iter(['sky', '', 'road', 'car', 'tree', 'void'])
    monkeypatch.setattr('sys.stdin.isatty', lambda: True, raising=False)
    monkeypatch.setattr('builtins.input', lambda _: next(answers))
    assert init.main([str(folder), *TINY]) == 0
    assert Path('street-kd/classes.txt').read_text() == 'sky\nroad\ncar\ntree\n'
    assert Path('street-kd/masks/annotations/train/0.png').is_file()  # 4 is ignored there


def test_names_that_end_too_soon(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter(['sky', 'road'])

    def answer(_: str) -> str:
        for one in answers:
            return one
        raise EOFError

    monkeypatch.setattr('sys.stdin.isatty', lambda: True, raising=False)
    monkeypatch.setattr('builtins.input', answer)
    assert init.main([str(folder), *TINY]) == 1
    assert 'expected 5 names, and the input ended after 2' in capsys.readouterr().err
    assert not Path('street-kd').exists()
