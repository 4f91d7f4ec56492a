"""Tables in Markdown that read well on a terminal too."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table whose first column is flush left and whose others are flush right.

    Args:
        head: Titles of the columns.
        body: Rows, as long as `head`.
    """
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return f'| {first[0]:<{first[1]}} | ' + ' | '.join(f'{c:>{w}}' for c, w in rest) + ' |'

    rule = f'| {"-" * widths[0]} | ' + ' | '.join('-' * (w - 1) + ':' for w in widths[1:]) + ' |'
    return '\n'.join([line(head), rule, *map(line, body)])
