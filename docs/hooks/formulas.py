"""Formulas as pictures made of paths: no script, no font and no network when a page is read."""

from __future__ import annotations

import html

from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

# Units a em.
SIZE = 16
# In SVG, by matplotlib's codes; curves have their control points before the end.
_COMMANDS = {
    Outline.MOVETO: 'M',
    Outline.LINETO: 'L',
    Outline.CURVE3: 'Q',
    Outline.CURVE4: 'C',
    Outline.CLOSEPOLY: 'Z',
}


def svg(tex: str, is_block: bool = False) -> str:
    """A formula in TeX, as matplotlib's mathtext knows it, as an SVG that scales with the text.

    Args:
        tex: The formula.
        is_block: Whether it stands on a line of its own, with fractions in full size.

    Raises:
        ValueError: There is something in it that mathtext does not know.
    """
    tex = ' '.join(tex.split())
    drawn = tex.replace(r'\frac', r'\dfrac') if is_block else tex
    outline = TextPath((0, 0), f'${drawn}$', size=SIZE, prop=FontProperties(math_fontfamily='cm'))
    box = outline.get_extents()
    path = ''.join(
        'Z'
        if code == Outline.CLOSEPOLY
        else _COMMANDS[code] + ' '.join(f'{value:.2f}' for value in points * _DOWN[: len(points)])
        for points, code in outline.iter_segments(simplify=False)
    )
    # A tenth of an em around it: outlines are drawn to their very edge.
    x, y = box.x0 - 1.6, -box.y1 - 1.6
    width, height, depth = box.width + 3.2, box.height + 3.2, -box.y0 + 1.6
    text = html.escape(tex, quote=True)
    return (
        f'<svg class="formula" role="img" aria-label="{text}" '
        f'viewBox="{x:.2f} {y:.2f} {width:.2f} {height:.2f}" '
        f'style="width:{width / SIZE:.3f}em;height:{height / SIZE:.3f}em;'
        f'vertical-align:{-depth / SIZE:.3f}em"><path d="{path}"/></svg>'
    )


# SVG counts y downwards. A cubic curve has three points.
_DOWN = (1, -1) * 3
