from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from builders import ROOT, fcn_head, resnet
from mmengine.config import Config, ConfigDict
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, MODELS
from torch import nn

from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import trained_network_of
from mmseg_kd.config.text import write
from mmseg_kd.datasets.camvid import CLASSES, PALETTE
from mmseg_kd.errors import ConfigError, ManyErrors
from mmseg_kd.export.stock_config import stock_config

CAMVID = 'distillation_configs/camvid/camvid-240x320.py::mobilenetv2_cgd'
TOY = 'distillation_configs/toy_scenes/resnet18_mobilenetv2-half_cgd_toy-128x128.py'
ADE = 'distillation_configs/example_config.py'


def stock(cfg: Config | dict[str, Any]) -> dict[str, Any]:
    cfg = Config(cfg) if isinstance(cfg, dict) else cfg
    return stock_config(cfg, trained_network_of(cfg).model)


def config(dataset: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A network on its own and a test split."""
    return dict(
        model=resnet(),
        test_dataloader=dict(batch_size=1, dataset=dict(data_root='nowhere', **dataset)),
        test_evaluator=dict(type='FastIoUMetric', iou_metrics=['mIoU']),
        **changes,
    )


@pytest.fixture
def users_module() -> Any:
    """A module of the user's with a data set, and what it registered goes after the test."""
    module = ModuleType('of_the_user')
    before = [(r, set(r.module_dict)) for r in (DATASETS, MODELS)]
    sys.modules['of_the_user'] = module
    yield module
    del sys.modules['of_the_user']
    for registry, names in before:
        for name in set(registry.module_dict) - names:
            del registry.module_dict[name]


def test_camvid_becomes_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    values = stock(load_config(CAMVID, None))
    dataset = values['test_dataloader']['dataset']
    assert dataset['type'] == 'BaseSegDataset'
    assert dataset['metainfo'] == dict(classes=CLASSES, palette=PALETTE)
    assert (dataset['img_suffix'], dataset['seg_map_suffix']) == ('.jpg', '.png')
    assert dataset['reduce_zero_label'] is False
    assert values['model']['type'] == 'EncoderDecoder'
    assert 'custom_imports' not in values
    text = write(values)
    assert not any(word in text for word in ('mmseg_kd', 'Distillation', 'CamVid', 'init_cfg'))
    assert 'SyncBN' not in text
    assert Config.fromstring(text, '.py').model == ConfigDict(values['model'])


def test_a_data_set_of_mmsegs_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    values = stock(load_config(ADE, None))
    assert values['test_dataloader']['dataset']['type'] == 'ADE20KDataset'
    assert values['model']['backbone']['type'] == 'MixVisionTransformer'
    assert values['model']['pretrained'] is None


def test_what_the_data_set_class_says_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    dataset = stock(load_config(TOY, None))['test_dataloader']['dataset']
    assert dataset['reduce_zero_label'] is True
    assert len(dataset['metainfo']['classes']) == 12


def test_our_losses_and_metrics_become_mmsegs() -> None:
    cfg = config(dict(type='CamVidDataset', pipeline=[]))
    head = fcn_head(8, 1, loss_decode=[dict(type='FusedCrossEntropyLoss', loss_weight=0.5)])
    cfg['model']['decode_head'] = head
    values = stock(cfg)
    loss = values['model']['decode_head']['loss_decode']
    assert loss == [dict(type='CrossEntropyLoss', loss_weight=0.5)]
    assert values['test_evaluator']['type'] == 'IoUMetric'


def test_a_choice_of_classes_is_refused() -> None:
    dataset = dict(type='CamVidDataset', metainfo=dict(classes=('Road', 'Sky')), pipeline=[])
    with pytest.raises(ConfigError, match=r'test_dataloader\.dataset: CamVidDataset with some of'):
        stock(config(dataset))


def test_without_test_data_there_is_the_model_alone() -> None:
    values = stock(dict(model=resnet()))
    assert 'model' in values
    assert not {'test_dataloader', 'test_cfg', 'test_evaluator'} & set(values)


def test_a_class_of_the_users_keeps_its_import(users_module: ModuleType) -> None:
    class OwnDataset(BaseSegDataset):
        METAINFO: ClassVar = dict(classes=('a',), palette=[[0, 0, 0]])

        def load_data_list(self) -> list[Any]:
            return []

    OwnDataset.__module__ = 'of_the_user'
    DATASETS.register_module(module=OwnDataset)
    cfg = config(
        dict(type='OwnDataset', pipeline=[]),
        custom_imports=dict(imports=['mmseg_kd', 'of_the_user', 'another']),
    )
    values = stock(cfg)
    assert values['test_dataloader']['dataset']['type'] == 'OwnDataset'
    assert values['custom_imports'] == dict(imports=['of_the_user'])


def test_all_that_mmseg_lacks_is_said_at_once(users_module: ModuleType) -> None:
    class Own(nn.Module):
        pass

    class OwnLoss(nn.Module):
        pass

    for one in (Own, OwnLoss):
        one.__module__ = 'of_the_user'
        MODELS.register_module(module=one)
    cfg = config(dict(type='CamVidDataset', pipeline=[]))
    cfg['model']['backbone'] = dict(type='Own')
    cfg['model']['decode_head']['loss_decode'] = dict(type='OwnLoss')
    with pytest.raises(ManyErrors) as caught:
        stock(cfg)
    first, second = map(str, caught.value.errors)
    assert first.startswith(
        'model.backbone: expected a class of stock mmseg, got Own of of_the_user; '
    )
    assert 'custom_imports' in first
    assert second.startswith('model.decode_head.loss_decode: ')


def test_a_class_in_the_place_of_its_name() -> None:
    cfg = config(dict(type='CamVidDataset', pipeline=[]))
    cfg['model']['decode_head']['norm_cfg'] = dict(type=nn.BatchNorm2d)
    values = stock(cfg)
    assert values['model']['decode_head']['norm_cfg'] == dict(type='BN')
    assert isinstance(MODELS.build(values['model']), nn.Module)


def test_paths_are_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student is exported where its data are not."""
    monkeypatch.chdir(tmp_path)
    values = stock(config(dict(type='CamVidDataset', pipeline=[])))
    assert values['test_dataloader']['dataset']['data_root'] == 'nowhere'
