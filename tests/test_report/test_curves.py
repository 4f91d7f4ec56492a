from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from builders import term

from mmseg_kd.config.term_spec import parse_terms
from mmseg_kd.errors import Problems
from mmseg_kd.report.curves import _weights


def test_weights_are_drawn_as_planned_or_as_they_came() -> None:
    terms = [term(weight=2.0), term(weight='auto', name='own')]
    specs = parse_terms(terms, ['teacher'], Problems()).specs
    logged = [(10.0, 3.0), (20.0, 5.0)]
    log = SimpleNamespace(train={'kd_weight.own': logged, 'kd_weight.kl': logged})
    run: Any = SimpleNamespace(
        distillation=SimpleNamespace(terms=specs), max_iters=20, log=log, title='a'
    )
    planned, own = _weights(run)
    assert {value for _, value in planned.points} == {2.0}
    assert own.points == logged
