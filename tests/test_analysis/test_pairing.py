"""Terms that are proposed for the layers of two networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    ROOT,
    batch,
    build,
    fcn_head,
    fpn,
    mit,
    preprocessor,
    resnet,
    save_weights,
    sgd,
    term,
    wrapper_config,
    write_config,
)
from mmengine.config import ConfigDict
from mmseg.registry import MODELS

from mmseg_kd.analysis.pairing import (
    Level,
    Proposal,
    as_text,
    pair_levels,
    proposals_of,
    propose,
)
from mmseg_kd.cli.list_layers import main
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import teachers_of, trained_network_of
from mmseg_kd.networks.build import build_network, without_initialisation

ADE = 'distillation_configs/ade20k/segformer-b3_'
CAMVID = 'distillation_configs/camvid/camvid-240x320.py'
SIZE = (64, 64)


def terms_in(text: str) -> list[dict[str, Any]]:
    names: dict[str, Any] = {}
    exec(text, names)
    terms: list[dict[str, Any]] = names['model']['distillation']
    return terms


def uncommented(text: str) -> str:
    """The text with the terms that are commented out."""
    lines = text.splitlines()
    code = '        # dict(', '        # )', '        #  '
    return '\n'.join(x.replace('# ', '', 1) if x.startswith(code) else x for x in lines)


def layers(proposals: list[Proposal], name: str) -> tuple[Any, Any] | None:
    """The student's and the teacher's layer of the term called `name`."""
    [found] = [p.term for p in proposals if p.term and p.term.get('name') == name] or [None]
    return None if found is None else (found['student_layer'], found['teacher_layer'])


# Whole networks, each proposal pasted into the config.


@pytest.fixture(scope='module')
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints by what they are of: the large teacher is written once."""
    return {}


@pytest.mark.parametrize(
    ('config', 'pairs'),
    [
        (f'{ADE}segformer-b0.py::baseline', {'stage4': ('backbone.layers.3.2',) * 2}),
        (f'{ADE}pspnet-r50.py::cgd', {'stage4': ('backbone.layer4', 'backbone.layers.3.2')}),
        (f'{ADE}swin-t.py::cgd-ws', {'stage4': ('backbone.norm3', 'backbone.layers.3.2')}),
        (
            f'{CAMVID}::mobilenetv2_baseline',
            {'stage1': ('backbone.layer2', 'backbone.timm_model.blocks.1')},
        ),
    ],
)
def test_a_proposal_for_a_shipped_config_trains(
    config: str,
    pairs: dict[str, tuple[str, str]],
    teachers: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    cfg = load_config(config, None)
    proposals = proposals_of(cfg)
    text = as_text(proposals)
    terms, all_terms = terms_in(text), terms_in(uncommented(text))
    [found] = proposals.values()
    assert terms == [p.term for p in found if p.term and not p.instead]
    assert all_terms == [p.term for p in found if p.term]
    assert 2 <= len(terms) < len(all_terms)
    for name, expected in pairs.items():
        assert layers(found, name) == expected

    [teacher] = teachers_of(cfg)[1].values()
    key = repr(teacher.model)
    if key not in teachers:
        path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
        network = build_network(without_initialisation(teacher.model), 'teacher')
        torch.save(network.state_dict(), path)
        teachers[key] = str(path)
    student = without_initialisation(trained_network_of(cfg).model)
    model = wrapper_config(student, teacher.model, teachers[key], *all_terms)
    model['data_preprocessor'] = preprocessor(SIZE)
    wrapper = MODELS.build(ConfigDict(model))
    connected = [one.connector is not None for one in wrapper.terms.values()]
    assert connected == ['is trained' in p.why for p in found if p.term]
    wrapper.train()
    log = wrapper.train_step(batch([SIZE] * 2), sgd(wrapper))
    values = {key: value for key, value in log.items() if key.startswith('kd.')}
    assert len(values) == len(all_terms)
    assert all(torch.isfinite(value) and value > 0 for value in values.values())


# What is proposed.


def test_scores_by_the_number_of_classes() -> None:
    def loss(classes: int) -> dict[str, Any]:
        network = build(resnet(classes=classes))
        first = propose(network, network)[0]
        assert first.term is not None
        assert not first.instead
        assert first.term['student_layer'] == 'decode_head.conv_seg'
        return {**first.term['loss'], 'weight': first.term['weight']}

    cwd = dict(type='CWD', tau=4.0, resolution='student', weight=3.0)
    assert loss(2) == loss(11) == cwd
    assert loss(150) == dict(type='CGDLoss', group_size=10, tau=2.0, weight=3.0)


def test_scores_of_other_classes_are_not_paired() -> None:
    found = propose(build(resnet(classes=4)), build(resnet(classes=5)))
    assert 'the teacher tells 4 classes apart, the student 5' in found[0].why
    assert found[0].term is None
    assert not any('conv_seg' in str(p.term) for p in found)
    # A remark alone is a comment.
    assert '# Class scores cannot be compared' in as_text({'teacher': found})
    assert terms_in(as_text({'teacher': found}))[0]['name'] == 'stage2'


def test_levels_of_equal_stride_go_together() -> None:
    def levels(*strides: int) -> list[Level]:
        return [Level(f'layer{i}', 8, stride) for i, stride in enumerate(strides)]

    def paired(teacher: list[Level], student: list[Level]) -> list[tuple[str, str]]:
        return [(a.layer[5:], b.layer[5:]) for a, b in pair_levels(teacher, student)]

    assert paired(levels(2, 4, 8, 16), levels(4, 8, 16, 32)) == [('1', '0'), ('2', '1'), ('3', '2')]
    # Dilated: in order where both have as many, else the deepest of a stride.
    assert paired(levels(4, 8, 16), levels(4, 8, 8)) == [('0', '0'), ('1', '1'), ('2', '2')]
    assert paired(levels(4, 8, 16, 32), levels(4, 8, 8)) == [('0', '0'), ('1', '2')]
    assert paired(levels(4), levels(8)) == []


def test_necks_are_paired_where_both_have_one() -> None:
    both = propose(build(fpn(8)), build(fpn(4)))
    assert layers(both, 'neck2') == ('neck.fpn_convs.1',) * 2
    assert layers(propose(build(fpn(8)), build(resnet(4))), 'neck2') is None


def test_attention_is_paired_where_both_see_as_many_positions() -> None:
    student = mit(8)
    student['backbone'].update(drop_rate=0.0)
    teacher = mit(16)
    found = propose(build(teacher), build(student))
    block = 'backbone.layers.1.1.0.attn.attn'
    assert layers(found, 'attention2') == ([f'{block}.weights', f'{block}.value'],) * 2
    assert layers(propose(build(teacher), build(student), same_images=False), 'attention2') is None
    teacher['backbone']['sr_ratios'] = [1, 1]
    assert layers(propose(build(teacher), build(student)), 'attention2') is None


def test_a_student_that_drops_attention_weights_has_no_pair_of_them() -> None:
    student = mit(8)
    student['backbone'].update(attn_drop_rate=0.5)
    assert layers(propose(build(mit(8)), build(student)), 'attention2') is None


def test_frozen_stages_of_the_student_are_left_out() -> None:
    student = resnet(4)
    student['backbone']['frozen_stages'] = 1
    found = propose(build(resnet(8)), build(student))
    assert layers(found, 'stage1') is None
    assert layers(found, 'stage2') == ('backbone.layer2', 'backbone.layer2')


def test_maps_that_come_with_a_class_token() -> None:
    backbone = dict(
        type='VisionTransformer',
        img_size=SIZE,
        embed_dims=16,
        num_layers=4,
        num_heads=2,
        out_indices=(0, 1, 2, 3),
        final_norm=False,
        output_cls_token=True,
    )
    head = dict(
        type='DPTHead',
        in_channels=[16] * 4,
        in_index=[0, 1, 2, 3],
        input_transform='multiple_select',
        embed_dims=16,
        post_process_channels=[4] * 4,
        channels=8,
        num_classes=5,
    )
    network = build(dict(resnet(), backbone=backbone, decode_head=head))
    found = propose(network, network)
    assert found[0].term is not None
    assert found[0].term['student_layer'] == 'decode_head.conv_seg'
    assert layers(found, 'stage2') is None


# The command.


def test_with_several_teachers_each_term_names_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {**resnet(8), 'checkpoint': save_weights(resnet(8), tmp_path / 'a.pth'), 'name': 'a'}
    model = wrapper_config(resnet(4), resnet(8), 'absent', term())
    model['teacher'] = [one, {**one, 'name': 'b'}]
    assert main([str(write_config(tmp_path, model, tmp_path)), '--pair']) == 0
    text = capsys.readouterr().out
    terms = terms_in(uncommented(text))
    assert {t['teacher'] for t in terms} == {'a', 'b'}
    assert {t['name'] for t in terms if 'name' in t} >= {'stage2_a', 'stage2_b'}
    assert all(len(line) <= 80 for line in text.splitlines() if str(tmp_path) not in line)
    MODELS.build(ConfigDict({**model, 'distillation': terms}))


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(model: dict[str, Any], *args: str) -> str:
        assert main([str(write_config(tmp_path, model, tmp_path)), '--pair', *args]) == 1
        return capsys.readouterr().err

    assert 'expected a distillation, with a teacher and a student' in refused(resnet())
    model = wrapper_config(resnet(4, auxiliary_head=fcn_head(4, 0)), resnet(8), 'absent')
    assert 'omit --side and --filter' in refused(model, '--side', 'teacher')
    model['teacher'] = []
    assert 'expected a distillation, with a teacher' in refused(model)
