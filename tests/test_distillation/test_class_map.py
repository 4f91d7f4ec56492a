"""A teacher that tells other classes apart, sees other images, or images of another size."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    CLASSES,
    GN,
    batch,
    build,
    fcn_head,
    preprocessor,
    resnet,
    save_weights,
    sgd,
    term,
    wrapper_config,
    write_config,
    write_dataset,
)
from mmengine.config import Config
from torch import Tensor, nn

from mmseg_kd.distillation.class_map import IGNORED, Classes, ClassMap, read_class_map
from mmseg_kd.engine.training import name_classes
from mmseg_kd.errors import ConfigError, ManyErrors, ShapeError
from mmseg_kd.losses import KLLoss

STUDENT = resnet(4, norm=GN, dropout=0.0)
# Which of the student's classes each of the teacher's is a share of; None: of none.
SHARES = [(3, 1.0), (0, 0.25), (None, 1.0), (2, 1.0), (0, 0.75), (4, 1.0), (1, 1.0)]
MAP = {0: [1, 4], 1: 6, 2: 3, 3: 0, 4: [5]}


def twin(folder: Path) -> dict[str, Any]:
    """The student with the order and scale of channels and the classes of another data set."""
    teacher = resnet(
        4,
        classes=len(SHARES),
        norm=GN,
        dropout=0.0,
        data_preprocessor=preprocessor(
            mean=[103.53, 116.28, 123.675], std=[10.0, 20.0, 30.0], bgr_to_rgb=False
        ),
    )
    weights = torch.load(save_weights(STUDENT, folder / 'student.pth'))
    first = 'backbone.stem.0.weight'
    # The mean is the same, so that a border of zeros is grey to both.
    scale = torch.tensor([30.0, 20.0, 10.0]) / torch.tensor([58.395, 57.12, 57.375])
    weights[first] = (weights[first] * scale.view(1, 3, 1, 1)).flip(1)
    weight, bias = (weights[f'decode_head.conv_seg.{name}'] for name in ('weight', 'bias'))
    parents = [0 if parent is None else parent for parent, _ in SHARES]
    weights['decode_head.conv_seg.weight'] = weight[parents]
    shares = torch.tensor([math.log(share) for _, share in SHARES])
    weights['decode_head.conv_seg.bias'] = bias[parents] + shares
    torch.save(weights, folder / 'twin.pth')
    return {**teacher, 'checkpoint': str(folder / 'twin.pth')}


def log_of(model: dict[str, Any]) -> dict[str, float]:
    """The log of a training step."""
    wrapper = build(model)
    wrapper.train()
    return {k: v.item() for k, v in wrapper.train_step(batch(), sgd(wrapper)).items()}


def twins(folder: Path, class_map: Any, *terms: Any, **changes: Any) -> dict[str, Any]:
    teacher = twin(folder)
    student = {**STUDENT, 'checkpoint': str(folder / 'student.pth')}
    model = wrapper_config(student, teacher, teacher['checkpoint'], *terms, **changes)
    model['teacher']['class_map'] = class_map
    return model


@pytest.mark.parametrize(
    'loss',
    [
        'KLLoss',
        dict(type='CGDLoss', group_size=2, tau=1.0),
        dict(type='CDLoss', resolution='student', tau=1.0),
    ],
)
def test_a_twin_with_other_images_and_classes_teaches_nothing(tmp_path: Path, loss: Any) -> None:
    log = log_of(twins(tmp_path, MAP, term(loss=loss, name='kd')))
    assert log['kd.kd'] == pytest.approx(0.0, abs=1e-6)
    wrong = {**MAP, 1: 3, 2: 6}
    assert log_of(twins(tmp_path, wrong, term(loss=loss, name='kd')))['kd.kd'] > 1e-2


def test_classes_without_a_counterpart_take_no_part(tmp_path: Path) -> None:
    some = {0: [1, 4], 4: 5, 1: 6}
    model = twins(tmp_path, some, term(loss=dict(type='KLLoss', ignore_index=255)))
    assert log_of(model)['kd.kl'] == pytest.approx(0.0, abs=1e-6)


class Spy(nn.Module):
    """Keeps the labels that it gets."""

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        assert student.shape[1] == teacher.shape[1] == 3
        self.label = label
        return (student - teacher).square().mean()


def test_a_loss_gets_the_labels_of_the_classes_that_are_left(tmp_path: Path) -> None:
    wrapper = build(twins(tmp_path, {0: [1, 4], 4: 5, 1: 6}, term(loss=dict(type=Spy))))
    wrapper.train_step(batch(), sgd(wrapper))
    label = torch.stack([one.gt_sem_seg.data[0] for one in batch()['data_samples']])
    expected = torch.tensor([0, 1, 255, 255, 2])[label]
    assert torch.equal(wrapper.terms['spy'].loss.label, expected)


def test_without_a_map_scores_of_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r'5 classes apart and the teacher 7.*its class_map'):
        build(twins(tmp_path, None, term()))


def test_features_and_connectors_are_not_mapped(tmp_path: Path) -> None:
    layer = 'backbone.layer2'
    connected = term(connector=dict(type='ConvConnector'), name='connected')
    wrapper = build(twins(tmp_path, MAP, term(layer, layer, 'CDLoss'), connected))
    assert wrapper.terms['connected'].connector.conv.out_channels == len(SHARES)
    assert wrapper.terms['cd'].connector is None


def test_names_of_classes(tmp_path: Path) -> None:
    ours = ['road', 'car', 'person', 'sky', 'tree']
    theirs = ['sky', 'lane', 'void', 'man', 'street', 'plant', 'vehicle']
    named = {
        'road': ['lane', 'street'],
        'car': 'vehicle',
        'person': 'man',
        'sky': 'sky',
        'tree': 'plant',
    }
    model = twins(tmp_path, named, term(), classes=theirs)
    model['student'] = {**model['student'], 'classes': ours}
    assert log_of(model)['kd.kl'] == pytest.approx(0.0, abs=1e-6)
    # mmengine's runner writes them into its checkpoints.
    del model['teacher']['classes']
    weights = torch.load(tmp_path / 'twin.pth')
    meta = dict(dataset_meta=dict(classes=theirs))
    torch.save(dict(state_dict=weights, meta=meta), tmp_path / 'twin.pth')
    assert log_of(model)['kd.kl'] == pytest.approx(0.0, abs=1e-6)
    del model['student']['classes']
    with pytest.raises(ConfigError, match=r"'road' is not known; write classes=\[\.\.\.\]"):
        build(model)


def test_a_run_takes_the_names_of_its_data(tmp_path: Path) -> None:
    model = twins(tmp_path, {'a': 1}, term())
    path = write_config(tmp_path, model, write_dataset(tmp_path / 'data'))
    cfg = Config.fromfile(path)
    name_classes(cfg)
    assert cfg.model.student.classes == ['a', 'b', 'c', 'd', 'e']
    assert build(cfg.model).terms['kl']._class_maps[0].classes == (0,)
    cfg.model.teacher.pop('class_map')
    cfg.model.student.pop('classes')
    name_classes(cfg)
    assert 'classes' not in cfg.model.student


def test_all_that_is_wrong_with_a_map_is_said_at_once() -> None:
    student = Classes('student', 3, ['road', 'car', 'sky'])
    teacher = Classes("teacher 'b'", 4, None)
    wrong = {'raod': 0, 'car': [1, 9], 1: 2, 'sky': [], 0: [1, 'tree']}
    with pytest.raises(ManyErrors) as caught:
        read_class_map(wrong, 'class_map', student, teacher)
    text = str(caught.value)
    for part in (
        "the student has no class 'raod'; expected a name or a number from 0 to 2; nearest: road",
        "the teacher 'b' has no class 9; expected a name or a number from 0 to 3.",
        '1 is there twice, by number and by name',
        "'sky' has no class on the other side",
        "the class 1 of the teacher 'b' stands for 'car' and for 0",
        "the classes of the teacher 'b' have no names, so 'tree' is not known",
    ):
        assert part in text
    assert len(caught.value.errors) == 6


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('class_map', {}, 'teacher.class_map: expected a dict of the teacher'),
        ('class_map', [0, 1], 'teacher.class_map: expected a dict of the teacher'),
        ('classes', 'cityscape', "mmseg has no names for a data set 'cityscape'; nearest: citys"),
        ('classes', ['a', 'a'], 'teacher.classes: expected a list of different names'),
        ('classes', ['a', 'b'], 'teacher.classes: got 2 names, and the network tells 7 classes'),
        ('input_scale', 0, 'teacher.input_scale: expected a finite number > 0, got 0'),
        ('size_divisor', 1.5, 'teacher.size_divisor: expected a whole number >= 1'),
    ],
)
def test_wrong_keys_of_a_teacher(tmp_path: Path, key: str, value: Any, message: str) -> None:
    class_map = {0: 'b'} if key == 'classes' else MAP
    model = twins(tmp_path, class_map, term())
    model['teacher'][key] = value
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(model)


def scores(classes: int) -> Tensor:
    generator = torch.Generator().manual_seed(classes)
    return 3 * torch.randn(2, classes, 4, 3, generator=generator)


def test_probabilities_are_added() -> None:
    class_map = ClassMap({0: [2, 0], 1: [1], 2: [3, 4]}, 3, 5)
    teacher = scores(5)
    mapped = class_map.of_teacher(teacher).softmax(1)
    parts = teacher.softmax(1)
    expected = torch.stack([parts[:, [0, 2]].sum(1), parts[:, 1], parts[:, 3:].sum(1)], 1)
    torch.testing.assert_close(mapped, expected)
    assert class_map.of_teacher(teacher.half()).dtype == torch.float32
    student = scores(3)
    assert class_map.of_student(student) is student
    assert not class_map.state_dict()


def test_labels_count_the_classes_that_take_part() -> None:
    class_map = ClassMap({3: [0], 1: [1]}, 4, 2)
    label = torch.tensor([[[0, 1, 2, 3, 255, -1, 7]]])
    expected = torch.tensor([[[IGNORED, 0, IGNORED, 1, 255, -1, 7]]])
    assert torch.equal(class_map.of_label(label), expected)
    student = scores(4)
    assert torch.equal(class_map.of_student(student), student[:, [1, 3]])
    # A pixel whose class takes no part is left out with the void ones.
    loss = KLLoss(resolution='student', ignore_index=255)
    label = torch.randint(0, 4, (2, 4, 3), generator=torch.Generator().manual_seed(0))
    found = loss(
        class_map.of_student(student), class_map.of_teacher(scores(2)), class_map.of_label(label)
    )
    keep = (label == 1) | (label == 3)
    p = scores(2)[:, [1, 0]].log_softmax(1)
    q = student[:, [1, 3]].log_softmax(1)
    torch.testing.assert_close(found, (p.exp() * (p - q)).sum(1)[keep].mean())


def test_auxiliary_heads_of_other_classes_are_not_mapped(tmp_path: Path) -> None:
    teacher = resnet(4, classes=7, auxiliary_head=fcn_head(4, 0, classes=CLASSES))
    checkpoint = save_weights(teacher, tmp_path / 'teacher.pth')
    pair = term(teacher_layer='auxiliary_head.conv_seg')
    wrapper = build(wrapper_config(STUDENT, teacher, checkpoint, pair, class_map={0: 6, 1: 5}))
    assert len(wrapper.terms['kl']._class_maps) == 0
