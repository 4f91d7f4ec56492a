"""A teacher whose classes are those of the data in another order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import resnet, save_weights, term, wrapper_config, write_config, write_dataset

from mmseg_kd.cli import train
from mmseg_kd.data_checks.class_order import check_class_order
from mmseg_kd.errors import ConfigError

OURS = ('road', 'traffic light', 'sky')


def test_another_order_is_refused_with_the_map_that_mends_it() -> None:
    with pytest.raises(ConfigError) as caught:
        check_class_order({'teacher': ('Sky', 'Road', 'traffic_light')}, OURS)
    text = str(caught.value)
    assert "its class 0 is 'Sky', and that of the data is 'road'" in text
    mapping = "class_map={'road': 'Road', 'traffic light': 'traffic_light', 'sky': 'Sky'}"
    assert f'teacher.{mapping}' in text


@pytest.mark.parametrize(
    'theirs',
    [
        ('Road', 'traffic-light', 'SKY'),
        ('sky', 'street', 'traffic light'),
        ('LABEL_0', 'LABEL_1', 'LABEL_2'),
        ('sky', 'road'),
    ],
    ids=['spelling', 'other names', 'no names', 'fewer'],
)
def test_what_tells_nothing_passes(theirs: tuple[str, ...]) -> None:
    check_class_order({'teacher': theirs}, OURS)


# The data of tests have the classes a to e.
@pytest.mark.parametrize(
    ('entry', 'changes', 'is_refused'),
    [
        (term(), {}, True),
        (term(), dict(class_map={name: name for name in 'abcde'}), False),
        (term('backbone.layer1', 'backbone.layer1', dict(type='FeatureLoss')), {}, False),
    ],
    ids=['scores', 'mapped', 'features'],
)
def test_before_the_first_batch(
    entry: dict[str, Any],
    changes: dict[str, Any],
    is_refused: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = save_weights(resnet(8), tmp_path / 'teacher.pth')
    model = wrapper_config(resnet(4), resnet(8), checkpoint, entry, classes=[*'edcba'], **changes)
    config = write_config(tmp_path, model, write_dataset(tmp_path / 'data'))
    assert train.main([str(config)]) == int(is_refused)
    assert ("its class 0 is 'e'" in capsys.readouterr().err) == is_refused
