"""What `distill` makes of a folder of images and masks, and of networks by one word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders import write_dataset
from mmengine.config import Config, ConfigDict
from mmseg.registry import DATASETS
from torch import nn

from mmseg_kd.config.load import load_config
from mmseg_kd.engine.distill import distill
from mmseg_kd.engine.from_folder import from_folder
from mmseg_kd.errors import ConfigError, DatasetError
from mmseg_kd.networks.build import build_segmentor, without_initialisation
from mmseg_kd.own_data.networks import is_trained, network_of

TERM = dict(
    student_layer='decode_head.conv_seg',
    teacher_layer='decode_head.conv_seg',
    loss=dict(type='CWD'),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = write_dataset(tmp_path / 'street')
    (root / 'classes.txt').write_text('a\nb\nc\nd\ne\n')
    return root


def test_words_become_networks_and_a_term(folder: Path, tmp_path: Path) -> None:
    found = from_folder(folder, 'mit-slim', 'mobilenetv2', (), tmp_path / 'out')
    assert found.trains_teacher
    assert found.teacher['cfg_options']['model.decode_head.num_classes'] == 5
    assert found.student['cfg_options']['model.data_preprocessor.size'] == (32, 32)
    assert [term['loss']['type'] for term in found.terms] == ['CWD']
    cfg = load_config(found.data, None, needs_model=False)
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 4


def test_what_is_given_otherwise_stays(folder: Path, tmp_path: Path) -> None:
    network = nn.Conv2d(3, 5, 1)
    found = from_folder(folder, network, 'mit-slim', (), tmp_path / 'out')
    assert found.teacher is network
    assert not found.trains_teacher
    assert found.terms == ()


def test_a_teacher_with_weights_is_not_trained_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Config] = []

    def begin(cfg: Config, options: Any) -> None:
        begun.append(cfg)
        raise RuntimeError('enough')

    monkeypatch.setattr('mmseg_kd.engine.distill._train', begin)
    with pytest.raises(RuntimeError, match='enough'):
        distill(
            teacher='mit-slim',
            teacher_checkpoint='teacher.pth',
            student='mobilenetv2',
            data=folder,
            work_dir=tmp_path / 'work',
        )
    [cfg] = begun
    assert cfg.model.teacher.checkpoint == 'teacher.pth'


@pytest.mark.parametrize(
    ('terms', 'message'),
    [
        ([dict(TERM, student_layer='decode_head.nowhere')], 'nowhere'),
        ([dict(TERM, loss=dict(type='CGDLos'))], "there is no kd_loss 'CGDLos'"),
        ([dict(TERM, loss=dict(type='CGDLoss', group_size=50))], 'group_size'),
        ([TERM], 'the teacher is trained'),
    ],
)
def test_terms_are_looked_at_before_the_teacher_is_trained(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    terms: list[dict[str, Any]],
    message: str,
) -> None:
    def begin(cfg: Config, options: Any) -> None:
        raise ConfigError('the teacher is trained')

    monkeypatch.setattr('mmseg_kd.engine.distill._train', begin)
    with pytest.raises(ConfigError, match=message):
        distill(
            teacher='mit-slim',
            student='mobilenetv2',
            terms=terms,
            data=folder,
            work_dir=tmp_path / 'work',
        )


def test_names_are_needed(folder: Path, tmp_path: Path) -> None:
    (folder / 'classes.txt').unlink()
    with pytest.raises(DatasetError, match=r'expected classes\.txt in it'):
        from_folder(folder, None, 'mit-slim', (), tmp_path / 'out')


def test_a_folder_of_hugging_face_with_as_many_classes_is_trained(tmp_path: Path) -> None:
    settings = dict(architectures=['SegformerForSemanticSegmentation'])
    (tmp_path / 'config.json').write_text(json.dumps(settings))
    assert is_trained(f'hf:{tmp_path}', 2)
    settings |= dict(id2label={str(index): str(index) for index in range(5)})
    (tmp_path / 'config.json').write_text(json.dumps(settings | dict(architectures=['ViTModel'])))
    assert not is_trained(f'hf:{tmp_path}', 5)
    (tmp_path / 'config.json').write_text(json.dumps(settings))
    assert is_trained(f'hf:{tmp_path}', 5)
    assert not is_trained(f'hf:{tmp_path}', 6)
    assert not is_trained('hf:someone/segformer', 5)
    assert network_of('hf:someone/segformer', 'teacher', 5, (8, 8)) == dict(
        type='HFSegmentor', model='someone/segformer', num_classes=5
    )
    assert network_of('timm:resnet18', 'student', 5, (8, 8))['head']['num_classes'] == 5


@pytest.mark.parametrize('word', ['timm:resnet18', 'torchvision:lraspp_mobilenet_v3_large'])
def test_networks_from_elsewhere_are_built(word: str) -> None:
    cfg = ConfigDict(network_of(word, 'student', 5, (64, 64)))
    network = build_segmentor(without_initialisation(cfg), 'student')
    assert network.num_classes == 5


@pytest.mark.parametrize('word', ['pspnet-r50', 'swin-t', 'segformer-b5', 'deeplabv3plus-r50'])
def test_heads_of_the_zoo_get_the_classes(word: str) -> None:
    options = network_of(word, 'student', 7, (64, 64))['cfg_options']
    heads = {'model.decode_head.num_classes', 'model.auxiliary_head.num_classes'}
    expected = heads if 'segformer' not in word else {'model.decode_head.num_classes'}
    assert {name for name in options if name.endswith('num_classes')} == expected


def test_unknown_words() -> None:
    with pytest.raises(ConfigError, match=r'no network .mobilenet.; nearest: mobilenetv2'):
        network_of('mobilenet', 'student', 5, (8, 8))
