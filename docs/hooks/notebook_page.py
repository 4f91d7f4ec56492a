"""A notebook as a page, with what its cells put out."""

from __future__ import annotations

import json
import re
from typing import Any

_COLOURS = re.compile(r'\x1b\[[0-9;]*m')


def page(text: str) -> str:
    """The text of an .ipynb file (version 4) as Markdown.

    Of each output the richest form that needs no script is taken: a picture, HTML, or text.
    """
    parts = []
    for cell in json.loads(text)['cells']:
        source = ''.join(cell['source']).strip()
        if cell['cell_type'] == 'markdown':
            parts.append(source)
        elif cell['cell_type'] == 'code' and source:
            parts.append(f'```python\n{source}\n```')
            parts += [shown for one in cell['outputs'] if (shown := _output(one))]
    return '\n\n'.join(parts) + '\n'


def _output(output: dict[str, Any]) -> str:
    data = output.get('data', {})
    if 'image/png' in data:
        picture = ''.join(data['image/png']).replace('\n', '')
        alt = ''.join(data.get('text/plain', 'output of the cell'))
        return f'![{alt}](data:image/png;base64,{picture})'
    if 'text/html' in data:
        # Blank lines would end a block of HTML in Markdown.
        return re.sub(r'\n\s*\n', '\n', f'<div>{"".join(data["text/html"])}</div>')
    text = ''.join(output.get('text', data.get('text/plain', '')))
    if output['output_type'] == 'error':
        raise ValueError(f'the notebook holds an error: {output["ename"]}: {output["evalue"]}')
    text = _COLOURS.sub('', text).strip('\n')
    return f'```text\n{text}\n```' if text else ''
