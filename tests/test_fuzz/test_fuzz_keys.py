"""Checkpoints of other layouts, whole and maimed."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmseg_kd.checkpoints.load import read_state_dict
from mmseg_kd.errors import CheckpointError
from mmseg_kd.migration.checkpoints import convert as convert_module
from mmseg_kd.migration.checkpoints.convert import convert_checkpoint
from mmseg_kd.migration.checkpoints.layout import NameTable, Renamed
from mmseg_kd.migration.checkpoints.segformer_keys import rename_segformer, segformer_model
from mmseg_kd.migration.checkpoints.swin_keys import rename_swin, swin_model

sys.path.append(str(Path(__file__).parents[1] / 'test_migration' / 'test_checkpoints'))
from original_networks import SegFormer, SwinUPerNet, hugging_face_names

State = dict[str, Tensor]

LAYOUTS = ['nvidia-segformer', 'huggingface-segformer', 'microsoft-swin']
# What the readers turn into a CheckpointError.
TOLD = (KeyError, IndexError, RuntimeError, ValueError, ZeroDivisionError)


@cache
def original(layout: str) -> State:
    torch.manual_seed(0)
    if layout == 'microsoft-swin':
        return dict(SwinUPerNet().state_dict())
    state = dict(SegFormer().state_dict())
    return state if layout == 'nvidia-segformer' else hugging_face_names(state)


def rename(state: State) -> Renamed | None:
    return rename_segformer(state) or rename_swin(state)


@st.composite
def states(draw: Any, harm: bool) -> tuple[str, State]:
    """A checkpoint in one of the layouts; with `harm` some keys and tensors are others."""
    layout = draw(st.sampled_from(LAYOUTS))
    state = dict(original(layout))
    keys = list(state)
    if draw(st.booleans()):
        draw(st.randoms(use_true_random=False)).shuffle(keys)
        state = {key: state[key] for key in keys}
    for _ in range(draw(st.integers(1, 4)) if harm else 0):
        key = draw(st.sampled_from(sorted(state)))
        value = state.pop(key)
        change = draw(st.sampled_from(['drop', 'rename', 'shape', 'cut', 'scalar', 'empty', 'add']))
        if change == 'rename':
            at = draw(st.integers(0, len(key)))
            state[key[:at] + draw(st.sampled_from(['x', '.', '0', '', '99'])) + key[at + 1 :]] = (
                value
            )
        elif change == 'shape':
            state[key] = value.flatten()
        elif change == 'cut':
            state[key] = value[: draw(st.integers(0, 3))] if value.ndim else value
        elif change == 'scalar':
            state[key] = torch.tensor(1.0)
        elif change == 'empty':
            state[key] = torch.zeros(0, 0)
        elif change == 'add':
            state[key] = value
            state[draw(st.text('abc.019', max_size=12))] = torch.zeros(2)
    return layout, state


@given(case=states(harm=False))
def test_no_tensor_is_lost_whatever_the_order(case: tuple[str, State]) -> None:
    layout, state = case
    renamed = rename(state)
    assert renamed is not None
    assert renamed.layout == layout
    names = rename(original(layout))
    assert names is not None
    assert renamed.state_dict.keys() == names.state_dict.keys()
    for key, value in renamed.state_dict.items():
        assert torch.equal(value, names.state_dict[key])
    # Under mmseg's names there is nothing to rename, and the network shows.
    assert rename(renamed.state_dict) is None
    assert (segformer_model(renamed.state_dict) or swin_model(renamed.state_dict)) is not None


@given(case=states(harm=True))
def test_a_maimed_checkpoint_is_renamed_or_refused(case: tuple[str, State]) -> None:
    _, state = case
    before = {key: value.clone() for key, value in state.items()}
    try:
        renamed = rename(state)
        if renamed is not None:
            segformer_model(renamed.state_dict)
            swin_model(renamed.state_dict)
    except TOLD:
        pass
    assert state.keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in state.items())


@settings(max_examples=max(settings.default.max_examples // 5, 5))
@given(case=states(harm=True))
def test_a_maimed_checkpoint_is_converted_or_a_checkpoint_error(case: tuple[str, State]) -> None:
    _, state = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_module, 'read_tensors', lambda source: dict(state))
        try:
            conversion = convert_checkpoint('maimed.pth')
        except CheckpointError as error:
            assert str(error).startswith('maimed.pth: ')
            return
    assert all(value.isfinite().all() for value in conversion.state_dict.values())


@given(
    prefix=st.sampled_from(['', 'module.', 'student.', 'module.student.']),
    around=st.sampled_from([None, 'state_dict', 'model']),
    names=st.sets(st.text('abc_0.', min_size=1, max_size=8), min_size=1, max_size=6),
    others=st.sets(st.sampled_from(['terms.a', 'teacher.b', 'x']), max_size=2),
)
def test_prefixes_come_off(
    prefix: str,
    around: str | None,
    names: set[str],
    others: set[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / 'prefixes.pth'
    state: Any = {prefix + name: torch.full((2,), i) for i, name in enumerate(sorted(names))}
    if 'student.' in prefix:
        wrapped = prefix.removesuffix('student.')
        state |= {wrapped + name: torch.zeros(1) for name in others}
    torch.save({around: state, 'meta': {}} if around else state, path)
    found = read_state_dict(str(path))
    assert sorted(found) == sorted(names)
    assert [int(found[name][0]) for name in sorted(names)] == list(range(len(names)))


@given(
    stage=st.integers(0, 30),
    block=st.integers(0, 300),
    first=st.integers(0, 3),
    name=st.text('ab.(){}*+', max_size=6),
)
def test_names_are_taken_letter_by_letter(stage: int, block: int, first: int, name: str) -> None:
    literal = name.replace('{', '').replace('}', '')
    table = NameTable([(f'{literal}b{{s}}.{{i}}.n', 'stage{s}.{i}')], first)
    key = f'{literal}b{stage + first}.{block}.n.weight'
    assert table.translate(key) == f'stage{stage}.{block}.weight'
    assert table.translate(f'x{key}') is None
    assert table.translate(key.replace('.n.', '.m.')) is None
