"""mmseg-kd pseudo-label: masks of images without any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import resnet, save_weights, term, wrapper_config, write_config, write_dataset
from hf_models import PIXELS, PROCESSORS, write_model
from mmengine.config import ConfigDict
from mmseg.registry import DATASETS, MODELS
from PIL import Image

from mmseg_kd.analysis.pseudo_labels import PseudoLabels, Settings
from mmseg_kd.cli import pseudo_label, train


@pytest.fixture
def made(tmp_path: Path) -> tuple[str, Path]:
    """A trained network as CONFIG:CHECKPOINT, and a folder of three images."""
    data = write_dataset(tmp_path / 'data')
    config = write_config(tmp_path, resnet(4), data)
    save_weights(resnet(4), tmp_path / 'net.pth')
    return f'{config}:{tmp_path / "net.pth"}', data / 'images' / 'val'


def masks_in(folder: Path) -> dict[str, Any]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob('*.png'))}


def test_masks_are_those_of_the_network_where_it_is_sure(
    made: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, images = made
    out = tmp_path / 'masks'
    assert pseudo_label.main([network, str(images), str(out), '--min-confidence', '0']) == 0
    everywhere = masks_in(out)
    assert list(everywhere) == ['0.png', '1.png', '2.png']
    labels = PseudoLabels(Settings(network, None, 0.0), images, out, torch.device('cpu'))
    scores = labels.network.test_step(_batch(labels.images[0]))[0].seg_logits.data.detach()
    assert (everywhere['0.png'] == scores.argmax(0).numpy()).all()
    sure = scores.softmax(0).amax(0)
    threshold = float(sure.median())
    other = tmp_path / 'other'
    args = [network, str(images), str(other), '--min-confidence', str(threshold)]
    assert pseudo_label.main(args) == 0
    expected = np.where(sure.numpy() < threshold, 255, everywhere['0.png'])
    assert (masks_in(other)['0.png'] == expected).mean() > 0.999
    assert '3 masks in' in capsys.readouterr().out


def _batch(item: Any) -> dict[str, Any]:
    return dict(inputs=[item['inputs']], data_samples=[item['data_samples']])


def test_goes_on_and_refuses_other_settings(
    made: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, images = made
    out = tmp_path / 'masks'
    args = [network, str(images), str(out), '--min-confidence', '0.3']
    assert pseudo_label.main(args) == 0
    kept = (out / '0.png').stat().st_mtime_ns
    before = masks_in(out)
    (out / '1.png').unlink()
    assert pseudo_label.main(args) == 0
    assert (out / '0.png').stat().st_mtime_ns == kept
    assert all((before[name] == mask).all() for name, mask in masks_in(out).items())
    assert json.loads((out / 'pseudo_labels.json').read_text())['min_confidence'] == 0.3
    assert pseudo_label.main([*args[:3], '--min-confidence', '0.5']) == 1
    # A run that has trained on since then is called as before.
    save_weights(resnet(4), tmp_path / 'net.pth', seed=3)
    assert pseudo_label.main(args) == 1
    assert 'choose another folder' in capsys.readouterr().err
    assert pseudo_label.main([network, str(images), str(images.parent / 'train')]) == 0
    Path(tmp_path / 'own' / 'train').mkdir(parents=True)
    Image.new('L', (2, 2)).save(tmp_path / 'own' / 'train' / 'mine.png')
    assert pseudo_label.main([network, str(images), str(tmp_path / 'own')]) == 1
    assert 'holds other files' in capsys.readouterr().err
    assert pseudo_label.main([*args[:2], str(tmp_path / 'x'), '--min-confidence', '2']) == 1
    assert pseudo_label.main([network, str(images), str(images / 'masks')]) == 1
    assert 'lies in the folder of the images' in capsys.readouterr().err


def test_ranks_share_the_images_and_bad_ones_are_told(
    made: tuple[str, Path], tmp_path: Path
) -> None:
    network, images = made
    (images / '1.jpg').write_bytes(b'')
    labels = PseudoLabels(Settings(network), images, tmp_path / 'm', torch.device('cpu'))
    problems = list(labels.run(1, 2))
    assert len(problems) == 1
    assert '1.jpg is empty' in str(problems[0])
    assert list(labels.run(0, 2)) == [None, None]
    assert list(masks_in(tmp_path / 'm')) == ['0.png', '2.png']
    coverage = labels.coverage()
    assert coverage.masks == 2
    assert coverage.pixels.sum() + coverage.ignored == 2 * 32 * 32
    args = [network, str(images), str(tmp_path / 'm')]
    assert pseudo_label.main(args) == 1


def test_masks_can_be_trained_on(made: tuple[str, Path], tmp_path: Path) -> None:
    network, images = made
    out = tmp_path / 'masks'
    assert pseudo_label.main([network, str(images), str(out), '--min-confidence', '0.25']) == 0
    dataset = DATASETS.build(
        dict(
            type='BaseSegDataset',
            data_prefix=dict(img_path=str(images), seg_map_path=str(out)),
            metainfo=dict(classes=tuple('abcde')),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
        )
    )
    assert len(dataset) == 3
    mask = dataset[2]['gt_seg_map']
    assert mask.shape == (32, 32)
    assert set(np.unique(mask)) <= {0, 1, 2, 3, 4, 255}


def test_scores_that_a_stored_teacher_teaches_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_dataset(tmp_path / 'data')
    checkpoint = save_weights(resnet(8), tmp_path / 'teacher.pth')
    model = wrapper_config(resnet(4), resnet(8), checkpoint, term(), stored=True)
    config = write_config(tmp_path, model, data)
    out = tmp_path / 'scores'
    images = data / 'images' / 'train'
    args = [str(config), str(images), str(out), '--teacher', '--scores', '--stride', '8']
    assert pseudo_label.main(args) == 0
    assert '4 files of scores in' in capsys.readouterr().out
    scores = np.load(out / '3.npy')
    assert (scores.shape, scores.dtype) == ((5, 4, 4), np.float16)
    labels = PseudoLabels(Settings(str(config), '', stride=8), images, out, torch.device('cpu'))
    whole = labels.network.test_step(_batch(labels.images[3]))[0].seg_logits.data
    expected = torch.nn.functional.interpolate(
        whole[None], (4, 4), mode='bilinear', antialias=True
    )[0]
    torch.testing.assert_close(torch.from_numpy(scores).float(), expected, rtol=2e-3, atol=1e-2)
    # Masks are another kind.
    assert pseudo_label.main([*args[:3], '--teacher']) == 1
    assert 'choose another folder' in capsys.readouterr().err
    assert pseudo_label.main([*args[:-1], '0']) == 1
    assert pseudo_label.main([*args, '--min-confidence', '0.5']) == 1
    assert pseudo_label.main([*args[:3], '--teacher', '--stride', '8']) == 1
    # Files of the same names that are other images.
    assert pseudo_label.main([args[0], str(data / 'images' / 'val'), *args[2:]]) == 1
    assert capsys.readouterr().err.count('leave it out') == 2

    text = config.read_text().replace(
        "dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')]",
        "dict(type='TrackPixels'), dict(type='RandomFlip', prob=0.5), "
        f"dict(type='PackStoredScores', folder={str(out)!r})]",
    )
    config.write_text(text)
    (out / '3.npy').rename(out / 'gone')
    assert train.main([str(config)]) == 1
    assert '1 of 4 images have no scores; the first: ' in capsys.readouterr().err
    (out / 'gone').rename(out / '3.npy')
    assert train.main([str(config)]) == 0
    assert len(list((tmp_path / 'work').glob('iter_4.pth'))) == 1


def test_probabilities_are_no_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / 'data')
    model = resnet(4, classes=2)
    model['decode_head']['out_channels'] = 1
    config = write_config(tmp_path, model, data)
    save_weights(model, tmp_path / 'net.pth')
    network = f'{config}:{tmp_path / "net.pth"}'
    args = [network, str(data / 'images' / 'val'), str(tmp_path / 'scores'), '--scores']
    assert pseudo_label.main(args) == 1
    assert 'this one gives probabilities' in capsys.readouterr().err


def test_a_teacher_that_comes_with_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / 'hf', PIXELS['segformer'], PROCESSORS['segformer'])
    teacher = dict(type='HFSegmentor', model=str(tmp_path / 'hf'))
    distillation = dict(
        type='DistillationWrapper', student=resnet(4), teacher=teacher, distillation=[term()]
    )
    data = write_dataset(tmp_path / 'data')
    config = str(write_config(tmp_path, distillation, data))
    images, out = data / 'images' / 'val', tmp_path / 'masks'
    args = [config, str(images), str(out), '--teacher', '--min-confidence', '0']
    assert pseudo_label.main(args) == 0
    labels = PseudoLabels(Settings(config, '', 0.0), images, tmp_path / 'more', torch.device('cpu'))
    pixel_values = labels.network.data_preprocessor(_batch(labels.images[0]))['inputs']
    scores = model(pixel_values=pixel_values).logits
    size = masks_in(out)['0.png'].shape
    expected = torch.nn.functional.interpolate(scores, size, mode='bilinear').argmax(1)[0]
    assert (masks_in(out)['0.png'] == expected.numpy()).mean() > 0.99
    kept = tmp_path / 'kept'
    assert pseudo_label.main([config, str(images), str(kept), '--teacher', '--scores']) == 0
    made_with = json.loads((kept / 'pseudo_labels.json').read_text())
    wrapper = MODELS.build(ConfigDict(distillation))
    assert {'teacher': made_with['sha256']} == wrapper.own_weights
    # One without any is refused.
    (tmp_path / 'bare').mkdir()
    bare = write_config(tmp_path / 'bare', {**distillation, 'teacher': resnet(8)}, data)
    assert pseudo_label.main([str(bare), str(images), str(tmp_path / 'none'), '--teacher']) == 1
    assert 'model.teacher.checkpoint=FILE' in capsys.readouterr().err
