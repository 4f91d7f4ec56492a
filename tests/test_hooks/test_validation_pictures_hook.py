from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import batch, build, resnet, save_weights, term, wrapper_config
from mmengine.structures import PixelData
from mmengine.visualization import MLflowVisBackend
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import tensors, train_to_the_end, variant, write_project

from mmseg_kd.analysis import comparison
from mmseg_kd.analysis.scene import picture_miou
from mmseg_kd.errors import ConfigError
from mmseg_kd.hooks import ValidationPicturesHook, validation_pictures_hook
from mmseg_kd.hooks.validation_pictures_hook import _ask_teachers
from mmseg_kd.host.visualizer import add_picture

PALETTE = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0], [0, 200, 200]]
CELL = 64


class Kept:
    """A backend that keeps what it is given."""

    def __init__(self) -> None:
        self.pictures: list[tuple[str, Any, int]] = []

    def add_image(self, name: str, image: Any, step: int) -> None:
        self.pictures.append((name, image, step))


class Loader(list[Any]):
    """Batches as a data loader gives them, of a data set."""

    dataset = SimpleNamespace(metainfo=dict(classes=tuple('abcde'), palette=PALETTE))


def runner_with(model: Any, *sizes: tuple[int, int]) -> Any:
    """What the hook sees of a runner; one batch of two images for each of `sizes`."""
    loader = Loader(batch([size, size], seed=i) for i, size in enumerate(sizes))
    visualizer = SimpleNamespace(_vis_backends=dict(kept=Kept()))
    return SimpleNamespace(model=model, iter=400, val_dataloader=loader, visualizer=visualizer)


def validate(hook: ValidationPicturesHook, runner: Any, label: int = 1) -> Any:
    """A validation in which the student says `label` everywhere; returns the newest picture."""
    hook.before_val_epoch(runner)
    for index, data in enumerate(runner.val_dataloader):
        for sample in data['data_samples']:
            predicted = torch.full_like(sample.gt_sem_seg.data, label)
            sample.pred_sem_seg = PixelData(data=predicted)
        hook.after_val_iter(runner, index, data, data['data_samples'])
    hook.after_val_epoch(runner, dict(mIoU=1.0))
    pictures = runner.visualizer._vis_backends['kept'].pictures
    return pictures[-1][1] if pictures else None


def cell(picture: Any, row: int, column: int, heights: Sequence[int] = (CELL,) * 5) -> Any:
    """One of the pictures in a figure, of rows of these heights with a line below each."""
    gap = CELL // 32
    x = gap + column * (CELL + gap)
    caption = round(CELL / 17 * 1.3)
    y = round(CELL / 14 * 1.3) + 2 * gap + sum(heights[:row]) + row * (caption + gap)
    return picture[y : y + heights[row], x : x + CELL]


@pytest.fixture
def model(tmp_path: Path) -> Any:
    checkpoint = save_weights(resnet(8), tmp_path / 'teacher.pth')
    return build(wrapper_config(resnet(4), resnet(8), checkpoint, term()))


def test_what_is_shown(model: Any) -> None:
    runner = runner_with(model, *[(32, 32)] * 5)
    picture = validate(ValidationPicturesHook(images=3, cell_width=CELL), runner)
    assert runner.visualizer._vis_backends['kept'].pictures[0][0::2] == ('validation', 400)
    assert picture.dtype == np.uint8
    gap = CELL // 32
    assert picture.shape[1] == 4 * (CELL + gap) + gap
    for row, index in enumerate((0, 2, 4)):
        data = runner.val_dataloader[index]
        image = data['inputs'][0].flip(0).permute(1, 2, 0).numpy()
        enlarged = Image.fromarray(image).resize((CELL, CELL), Image.Resampling.BICUBIC)
        assert np.array_equal(cell(picture, row, 0), enlarged)
        truth = np.asarray(PALETTE, np.uint8)[data['data_samples'][0].gt_sem_seg.data[0]]
        assert np.array_equal(cell(picture, row, 1), truth.repeat(2, 0).repeat(2, 1))
        assert (cell(picture, row, 2) == PALETTE[1]).all()


def test_names_and_scores_stand_below(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(comparison, 'draw_grid', lambda columns, *_: drawn.append(columns))
    runner = runner_with(model, (32, 32))
    [sample] = runner.val_dataloader[0]['data_samples'][:1]
    sample.set_metainfo(dict(img_path='images/val/street.jpg'))
    validate(ValidationPicturesHook(images=1), runner)
    [columns] = drawn
    assert columns['image'][0].caption == 'street'
    miou = picture_miou(np.full((32, 32), 1, np.uint8), sample.gt_sem_seg.data[0].numpy())
    assert columns['student'][0].caption == f'mIoU {100 * miou:.1f}'
    assert columns['teacher'][0].caption.startswith('mIoU ')


def test_other_images_are_skipped(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(validation_pictures_hook, 'print_log', lambda text, **_: said.append(text))
    runner = runner_with(model, (32, 32), (32, 32))
    for data in runner.val_dataloader:
        data['inputs'] = [image[:1] for image in data['inputs']]
    hook = ValidationPicturesHook(images=2)
    assert validate(hook, runner) is None
    assert validate(hook, runner) is None
    [text] = said
    assert 'expected images of three channels' in text
    assert 'got 1 in torch.uint8' in text


def test_more_classes_than_a_byte_tells_apart_are_skipped(model: Any) -> None:
    runner = runner_with(model, (32, 32))
    many = dict(classes=tuple(map(str, range(300))), palette=[[0, 0, 0]] * 300)
    runner.val_dataloader.dataset = SimpleNamespace(metainfo=many)
    assert validate(ValidationPicturesHook(), runner) is None


def test_teachers_are_asked_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_with(model, (32, 32), (32, 32))
    hook = ValidationPicturesHook(images=2, cell_width=CELL)
    before = torch.random.get_rng_state()
    first = validate(hook, runner, label=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    # As the network itself has it, which is left as it was.
    teacher = model.teacher
    assert 'predict' not in vars(teacher)
    for row in range(2):
        data = runner.val_dataloader[row]
        one = dict(inputs=data['inputs'][:1], data_samples=data['data_samples'][:1])
        with torch.no_grad():
            label = teacher.test_step(one)[0].pred_sem_seg.data[0]
        expected = np.asarray(PALETTE, np.uint8)[label].repeat(2, 0).repeat(2, 1)
        assert np.array_equal(cell(first, row, 3), expected)
        assert len(np.unique(expected.reshape(-1, 3), axis=0)) > 1
    monkeypatch.setattr(
        validation_pictures_hook, 'predict_labels', lambda *_: pytest.fail('asked again')
    )
    second = validate(hook, runner, label=2)
    assert np.array_equal(cell(second, 0, 3), cell(first, 0, 3))
    assert (cell(second, 0, 2) == PALETTE[2]).all()


def test_pictures_of_other_proportions(model: Any) -> None:
    runner = runner_with(model, (32, 64), (64, 32))
    picture = validate(ValidationPicturesHook(images=2, cell_width=CELL), runner)
    wide, tall = (cell(picture, row, 2, heights=(CELL // 2, 2 * CELL)) for row in range(2))
    assert wide.shape == (CELL // 2, CELL, 3)
    assert (wide == PALETTE[1]).all()
    assert tall.shape == (2 * CELL, CELL, 3)
    assert (tall == PALETTE[1]).all()


@pytest.mark.parametrize('count', [1, 2])
def test_a_short_validation(count: int, model: Any) -> None:
    runner = runner_with(model, *[(32, 32)] * count)
    assert validate(ValidationPicturesHook(images=3, cell_width=CELL), runner) is not None


def test_none_is_asked_for(model: Any) -> None:
    assert validate(ValidationPicturesHook(images=0), runner_with(model, (32, 32))) is None


def test_a_network_on_its_own() -> None:
    runner = runner_with(build(resnet()), (32, 32))
    picture = validate(ValidationPicturesHook(images=1, cell_width=CELL), runner)
    gap = CELL // 32
    assert picture.shape[1] == 3 * (CELL + gap) + gap


def without_head(model: Any) -> str:
    next(iter(model._teachers.values())).is_complete = False
    return 'not all that it predicts with is loaded'


def with_other_classes(model: Any) -> str:
    model.teacher.num_classes = 7
    return 'it knows other classes'


def without_room(model: Any) -> str:
    def predict(*_: Any) -> Any:
        raise torch.OutOfMemoryError('none left')

    model.teacher.extract_feat = predict
    return 'there is no room on the GPU'


@pytest.mark.parametrize('prevent', [without_head, with_other_classes, without_room])
def test_a_teacher_that_cannot_predict(
    prevent: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(validation_pictures_hook, 'print_log', lambda text, **_: said.append(text))
    reason = prevent(model)
    hook = ValidationPicturesHook(images=1, cell_width=CELL)
    runner = runner_with(model, (32, 32))
    for _ in range(2):
        picture = validate(hook, runner)
        assert picture.shape[1] == 3 * (CELL + CELL // 32) + CELL // 32
    assert said == [f"The pictures of the validations do without 'teacher': {reason}."]
    assert 'predict' not in vars(model.teacher)


def test_other_ranks_do_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: 1)
    assert validate(ValidationPicturesHook(images=1), runner_with(model, (32, 32))) is None


@pytest.mark.parametrize('arguments', [dict(images=-1), dict(images=1.0), dict(cell_width=8)])
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f'{next(iter(arguments))}: expected a whole number'):
        ValidationPicturesHook(**arguments)


def test_mlflow_is_told_the_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []
    backend = MLflowVisBackend.__new__(MLflowVisBackend)
    monkeypatch.setattr(backend, 'add_image', lambda name, *_: named.append(name), raising=False)
    visualizer = SimpleNamespace(_vis_backends=dict(a=backend))
    add_picture(visualizer, 'validation', np.zeros((2, 2, 3), np.uint8), 400)
    assert named == ['validation_400.png']


def test_a_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    """To the bit, with dropout and flips; and what it leaves in the work dir can be looked at."""
    config = write_project(
        tmp_path,
        "vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]\n"
        "visualizer['vis_backends'] = vis_backends\n",
    )
    off = variant(
        config,
        'off.py',
        "\ncustom_hooks = [dict(type='ValidationPicturesHook', images=0)]\n"
        "visualizer['vis_backends'] = [dict(type='LocalVisBackend')]\n",
    )
    weights = []
    for name, one in (('on', config), ('off', off)):
        train_to_the_end([one, '--work-dir', str(tmp_path / name)], tmp_path / f'{name}.log')
        weights.append(tensors(tmp_path / name / 'iter_8.pth'))
    assert weights[0].keys() == weights[1].keys()
    for key, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][key]), key
    [folder] = (tmp_path / 'on').glob('*/vis_data')
    files = sorted(path.name for path in (folder / 'vis_image').iterdir())
    assert files == ['validation_4.png', 'validation_8.png']
    assert not list((tmp_path / 'off').glob('*/vis_data/vis_image'))
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Images('validation')] == [4, 8]
    logged = set(events.Tags()['scalars'])
    assert {'loss', 'task_loss', 'decode.loss_ce', 'kd.kl', 'kd_weight.kl'} <= logged
    assert {'lr', 'grad_norm', 'mIoU'} <= logged


def test_a_teacher_that_fails_on_an_image_is_left_out(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(validation_pictures_hook, 'print_log', lambda text, **_: said.append(text))

    def predict(*_: Any) -> Any:
        raise AssertionError('the size of the image should be divisible by 4')

    monkeypatch.setattr(type(model.teacher), 'encode_decode', predict)
    assert _ask_teachers(model, [dict(inputs=torch.zeros(3, 8, 8, dtype=torch.uint8))]) == {}
    [line] = said
    assert "do without 'teacher': it cannot predict them" in line


def test_a_picture_that_cannot_be_drawn_ends_nothing(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError('cannot open resource')

    monkeypatch.setattr(validation_pictures_hook, 'comparison_figure', fail)
    runner = runner_with(model, (32, 32))
    hook = ValidationPicturesHook(images=1)
    validate(hook, runner)
    assert hook.images == 0
