"""All files of a config's data: every kind of bad file on disk, found in one go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bad_files import ERRORS, SOUND, WARNINGS, damage_mask, spoil
from builders import CLASSES, resnet, write_config, write_dataset
from PIL import Image

from mmseg_kd.cli import check_dataset as check_data
from mmseg_kd.cli import following
from mmseg_kd.data_checks.findings import KINDS
from mmseg_kd.data_checks.full_check import Sample, Split

WAYS = {**ERRORS, **WARNINGS, 'damaged mask': ('damaged', damage_mask)}


class Project:
    """Data and a config.

    Args:
        folder: An empty folder.
        train, val: Numbers of samples.
    """

    def __init__(self, folder: Path, train: int = 4, val: int = 3) -> None:
        self.folder = folder
        self.data = write_dataset(folder / 'data', train, val)
        self.file = write_config(folder, resnet(4), self.data)

    def add(self, text: str) -> None:
        self.file.write_text(self.file.read_text(encoding='utf-8') + text, encoding='utf-8')

    def check(self, *args: str, code: int) -> dict[str, Any]:
        """Run the command; returns the report that it wrote."""
        path = self.folder / 'report.json'
        args = (str(self.file), '--workers', '0', '--json', str(path), *args)
        assert check_data.main(args) == code
        report: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
        return report


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def kinds(report: dict[str, Any], split: str = 'train') -> list[tuple[str, str]]:
    """The kinds and names of what was found in a split."""
    found = report['splits'][split]['findings']
    return sorted((finding['kind'], Path(finding['name']).stem) for finding in found)


def test_sound_data(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    report = project.check(code=0)
    out = capsys.readouterr().out
    assert out.startswith(f'train  4 samples: BaseSegDataset in {project.data}/images/train\n')
    assert '\ntest   the same as val\n' in out
    assert out.endswith('7 samples read: 0 errors, 0 warnings\n')
    assert 'Errors' not in out
    assert 'Warnings' not in out
    assert report['same_splits'] == {'test': 'val'}
    assert report['splits'].keys() == {'train', 'val'}


@pytest.mark.parametrize('workers', ['0', '2'])
def test_every_kind_of_bad_file_is_found_in_one_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    names = list(WAYS)
    project = Project(tmp_path, train=len(names) + len(SOUND))
    for index, way in enumerate([*(way for _, way in WAYS.values()), *SOUND.values()]):
        spoil(project.data, 'train', str(index), way)
    report = project.check('--workers', workers, code=1)
    expected = [(kind, str(index)) for index, (kind, _) in enumerate(WAYS.values())]
    found = kinds(report)
    # The image of two Unicode forms, and that of 16 bits, which is also a PNG, have other names.
    odd = names.index('names in two Unicode forms')
    expected.remove(('missing', str(odd)))
    expected += [('missing', 'é1'), ('unpaired', 'e\u03011')]
    assert found == sorted(expected)
    errors = [f['kind'] for f in report['splits']['train']['findings'] if f['error']]
    assert len(errors) == len(ERRORS) + 1

    out = capsys.readouterr().out
    for kind in {kind for kind, _ in found}:
        about = KINDS[kind]
        number = sum(1 for other, _ in found if other == kind)
        at = out.index(f'  {about.title} ({number})')
        assert (at < out.index('Warnings: ')) == about.error
        assert about.mend in out
        assert about.effect in out
    assert f'{len(errors)} errors, {len(found) - len(errors)} warnings' in out


def test_an_image_listed_that_is_missing(project: Project) -> None:
    (project.folder / 'list.txt').write_text('0\n7\n', encoding='utf-8')
    file = str(project.folder / 'list.txt')
    report = project.check('--cfg-options', f'train_dataloader.dataset.ann_file={file}', code=1)
    assert kinds(report) == [('missing', '7'), ('missing', '7')]
    assert report['splits']['train']['samples'] == 2


def test_files_that_nobody_uses(project: Project) -> None:
    images, masks = project.data / 'images/train', project.data / 'annotations/train'
    (images / '1.jpg').rename(images / '1.JPG')
    (images / 'notes.txt').write_text('x')
    (masks / 'notes.txt').write_text('x')
    shutil.copy(masks / '0.png', masks / 'lonely.png')
    # It ends like a mask, and does not lie where they do.
    shutil.copy(masks / '0.png', images / 'forgotten.png')
    report = project.check(code=0)
    unpaired, unused = ['1', 'lonely'], ['1', 'forgotten']
    expected = [('unpaired', name) for name in unpaired] + [('unused', name) for name in unused]
    assert kinds(report) == expected


def test_an_image_of_train_in_val(project: Project) -> None:
    shutil.copy(project.data / 'images/train/2.jpg', project.data / 'images/val/0.jpg')
    assert kinds(project.check(code=0), 'val') == [('shared', '0')]


def test_statistics(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    counts, masks, ignored, total = np.zeros(CLASSES, int), np.zeros(CLASSES, int), 0, 0
    Image.new('L', (16, 24), 3).save(project.data / 'annotations/train/0.png')
    Image.new('RGB', (16, 24)).save(project.data / 'images/train/0.jpg')
    for path in (project.data / 'annotations/train').iterdir():
        mask = np.asarray(Image.open(path))
        for index in range(CLASSES):
            counts[index] += (mask == index).sum()
            masks[index] += (mask == index).any()
        ignored += (mask == 255).sum()
        total += mask.size
    split = project.check(code=0)['splits']['train']
    assert [c['pixels'] for c in split['classes']] == counts.tolist()
    assert [c['masks'] for c in split['classes']] == masks.tolist()
    assert [c['share'] for c in split['classes']] == pytest.approx((counts / counts.sum()).tolist())
    assert [c['name'] for c in split['classes']] == list('abcde')
    assert split['ignored_share'] == pytest.approx(ignored / total)
    assert split['sizes'] == [
        {'height': 32, 'width': 32, 'images': 3},
        {'height': 24, 'width': 16, 'images': 1},
    ]
    out = capsys.readouterr().out
    row = next(line.split() for line in out.splitlines() if line.startswith('  d '))
    assert row[1:3] == [f'{counts[3] / counts.sum():.2%}', str(masks[3])]
    assert '  train  32x32 (3), 24x16 (1)\n' in out


def test_a_class_without_a_pixel(project: Project) -> None:
    for path in (project.data / 'annotations/val').iterdir():
        mask = np.array(Image.open(path))
        mask[mask == 4] = 0
        Image.fromarray(mask).save(path)
    report = project.check(code=0)
    assert kinds(report) == []
    assert kinds(report, 'val') == [('absent', 'e')]


def test_a_label_to_ignore_that_no_mask_can_hold() -> None:
    found = Split('train', ('a', 'b'))
    for ignored in (300, -100):
        found.add(Sample('0.jpg', pixels=np.ones(256, np.int64)), ignored)
    assert (found.ignored, found.pixels.tolist()) == (0, [2, 2])


def test_labels_as_they_are_trained_on(project: Project) -> None:
    options = ['--cfg-options', 'train_dataloader.dataset.reduce_zero_label=True']
    split = project.check(*options, code=0)['splits']['train']
    plain = project.check(code=0)['splits']['train']
    pixels, before = ([c['pixels'] for c in s['classes']] for s in (split, plain))
    assert pixels == [*before[1:], 0]
    assert split['ignored_share'] > plain['ignored_share']


def test_wrapped_data(project: Project) -> None:
    project.add("""
one = train_dataloader['dataset']
two = dict(one, data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'))
both = dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=9, dataset=one), two])
train_dataloader['dataset'] = both
""")
    spoil(project.data, 'val', '1', ERRORS['mask of zero bytes'][1])
    report = project.check('--split', 'train', code=1)
    assert kinds(report) == [('empty', '1')]
    assert report['splits']['train']['samples'] == 7
    assert report['splits'].keys() == {'train'}


def test_an_empty_split_hides_nothing_of_the_others(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(project.data, 'val', '1', ERRORS['truncated mask'][1])
    for path in (project.data / 'images/train').iterdir():
        path.unlink()
    report = project.check(code=1)
    assert kinds(report, 'val') == [('truncated', '1')]
    [problem] = report['problems']
    assert problem.startswith('train data: found no images in')
    out = capsys.readouterr().out
    assert f'error: {problem}\n' in out
    assert out.endswith('3 samples read: 2 errors, 0 warnings\n')


def test_nothing_but_empty_splits(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (project.data / 'images').rename(project.data / 'moved')
    assert len(project.check(code=1)['problems']) == 2
    assert '0 samples read: 2 errors' in capsys.readouterr().out


def test_other_classes_than_the_network(project: Project) -> None:
    options = ['--cfg-options', 'model.decode_head.num_classes=7']
    problems = project.check(*options, code=1)['problems']
    assert len(problems) == 2
    assert 'has 5 classes and the network num_classes=7' in problems[0]


def test_data_that_cannot_be_checked(project: Project) -> None:
    project.add("\ntrain_dataloader['dataset']['pipeline'] = [load[1]]\n")
    [problem] = project.check(code=1)['problems']
    assert 'expected a pipeline with LoadImageFromFile; BaseSegDataset has none' in problem


def test_a_config_of_data_alone(project: Project) -> None:
    project.add('\ndel model\n')
    spoil(project.data, 'train', '1', ERRORS['value that is no class'][1])
    assert kinds(project.check(code=1)) == [('values', '1')]


def test_files_named(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(4):
        spoil(project.data, 'train', str(index), ERRORS['mask of zero bytes'][1])
    for index in range(3):
        spoil(project.data, 'val', str(index), ERRORS['mask of zero bytes'][1])
    project.check(code=1)
    out = capsys.readouterr().out
    assert out.count('.png is empty') == check_data.SHOWN
    assert 'and 2 more: --all names them' in out
    project.check('--all', code=1)
    assert capsys.readouterr().out.count('.png is empty') == 7


@pytest.mark.parametrize(
    ('args', 'says'),
    [
        (['--workers', '-1'], '--workers: expected 0 or more processes; got -1'),
        (['--json', '/'], '--json: / cannot be written'),
    ],
)
def test_wrong_arguments(
    project: Project, capsys: pytest.CaptureFixture[str], args: list[str], says: str
) -> None:
    assert check_data.main([str(project.file), '--workers', '0', *args]) == 1
    assert says in capsys.readouterr().err


def test_a_config_without_the_split(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.add('\ndel train_dataloader\n')
    assert check_data.main([str(project.file), '--split', 'train']) == 1
    assert 'expected train_dataloader with a dataset in the config' in capsys.readouterr().err


def test_progress_in_lines(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, 'LINE_EVERY_S', 0.0)
    project.check(code=0)
    err = capsys.readouterr().err
    assert 'train: 1 of 4 samples, 0 errors\n' in err
    assert 'val: 3 of 3 samples, 0 errors\n' in err


def test_a_single_class_and_images_that_become_black(project: Project) -> None:
    for path in (project.data / 'annotations/val').iterdir():
        mask = np.asarray(Image.open(path)).copy()
        mask[mask > 0] = 255
        Image.fromarray(mask).save(path)
    pixels = np.arange(32 * 32 * 3, dtype=np.uint16).reshape(32, 32, 3)
    image = project.data / 'images/train/1.jpg'
    image.write_bytes(cv2.imencode('.png', pixels)[1].tobytes())
    report = project.check(code=1)
    val, train = (report['splits'][split]['findings'] for split in ('val', 'train'))
    [single] = [finding for finding in val if finding['kind'] == 'single']
    assert single['error']
    assert [finding['kind'] for finding in train] == ['deep', 'squeezed']
    assert not train[1]['error']
    assert 'values of 0 to 3071, and reading it as 8 bits leaves 0 to 11' in train[1]['detail']
