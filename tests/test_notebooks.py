"""The notebooks of docs/ run, and what is stored of them is fit to be read."""

from __future__ import annotations

import copy
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from notebooks import LOG, ROOT, execute, tidy

DISTILL = ROOT / 'docs' / 'distill.ipynb'

# The formatting of configs takes time, here as in `builders`.
UNFORMATTED = """
from yapf.yapflib import yapf_api
yapf_api.FormatCode = lambda text, **_: (text, True)
"""
# What the test reads at the end.
REPORT = """
import json
import sys

import mmseg_kd

print(json.dumps(dict(
    python=sys.executable,
    package=mmseg_kd.__file__,
    mIoU={name: result.metrics['mIoU'] for name, result in results.items()},
    losses=[list(result.history['train/decode.loss_ce'][1]) for result in results.values()],
    term=list(taught.history['train/kd.cgd'][1]),
    validated=taught.history['val/mIoU'][0].tolist(),
    agreement=float((labels == drawn[2].predictions[list(networks)[1]]).mean()),
    figure=comparison.size,
    exported=exported.files['onnx'].agreement.labels,
)))
"""


@pytest.mark.slow
def test_distillation_in_a_notebook(tmp_path: Path) -> None:
    notebook = nbformat.read(DISTILL, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(UNFORMATTED))
    notebook.cells.append(nbformat.v4.new_code_cell(REPORT))
    execute(notebook, tmp_path)
    report = json.loads(notebook.cells[-1].outputs[-1].text)
    # The kernel is this environment, with this package.
    assert os.path.realpath(report['python']) == os.path.realpath(sys.executable)
    assert Path(report['package']).parent == ROOT / 'mmseg_kd'
    # A network that knows only the two most frequent classes has 8.3.
    assert report['mIoU']['teacher'] > 25
    assert report['mIoU']['student'] > 15
    assert report['mIoU']['student with CGD'] > 15
    for losses in (*report['losses'], report['term']):
        assert len(losses) == 150
        assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
    assert report['validated'] == [30, 60, 90, 120, 150]
    assert report['agreement'] == 1.0
    assert report['figure'][0] > report['figure'][1] > 400
    assert report['exported'] == 1.0
    assert (tmp_path / 'student.onnx').stat().st_size > 1e6


@pytest.mark.parametrize(
    'path', sorted((ROOT / 'docs').glob('*.ipynb')), ids=lambda path: path.name
)
def test_what_is_stored(path: Path) -> None:
    text = path.read_text(encoding='utf-8')
    assert path.stat().st_size < 500_000
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == 'code' and LOG not in cell.metadata.get('tags', []):
            assert cell.execution_count is not None
        for output in cell.get('outputs', []):
            assert output.output_type != 'error'
            shown = output.get('text', '') or output.get('data', {}).get('text/plain', '')
            assert not re.search(r'(^|[\s\'"])/\w+/', shown), shown
            assert ' object at 0x' not in shown
            assert not re.match(r'<.*>$', shown), shown  # no alternative text
    # As executed, and tidied since.
    before = copy.deepcopy(notebook)
    tidy(notebook)
    assert notebook == before
