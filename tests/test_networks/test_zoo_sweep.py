"""Every family of networks in mmseg's configs as student and as its own teacher."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import zoo
from builders import ROOT

PAGE = ROOT / 'docs' / 'customize_distillation.md'


def test_the_page_says_what_is_refused() -> None:
    table = PAGE.read_text(encoding='utf-8').partition('| family of mmseg |')[2]
    table = table.partition('\n\n')[0]
    rows = re.findall(r'^\| `(\w+)` \| (.*) \|$', table, re.MULTILINE)
    assert [family for family, _ in rows] == sorted(zoo.REFUSED)
    assert all(f'`{zoo.REFUSED[family][0]}`' in missing for family, missing in rows)


@pytest.mark.soak
def test_the_page_counts_the_families() -> None:
    families = zoo.families()
    assert zoo.REFUSED.keys() <= set(families)
    count = f'Of {len(families)} families {len(families) - len(zoo.REFUSED)} train so.'
    assert count in PAGE.read_text(encoding='utf-8')


@pytest.mark.soak
@pytest.mark.timeout(zoo.LIMIT + 60)
@pytest.mark.parametrize('family', zoo.families())
def test_a_family_learns_from_itself(family: str) -> None:
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', str(Path(zoo.__file__)), family],
        capture_output=True,
        text=True,
        timeout=zoo.LIMIT,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    # Nothing but an error of the project's own, with the part that is missing.
    assert 'trace' not in found, found['trace']
    if family in zoo.REFUSED:
        assert found.get('error') == 'ConfigError', f'{family} is no longer refused'
        assert zoo.REFUSED[family][1] in found['message']
        return
    assert 'error' not in found, found['message']
    _, scores, instead = found['proposals'][0]
    assert scores['student_layer'].endswith('conv_seg') and not instead
    assert len(found['logs']) == zoo.STEPS
    for log in found['logs']:
        assert all(map(math.isfinite, log.values()))
        terms = [value for key, value in log.items() if key.startswith('kd.')]
        assert terms and all(value > 0 for value in terms)
