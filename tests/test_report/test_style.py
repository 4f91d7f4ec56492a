"""Colours of the page: text can be read in both themes, and by those who see few colours."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from mmseg_kd.report.page import asset

# What is text on the paper.
INKS = ('ink', 'soft', 'accent', 'up', 'down', *(f'c{i}' for i in range(7)), 'ct')
Colour = tuple[float, float, float]


def themes() -> dict[str, dict[str, str]]:
    """The variables of every block of the style that sets a paper, by its selector."""
    blocks = re.findall(r'(:root[^{]*)\{([^}]*--paper[^}]*)\}', asset('report.css'))
    return {
        f'{i}: {selector.strip()}': dict(re.findall(r'--([\w-]+): (#\w+)', body))
        for i, (selector, body) in enumerate(blocks)
    }


def rgb(colour: str) -> Colour:
    digits = colour.lstrip('#')
    digits = ''.join(2 * c for c in digits) if len(digits) == 3 else digits
    red, green, blue = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


def mixed(colour: Colour, paper: Colour, share: float) -> Colour:
    red, green, blue = (share * a + (1 - share) * b for a, b in zip(colour, paper, strict=True))
    return red, green, blue


def luminance(colour: Colour) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: Colour, b: Colour) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize('theme', themes())
def test_text_can_be_read(theme: str) -> None:
    values = themes()[theme]
    paper = rgb(values['paper'])
    low = {
        name: round(contrast(rgb(values[name]), paper), 2)
        for name in INKS
        if contrast(rgb(values[name]), paper) < 4.5
    }
    assert low == {}
    assert contrast(rgb(values['ink']), rgb(values['raised'])) >= 4.5
    for name in ('warn', 'ink'):
        assert contrast(rgb(values[name]), rgb(values['warn-paper'])) >= 4.5


@pytest.mark.parametrize('theme', themes())
def test_cells_of_the_confusion_can_be_read(theme: str) -> None:
    css = asset('report.css')
    values = themes()[theme]
    ink, paper = rgb(values['ink']), rgb(values['paper'])
    [(least, span)] = re.findall(r'\.wrong \{.*?calc\((\d+)% \+ (\d+)% \* var', css)
    [grey] = re.findall(r'\.right \{.*?calc\((\d+)% \* var', css)
    fullest = mixed(rgb(values['accent']), paper, (int(least) + int(span)) / 100)
    assert contrast(ink, fullest) >= 4.5
    assert contrast(ink, mixed(ink, paper, int(grey) / 100)) >= 4.5


def test_themes_have_the_same_colours() -> None:
    light, dark, system, paper = themes().values()
    assert light.keys() == dark.keys() == system.keys() == paper.keys()
    # By the switch and by the system's setting.
    assert dark == system
    assert dark != light


# Viénot, Brettel, Mollon: Digital video colourmaps for checking the legibility of displays by
# dichromats (1999), on linear RGB.
DICHROMATS = {
    'protan': ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    'deutan': ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
}


@pytest.mark.parametrize('kind', DICHROMATS)
@pytest.mark.parametrize('theme', list(themes())[:2])
def test_first_series_are_told_apart_by_dichromats(theme: str, kind: str) -> None:
    """Student, baseline and teacher; more series have labels at their ends and dashes."""

    def seen(name: str) -> Colour:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in rgb(themes()[theme][name])
        ]
        red, green, blue = (
            max(0.0, sum(a * b for a, b in zip(row, linear, strict=True))) ** (1 / 2.4)
            for row in DICHROMATS[kind]
        )
        return red, green, blue

    for first, second in combinations(('c0', 'c1', 'ct'), 2):
        pair = zip(seen(first), seen(second), strict=True)
        assert sum((a - b) ** 2 for a, b in pair) ** 0.5 > 0.15, (first, second)
