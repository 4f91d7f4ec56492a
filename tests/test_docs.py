"""What the README shows works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mmseg_kd.registry import KD_LOSSES, build

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def test_the_loss_to_add_is_a_loss() -> None:
    code = next(c for c in re.findall(r'```python\n(.*?)```', README, re.S) if 'FeatureLoss' in c)
    names: dict[str, Any] = {'__name__': 'my_losses'}
    try:
        exec(code, names)
        loss = build(KD_LOSSES, dict(type='FeatureLoss'), 'loss')
        student = torch.zeros(1, 2, 2, 2, requires_grad=True)
        value = loss(student, torch.full((1, 2, 4, 4), 3.0))
        assert value.item() == pytest.approx(9.0)
        value.backward()
        assert student.grad is not None
    finally:
        KD_LOSSES.module_dict.pop('FeatureLoss', None)


def test_every_file_it_names_is_there() -> None:
    named = re.findall(
        r'\b(?:tools|configs|distillation_configs|figures|benchmarks)/[\w./-]+', README
    )
    missing = {name for name in named if not (ROOT / name.rstrip('./')).exists()}
    # Paths inside the config that the README quotes are relative to that config.
    assert {name for name in missing if not name.startswith('configs/_base_')} == set()


def test_no_placeholder_is_left() -> None:
    assert '@@' not in README
