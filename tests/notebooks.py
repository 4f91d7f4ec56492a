"""Notebooks of docs/: executed, and stored with what they show.

Execute one and store it anew, after a change:  python tests/notebooks.py docs/distill.ipynb
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
# Cells with this tag put out the log of a run, which is not stored.
LOG = 'log'


def execute(notebook: NotebookNode, folder: Path) -> None:
    """Run all cells in a folder, with the Python and the package of this process.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell ended with an error.
    """
    before = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = str(ROOT)
    try:
        client = NotebookClient(notebook, timeout=600, resources=dict(metadata=dict(path=folder)))
        client.execute()
    finally:
        if before is None:
            del os.environ['PYTHONPATH']
        else:
            os.environ['PYTHONPATH'] = before


def tidy(notebook: NotebookNode) -> None:
    """Leave what a reader wants to see: pictures with their descriptions, tables, no logs."""
    notebook.metadata = {
        'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'},
        'language_info': {'name': 'python'},
    }
    for cell in notebook.cells:
        if cell.cell_type != 'code':
            continue
        cell.metadata.pop('execution', None)
        if LOG in cell.metadata.get('tags', []):
            cell.outputs, cell.execution_count = [], None
        # Warnings of the hosts name folders of the machine.
        cell.outputs = [one for one in cell.outputs if one.get('name') != 'stderr']
        for output in cell.outputs:
            if 'image/png' in output.get('data', {}):
                output.data = {
                    'image/png': output.data['image/png'],
                    'text/plain': cell.metadata['alt'],
                }
                output.metadata = {}


if __name__ == '__main__':
    path = Path(sys.argv[1]).resolve()
    content = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as place:
        execute(content, Path(place))
    tidy(content)
    nbformat.write(content, path)
