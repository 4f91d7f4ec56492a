"""The plot of the terms' weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import resnet, term, wrapper_config, write_config
from PIL import Image

from mmseg_kd.analysis.schedule import draw_weights, mean_weights, terms_of
from mmseg_kd.cli.plot_schedule import main
from mmseg_kd.config.load import load_config


def config(tmp_path: Path, *terms: object, iterations: int = 100) -> str:
    model = wrapper_config(resnet(4), resnet(8), 'absent.pth', *terms)
    model['teacher'] = [{**model['teacher'], 'name': name} for name in 'ab']
    path = write_config(tmp_path, model, tmp_path / 'absent')
    text = path.read_text(encoding='utf-8').replace('max_iters=4', f'max_iters={iterations}')
    path.write_text(text, encoding='utf-8')
    return str(path)


TERMS = (
    term(teacher='a', name='late', weight=2.0, schedule=[dict(type='Jump', begin=40, end=60)]),
    term(
        teacher=['a', 'b'],
        name='turns',
        reduction='random',
        schedule=dict(type='LinearWarmup', end=10),
    ),
    term(teacher='a', name='never', weight=0.0),
    term(teacher='a', name='own', weight=dict(share=0.5)),
)


def test_what_it_says_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'deep' / 'schedule.png'
    assert main([config(tmp_path, *TERMS), '--out', str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        'late: weight up to 2, above 0 from iteration 40 to 59',
        'turns_a: weight up to 0.5, above 0 from iteration 1 to 99',
        'turns_b: weight up to 0.5, above 0 from iteration 1 to 99',
        'never: weight up to 0, above 0 never',
        "own (share of the task's gradient): weight up to 0.5, above 0 from iteration 0 to 99",
        f'Picture: {out}',
    ]
    with Image.open(out) as picture:
        assert picture.size == (1200, 600)
        # The curves and their legend, on white.
        assert len(picture.convert('RGB').getcolors(1 << 20)) > 50


def test_weights_are_those_of_training(tmp_path: Path) -> None:
    late, *turns, _, _ = terms_of(load_config(config(tmp_path, *TERMS), None))
    assert mean_weights(late, range(100)) == [late.weight_at(i) for i in range(100)]
    # Over a run the draws come to their mean.
    whole = [sum(one.weight_at(i) for i in range(10, 4000)) / 3990 for one in turns]
    assert whole == pytest.approx([0.5, 0.5], abs=0.03)


def test_curves_are_drawn(tmp_path: Path) -> None:
    pictures = []
    for values in ([0.0, 1.0], [1.0, 0.0]):
        draw_weights({'a': values}, 'title', tmp_path / 'a.png')
        pictures.append((tmp_path / 'a.png').read_bytes())
    assert pictures[0] != pictures[1]


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*args: str) -> str:
        assert main([*args]) == 1
        return capsys.readouterr().err

    assert 'expected a distillation with terms' in refused(config(tmp_path))
    good = config(tmp_path, *TERMS)
    assert 'svg' in refused(good, '--out', str(tmp_path / 'a.xyz'))
    options = ('--cfg-options', 'train_cfg.max_iters=0')
    assert 'max_iters >= 1 in the config, got 0' in refused(good, *options)
    wrong = config(tmp_path, term(teacher='c', schedule=dict(type='LinearWarmpu', end=3)))
    assert "there is no teacher 'c'" in refused(wrong)
