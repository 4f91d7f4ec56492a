"""A teacher whose scores come with the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import batch, build, gradients, resnet, save_weights, sgd, term, wrapper_config
from mmengine.structures import PixelData

from mmseg_kd.checkpoints.digest import sha256_of
from mmseg_kd.errors import ConfigError, ManyErrors


def model(tmp_path: Path, *terms: dict[str, Any], **teacher: Any) -> dict[str, Any]:
    checkpoint = save_weights(resnet(8), tmp_path / 't.pth')
    terms = terms or (term(),)
    return wrapper_config(resnet(4), resnet(8), checkpoint, *terms, **teacher)


def with_scores(data: dict[str, Any], scores_NCHW: torch.Tensor, sha256: str) -> dict[str, Any]:
    for sample, scores in zip(data['data_samples'], scores_NCHW, strict=True):
        kept = PixelData(data=scores, metainfo=dict(sha256=sha256, stride=8))
        sample.set_data(dict(teacher_scores=kept))
    return data


def test_it_teaches_what_it_would_if_it_were_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = build(model(tmp_path))
    images = live.data_preprocessor(batch(), True)['inputs']
    scores = live._teachers['teacher'](images)['decode_head.conv_seg']
    expected = gradients(live)

    stored = build(model(tmp_path, stored=True))
    monkeypatch.setattr(
        type(stored.teacher), 'forward', lambda *_, **__: pytest.fail('the teacher was run')
    )
    data = with_scores(batch(), scores, sha256_of(tmp_path / 't.pth'))
    monkeypatch.setattr('builders.batch', lambda **_: data)
    found = gradients(stored)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_scores_are_padded_as_the_images_are(tmp_path: Path) -> None:
    wrapper = build(model(tmp_path, stored=True))
    data = batch([(24, 32), (31, 19)])
    sha256 = sha256_of(tmp_path / 't.pth')
    for sample, size in zip(data['data_samples'], [(6, 8), (8, 5)], strict=True):
        scores = torch.ones(5, *size)
        scores[:, 1, 1] = -3
        kept = PixelData(data=scores.half(), metainfo=dict(sha256=sha256, stride=4))
        sample.set_data(dict(teacher_scores=kept))
    ready = wrapper.data_preprocessor(data, True)
    teacher = wrapper._teachers['teacher']
    scores = teacher(ready['inputs'], ready['data_samples'], ['x'])['x']
    assert scores.shape == (2, 5, 8, 8)
    assert scores.dtype == torch.float32
    assert (scores[0, :, 6:] == -3).all()
    assert (scores[1, :, :, 5:] == -3).all()
    assert (scores == 1).sum() == 5 * (6 * 8 + 8 * 5 - 2)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    features = term('backbone.layer2', 'backbone.layer2', 'FeatureLoss')
    with pytest.raises((ConfigError, ManyErrors), match='is tapped, and class scores'):
        build(model(tmp_path, features, stored=True))
    wrapper = build(model(tmp_path, stored=True))
    with pytest.raises(ConfigError, match='the images come without scores'):
        wrapper.train_step(batch(), sgd(wrapper))
    data = with_scores(batch(), torch.zeros(2, 5, 8, 8), 'a' * 64)
    with pytest.raises(ConfigError, match="another network's: of weights with the SHA-256 aaaa"):
        wrapper.train_step(data, sgd(wrapper))


def test_one_is_stored_and_it_takes_no_part_but_that(tmp_path: Path) -> None:
    wrapper = build(model(tmp_path, stored=True))
    wrapper.double()
    assert next(wrapper.teacher.parameters()).dtype == torch.float32
    assert not wrapper.predicting_teachers
    config = model(tmp_path, stored=True)
    config['teacher'] = [config['teacher'], config['teacher']]
    with pytest.raises((ConfigError, ManyErrors), match='teacher0 and teacher1 are stored=True'):
        build(config)
