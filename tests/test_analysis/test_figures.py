"""Lineups of trained networks and their figures, without the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import ROOT
from mmengine.registry import DefaultScope
from PIL import Image
from test_cli.test_visualize import Project

from mmseg_kd.analysis.comparison import comparison_figure
from mmseg_kd.analysis.figures import compare, errors, features, layers_of
from mmseg_kd.analysis.lineup import Lineup, line_up
from mmseg_kd.analysis.scene import make_scenes
from mmseg_kd.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    LayerNotFoundError,
    ManyErrors,
)


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp('project'))


@pytest.fixture(scope='module')
def lineup(project: Project) -> Lineup:
    return line_up(project.runs, teacher=True)


def test_networks_their_data_and_the_two_that_count(project: Project, lineup: Lineup) -> None:
    assert list(lineup.networks) == ['baseline', 'CGD + KL', 'teacher']
    assert not any(network.training for network in lineup.networks.values())
    assert len(lineup.dataset) == 4
    # The teacher does not count where there are two others.
    assert lineup.between == ('baseline', 'CGD + KL')
    assert line_up(project.runs[:1], teacher=True).between == ('baseline', 'teacher')
    assert line_up(project.runs[:1]).between is None


def test_images_by_name_and_by_choice(project: Project, lineup: Lineup) -> None:
    assert lineup.find(['3', 'elsewhere/1.jpg']) == [3, 1]
    assert lineup.names([3, 1]) == ['3', '1']
    with pytest.raises(DatasetError, match="no image 'x'; nearest: "):
        lineup.find(['x'])
    chosen = lineup.choose(2)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 2
    assert line_up(project.runs[:1]).choose(2) == [0, 3]


def test_a_comparison_is_of_what_is_lined_up(lineup: Lineup) -> None:
    figure = compare(lineup, [2, 0], cell_width=96)
    assert figure.width == 5 * 96 + 6 * 3
    meta = lineup.dataset.metainfo
    scenes = make_scenes(lineup.dataset, [2, 0], lineup.networks, ['2', '0'])
    expected = comparison_figure(
        scenes, list(lineup.networks), meta['classes'], meta['palette'], lineup.between, 96
    )
    assert np.array_equal(figure, expected)


def test_errors_have_a_column_for_the_two(lineup: Lineup) -> None:
    assert errors(lineup, [1], cell_width=96).width == 6 * 96 + 7 * 3


def test_layers_differ_for_the_teacher_alone(lineup: Lineup) -> None:
    pair = 'backbone.layer1:backbone.layer2'
    [row] = layers_of(lineup, [pair, pair])
    assert row == {
        'baseline': 'backbone.layer1',
        'CGD + KL': 'backbone.layer1',
        'teacher': 'backbone.layer2',
    }
    assert [row['teacher'] for row in layers_of(lineup)] == [
        'decode_head.conv_seg',
        'backbone.layer2',
    ]
    assert features(lineup, [1], [pair], cell_width=96).width == 4 * 96 + 5 * 3
    with pytest.raises(ManyErrors) as raised:
        layers_of(lineup, ['backbone.layer9'])
    assert [type(error) for error in raised.value.errors] == 3 * [LayerNotFoundError]
    with pytest.raises(ConfigError, match=r'--query: .* from 0 to 1, got \[0.5, 2\]'):
        features(lineup, [1], query=(0.5, 2))


def test_images_without_ground_truth(project: Project) -> None:
    folder = project.data / 'images' / 'val'
    found = line_up(project.runs, input=folder)
    assert compare(found, [0], cell_width=96).width == 3 * 96 + 4 * 3
    with pytest.raises(DatasetError, match='errors needs ground truth'):
        errors(found, [0])


def test_a_checkpoint_of_another_network(project: Project) -> None:
    config = next(Path(project.runs[0]).glob('*.py'))
    with pytest.raises(CheckpointError, match='of another shape'):
        line_up([f'{config}:{project.weights}'])


def test_the_process_keeps_its_scope_and_needs_none(project: Project) -> None:
    with DefaultScope.overwrite_default_scope('mmengine'):
        compare(line_up(project.runs), [0], cell_width=96)
        assert DefaultScope.get_current_instance().scope_name == 'mmengine'


def test_what_the_page_shows(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / 'docs' / 'visualize.md').read_text(encoding='utf-8')
    [code] = [block.split('```')[0] for block in page.split('```python\n') if 'line_up(' in block]
    for name, run in zip(('baseline', 'cgd'), project.runs, strict=True):
        code = code.replace(f'work_dirs/{name}', run)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    for kind in ('comparison', 'errors', 'features'):
        assert Image.open(tmp_path / f'{kind}.png').width > 900
