"""Segmentation models of transformers, of random weights in its own format."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import (
    Config,
    batch,
    build,
    gradients,
    resnet,
    same_tensors,
    term,
    train,
    wrapper_config,
)
from hf_models import (
    CLASSES,
    MASKS,
    PIXELS,
    PROCESSORS,
    SIZE,
    segformer_config,
    write_model,
    write_processor,
    write_tokenizer,
)
from mmengine.config import ConfigDict
from torch import Tensor

from mmseg_kd.checkpoints import checkpoint_trust
from mmseg_kd.errors import CheckpointError, ConfigError, ShapeError
from mmseg_kd.networks.build import build_segmentor, without_initialisation
from mmseg_kd.networks.layers import list_layers

transformers = pytest.importorskip('transformers')

Write = Callable[[str], tuple[Path, Any]]


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """The folder of a kind of model, and the model."""

    @cache
    def write(name: str) -> tuple[Path, Any]:
        if name == 'eomt' and not hasattr(transformers, 'EomtConfig'):
            pytest.skip('transformers has EoMT since 4.54')
        folder = tmp_path_factory.mktemp(name)
        model = write_model(folder, {**PIXELS, **MASKS}[name], PROCESSORS[name])
        if name == 'oneformer':
            write_tokenizer(folder)
        return folder, model

    return write


def hf(folder: Path, **changes: Any) -> Any:
    return build_segmentor(ConfigDict(type='HFSegmentor', model=str(folder), **changes), 'teacher')


def distilled(folder: Path, **changes: Any) -> Config:
    """A wrapper with such a model as its teacher."""
    teacher = dict(type='HFSegmentor', model=str(folder), **changes)
    config = wrapper_config(resnet(4), teacher, '', term())
    del config['teacher']['checkpoint']
    return config


def picture() -> Tensor:
    """A raw image (3, H, W), BGR."""
    return torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8)


def library_output(network: Any, model: Any, images: Tensor) -> Any:
    """What the library computes, OneFormer's text included."""
    text = {}
    if hasattr(network, 'task_inputs'):
        text['task_inputs'] = network.task_inputs.expand(len(images), -1)
    with torch.no_grad():
        return model(pixel_values=images, **text)


@pytest.mark.parametrize('name', PIXELS)
def test_scores_and_labels_are_the_library_s(written: Write, name: str) -> None:
    folder, model = written(name)
    network = hf(folder).eval()
    image = picture()
    images = network.data_preprocessor(dict(inputs=[image]))['inputs']
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    rgb = image.flip(0).permute(1, 2, 0).numpy()
    prepared = processor(images=[rgb], do_resize=False, do_center_crop=False, return_tensors='pt')
    torch.testing.assert_close(images, prepared['pixel_values'], rtol=0, atol=1e-5)
    output = library_output(network, model, images)
    with torch.no_grad():
        scores = network(images, mode='tensor')
        sample = network.predict(images)[0]
    expected = output.logits
    assert network.num_classes == CLASSES and network.is_pretrained
    # UperNet's own pass scales to the size of the images.
    found = F.interpolate(scores, expected.shape[-2:], mode='bilinear', align_corners=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert scores.shape[-1] < SIZE or name == 'dpt'
    (labels,) = processor.post_process_semantic_segmentation(output, [(SIZE, SIZE)])
    assert torch.equal(sample.pred_sem_seg.data[0], labels)


@pytest.mark.parametrize('name', MASKS)
def test_a_mask_classifier_gives_the_logarithm_of_its_semantic_map(
    written: Write, name: str
) -> None:
    folder, model = written(name)
    network = hf(folder).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    output = library_output(network, model, images)
    classes, masks = output.class_queries_logits, output.masks_queries_logits
    with torch.no_grad():
        found = network(images, mode='tensor')
    expected = torch.einsum('nqc,nqhw->nchw', classes.softmax(-1)[..., :-1], masks.sigmoid())
    torch.testing.assert_close(found.exp(), expected, rtol=0, atol=1e-5)
    assert found.shape == (2, CLASSES, *masks.shape[-2:])


@pytest.mark.parametrize(
    ('name', 'mask_size'), [('maskformer', None), ('mask2former', (384, 384)), ('oneformer', None)]
)
def test_a_mask_classifier_predicts_the_library_s_labels(
    written: Write, name: str, mask_size: Any
) -> None:
    folder, model = written(name)
    network = hf(folder, mask_size=mask_size).eval()
    images = torch.randn(1, 3, SIZE, SIZE)
    output = library_output(network, model, images)
    processor = transformers.Mask2FormerImageProcessor()
    if mask_size is None:
        processor = transformers.MaskFormerImageProcessor()
    (labels,) = processor.post_process_semantic_segmentation(output, [(SIZE, SIZE)])
    with torch.no_grad():
        sample = network.predict(images)[0]
    assert (sample.pred_sem_seg.data[0] == labels).float().mean() > 0.999


def test_channels_in_the_order_of_the_model(written: Write, tmp_path: Path) -> None:
    folder, _ = written('mobilevit')
    assert not hf(folder).data_preprocessor._channel_conversion
    for name in ('config.json', 'model.safetensors'):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    write_processor(tmp_path, PROCESSORS['mobilevit'], do_flip_channel_order=False)
    assert hf(tmp_path).data_preprocessor._channel_conversion


@pytest.mark.parametrize('name', ['segformer', 'upernet', 'maskformer'])
def test_a_student_is_trained_by_cross_entropy(written: Write, name: str) -> None:
    folder, _ = written(name)
    model = dict(type='HFSegmentor', model=str(folder))
    network = build(model)
    before = {key: one.clone() for key, one in network.backbone.state_dict().items()}
    # Its library initialised it, and nobody else does.
    assert same_tensors(before, build(model).backbone.state_dict())
    data = network.data_preprocessor(batch([(SIZE, SIZE)] * 2, blank=0.3), True)
    with torch.no_grad():
        scores = network.eval()(data['inputs'], mode='tensor')
        losses = network.loss(data['inputs'], data['data_samples'])
    labels = torch.stack([one.gt_sem_seg.data[0] for one in data['data_samples']])
    scores = F.interpolate(scores, (SIZE, SIZE), mode='bilinear', align_corners=False)
    # As mmseg has it, over all pixels.
    expected = F.cross_entropy(scores, labels, ignore_index=255, reduction='sum') / labels.numel()
    torch.testing.assert_close(losses['decode.loss_ce'], expected)
    found = gradients(network, sizes=[(SIZE, SIZE)] * 2)
    learns = [key for key, one in found.items() if one is not None and one.abs().sum() > 0]
    assert len(learns) > 0.8 * len(found)


def test_a_student_of_other_classes(written: Write) -> None:
    folder, model = written('segformer')
    network = hf(folder, num_classes=3)
    assert network.num_classes == 3 and not network.is_pretrained
    state = network.backbone.state_dict()
    key = 'segformer.encoder.layer_norm.0.weight'
    key = key if key in state else next(key for key in state if 'decode_head' not in key)
    assert torch.equal(state[key], model.state_dict()[key])
    with torch.no_grad():
        assert network(torch.randn(1, 3, SIZE, SIZE), mode='tensor').shape[1] == 3


def test_without_its_weights_where_a_checkpoint_has_them(written: Write) -> None:
    folder, model = written('segformer')
    config = ConfigDict(type='HFSegmentor', model=str(folder))
    network = build_segmentor(without_initialisation(config), 'student')
    assert not network.is_pretrained
    assert not same_tensors(network.backbone.state_dict(), model.state_dict())


def test_a_teacher_brings_its_weights(written: Write) -> None:
    folder, model = written('segformer')
    wrapper = build(distilled(folder, fold_bn=False))
    assert same_tensors(wrapper.teacher.backbone.state_dict(), model.state_dict())
    assert len(wrapper.own_weights['teacher']) == 64
    assert wrapper.predicting_teachers
    logs = train(wrapper, 2)
    assert all(log['kd.kl'].isfinite() for log in logs)
    assert not any(key.startswith('teacher') for key in wrapper.state_dict())


def test_a_teacher_gets_images_of_the_only_size_that_it_takes(written: Write) -> None:
    folder, _ = written('data2vec')
    wrapper = build(distilled(folder))
    assert wrapper._teachers['teacher']._scaling.size == (SIZE, SIZE)
    train(wrapper, 1)


def test_a_teacher_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    def classifier(t: Any) -> Any:
        return t.SegformerForImageClassification(segformer_config(t))

    write_model(tmp_path, classifier, 'SegformerImageProcessor')
    with pytest.raises(ConfigError, match=r'teacher: expected checkpoint=\.\.\.'):
        build(distilled(tmp_path))
    # A student may begin with a trained backbone.
    assert not hf(tmp_path).is_pretrained


def test_nothing_is_run_that_the_scores_do_without(written: Write) -> None:
    folder, _ = written('upernet')
    wrapper = build(distilled(folder))
    data = wrapper.data_preprocessor(batch([(SIZE, SIZE)] * 2), True)
    sizes = []
    original = F.interpolate

    def watched(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = original(x, *args, **kwargs)
        sizes.append(result.shape[-1])
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, 'interpolate', watched)
        wrapper._teachers['teacher'](data['inputs'], data['data_samples'])
    assert wrapper.teacher.backbone.auxiliary_head is None
    assert sizes and max(sizes) < SIZE


def test_its_layers_are_listed(written: Write) -> None:
    names = [layer.name for layer in list_layers(hf(written('segformer')[0]))]
    assert 'decode_head.conv_seg' in names
    assert any(name.startswith('backbone.decode_head.') for name in names)


class TestErrors:
    def test_no_segmentation_model(self, tmp_path: Path) -> None:
        def backbone(t: Any) -> Any:
            return t.Dinov2Model(t.Dinov2Config(hidden_size=24, num_hidden_layers=1))

        write_model(tmp_path, backbone, 'BitImageProcessor')
        with pytest.raises(ConfigError, match=r'is a dinov2 model.*segformer.*HFFeatures'):
            hf(tmp_path)

    def test_remote_code(self, written: Write, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match='trust_remote_code: code out of a repository'):
            hf(written('segformer')[0], trust_remote_code=True)
        names = dict(AutoConfig='net.Config')
        text = json.dumps(dict(model_type='a-model-of-its-own', auto_map=names))
        (tmp_path / 'config.json').write_text(text, encoding='utf-8')
        with pytest.raises(ConfigError, match='runs code of its own repository'):
            hf(tmp_path)

    def test_a_hub_name_without_a_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
        with pytest.raises(ConfigError, match=r"'nobody/nothing'.*hf download NAME --local-dir"):
            hf(Path('nobody/nothing'))

    def test_weights_that_may_run_code(self, written: Write, tmp_path: Path) -> None:
        folder, model = written('segformer')
        for name in ('config.json', 'preprocessor_config.json'):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        torch.save(model.state_dict(), tmp_path / 'pytorch_model.bin')
        with pytest.raises(CheckpointError, match=r'Expected \.safetensors.*--trust-checkpoint'):
            hf(tmp_path)
        with checkpoint_trust(True):
            assert hf(tmp_path).is_pretrained

    def test_no_processor(self, written: Write, tmp_path: Path) -> None:
        folder, _ = written('segformer')
        for name in ('config.json', 'model.safetensors'):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        with pytest.raises(ConfigError, match='data_preprocessor=dict'):
            hf(tmp_path)
        own = dict(type='SegDataPreProcessor', mean=[1.0] * 3, std=[2.0] * 3, size=(SIZE, SIZE))
        assert hf(tmp_path, data_preprocessor=own).data_preprocessor.mean[0] == 1

    def test_transformers_is_not_installed(
        self, written: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, _ = written('segformer')
        monkeypatch.setitem(sys.modules, 'transformers', None)
        with pytest.raises(ConfigError, match=r"HFSegmentor needs.*pip install 'mmseg-kd\[hf\]'"):
            hf(folder)

    def test_other_classes_than_the_student_s(self, tmp_path: Path) -> None:
        def seven(t: Any) -> Any:
            labels = {index: str(index) for index in range(7)}
            return t.SegformerForSemanticSegmentation(segformer_config(t, id2label=labels))

        write_model(tmp_path, seven, 'SegformerImageProcessor')
        with pytest.raises(ShapeError, match='5 classes apart and the teacher 7'):
            build(distilled(tmp_path))
