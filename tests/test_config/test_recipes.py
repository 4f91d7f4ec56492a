from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from builders import (
    batch,
    build,
    mit,
    preprocessor,
    resnet,
    save_weights,
    sgd,
    term,
    wrapper_config,
    write_config,
)
from mmengine.config import Config

from mmseg_kd.cli import list_experiments, list_layers, print_config
from mmseg_kd.config.recipes import RECIPES, expanded
from mmseg_kd.config.term_spec import parse_terms
from mmseg_kd.errors import ManyErrors, Problems
from mmseg_kd.schedules import at_iteration

# Patches of AfDCD need large maps, and groups of CGD many classes.
SIZE, CLASSES = (128, 128), 12


@pytest.fixture
def networks(tmp_path: Path) -> Any:
    """A student, a teacher and its checkpoint."""
    teacher, student = resnet(8, classes=CLASSES), mit(8, classes=CLASSES)
    for one in (teacher, student):
        one['data_preprocessor'] = preprocessor(SIZE)
    return student, teacher, save_weights(teacher, tmp_path / 'teacher.pth')


@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_trains_a_step(name: str, networks: Any) -> None:
    wrapper = build(wrapper_config(*networks, dict(recipe=name)))
    wrapper.train()
    with at_iteration(3000):  # where the weights of CGD are as written
        log = wrapper.train_step(batch([SIZE, SIZE]), sgd(wrapper))
    losses = {key: value.item() for key, value in log.items() if key.startswith('kd.')}
    assert len(losses) == len(RECIPES[name].terms)
    assert all(math.isfinite(value) and value != 0 for value in losses.values())


def test_recipe_is_its_terms() -> None:
    plain = term('a', 'b', name='plain')
    assert expanded([dict(recipe='cwd'), plain, dict(recipe='skd')]) == [
        dict(
            student_layer='@scores',
            teacher_layer='@scores',
            loss=dict(type='CWD', tau=4.0, resolution='student'),
            weight=3.0,
        ),
        plain,
        *RECIPES['skd'].terms,
    ]


def test_keys_take_the_place_of_the_recipes() -> None:
    own = dict(weight=1.0, loss=dict(tau=2.0), schedule=[], student_layer='x', name='n')
    [changed] = expanded([dict(recipe='cgd', **own)])
    loss = dict(type='CGDLoss', group_size=10, tau=2.0)
    assert changed == dict(own, loss=loss, teacher_layer='@scores')
    [other] = expanded([dict(recipe='kl', loss=dict(type='CDLoss'))])
    assert other['loss'] == dict(type='CDLoss')
    terms = expanded([dict(recipe='mgd', teacher='b3', schedule=dict(type='Jump'))])
    assert [(one['teacher'], one['schedule']) for one in terms] == [('b3', dict(type='Jump'))] * 2
    terms[0]['loss']['mask_ratio'] = 0.1
    assert RECIPES['mgd'].terms[0]['loss']['mask_ratio'] == 0.75


def test_what_is_wrong_is_said_at_once() -> None:
    wrong = [dict(recipe='cdw'), dict(recipe='mgd', weight=2.0), dict(recipe=3)]
    with pytest.raises(ManyErrors) as caught:
        expanded(wrong)
    texts = [str(error) for error in caught.value.errors]
    assert texts[0].startswith("distillation[0].recipe: there is no recipe 'cdw'; nearest: cwd")
    assert texts[1].startswith("distillation[1].weight: the recipe 'mgd' has 2 terms; of all of")
    assert texts[2].startswith('distillation[2].recipe: there is no recipe 3; ')
    problems = Problems()
    parse_terms([*wrong, term(weight=-1)], ['teacher'], problems)
    assert [str(error) for error in problems.errors[:3]] == texts
    assert str(problems.errors[3]).startswith('distillation[3].weight: expected a finite number')


def test_wrong_role_is_found_with_the_rest(networks: Any) -> None:
    wrong = [dict(recipe='kl', student_layer='@score'), term('@features', '@stage', weight=-1)]
    with pytest.raises(ManyErrors) as caught:
        build(wrapper_config(*networks, *wrong))
    texts = [str(error).split(';')[0] for error in caught.value.errors]
    assert "distillation[0].student_layer: there is no role '@score'" in texts
    assert any(text.startswith('distillation[1].weight') for text in texts)


@pytest.fixture
def config(networks: Any, tmp_path: Path) -> Path:
    model = wrapper_config(*networks, dict(recipe='mgd'))
    return write_config(tmp_path, model, tmp_path / 'absent')


def test_commands_show_it(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'whole.py'
    assert print_config.main([str(config), '--out', str(out)]) == 0
    assert Config.fromfile(out).model.distillation == RECIPES['mgd'].terms
    capsys.readouterr()
    assert list_experiments.main([str(config)]) == 0
    assert '2e-05 * MGDLoss(mask_ratio=0.75) + 3 * CWD(' in capsys.readouterr().out
    assert list_layers.main([str(config), '--pair', '--recipe', 'mgd']) == 0
    printed = capsys.readouterr().out
    assert '# Yang et al., Masked Generative Distillation, ECCV 2022' in printed
    found: dict[str, Any] = {}
    exec(printed, found)
    layers = [
        (one['student_layer'], one['teacher_layer']) for one in found['model']['distillation']
    ]
    assert layers == [
        ('backbone.layers.1.2', 'backbone.layer2'),
        ('decode_head.conv_seg', 'decode_head.conv_seg'),
    ]
    assert list_layers.main([str(config), '--pair', '--recipe', 'gmd']) == 1
    assert "--recipe: there is no recipe 'gmd'; nearest: mgd" in capsys.readouterr().err
    assert list_layers.main([str(config), '--recipe', 'mgd']) == 1
    assert '--recipe: goes with --pair' in capsys.readouterr().err


def test_unknown_recipe_ends_a_command(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(config), '--cfg-options', 'model.distillation.0.recipe=mdg']
    assert print_config.main(command) == 1
    assert "distillation[0].recipe: there is no recipe 'mdg'" in capsys.readouterr().err
