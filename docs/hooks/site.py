"""Makes the site of docs/, of files from the repository's root and of what the code says.

Links are written as they work in the repository's file view; here they become the site's.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

import losses_page
import notebook_page
import reference_page
from formulas import svg
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]

# Files outside docs/, by the names that the site has for them.
ROOT_FILES = {
    'index.md': 'README.md',
    'contributing.md': 'CONTRIBUTING.md',
    'changelog.md': 'CHANGELOG.md',
    'LICENSE.txt': 'LICENSE',
}

# Pages that are made from the code.
TABLES = {'reference.md': reference_page.tables, 'losses.md': losses_page.tables}

# Code comes first, so that what looks like a link in it stays.
_LINK = re.compile(r'^```.*?^```|`[^`\n]*`|(?<=\]\()([^)\s]+)(?=\))', re.M | re.S)
_FORMULA = re.compile(
    r'<(?P<tag>div|span) class="arithmatex">\\[\[(](?P<tex>.*?)\\[\])]</(?P=tag)>', re.S
)


def on_files(files: Files, config: Any) -> Files:
    """Bring in the root's files and the generated pages."""
    for uri, place in {**ROOT_FILES, **_figures()}.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / place)))
    for path in sorted((ROOT / 'docs').glob('*.ipynb')):
        content = notebook_page.page(path.read_text(encoding='utf-8'))
        files.append(File.generated(config, f'{path.stem}.md', content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    uri = page.file.src_uri
    place = ROOT_FILES.get(uri, f'docs/{uri}')

    def turned(match: re.Match[str]) -> str:
        link = match[1]
        if link is None or link.startswith(('#', 'mailto:', 'data:')) or '://' in link:
            return match[0]
        file, hash_, anchor = link.partition('#')
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), file))
        return posixpath.relpath(uri_of(target), posixpath.dirname(uri) or '.') + hash_ + anchor

    markdown = _LINK.sub(turned, markdown)
    return with_tables(markdown, uri) if uri in TABLES else markdown


def with_tables(markdown: str, uri: str) -> str:
    """A page with tables from the code in the place of the words on them."""
    head, marker, _ = markdown.partition('<!-- From here on')
    if not marker:
        raise PluginError(f'{uri}: the comment before which the tables go is missing.')
    try:
        return head + TABLES[uri]()
    except (reference_page.MissingDescription, losses_page.MissingParagraph) as error:
        raise PluginError(f'{uri}: {error}') from error


def uri_of(place: str) -> str:
    """What the site calls a file of the repository."""
    for uri, root_file in {**ROOT_FILES, **_figures()}.items():
        if place == root_file:
            return uri
    name = place.removeprefix('docs/')
    return re.sub(r'\.ipynb$', '.md', name)


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Draw the formulas."""

    def drawn(match: re.Match[str]) -> str:
        try:
            picture = svg(html.unescape(match['tex']), is_block=match['tag'] == 'div')
        except ValueError as error:
            raise PluginError(f'{page.file.src_uri}: {error}') from error
        return f'<{match["tag"]} class="formula">{picture}</{match["tag"]}>'

    return _FORMULA.sub(drawn, content)


def _figures() -> dict[str, str]:
    return {f'figures/{path.name}': f'figures/{path.name}' for path in _pictures()}


def _pictures() -> list[Path]:
    return sorted(path for path in (ROOT / 'figures').iterdir() if path.suffix in ('.png', '.svg'))
