"""Numbers as the page writes them."""

from __future__ import annotations

import math

MISSING = '\N{EN DASH}'
MINUS = '\N{MINUS SIGN}'


def number(value: float | None, digits: int = 2) -> str:
    """A number with so many digits behind the point; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f'{value:,.{digits}f}'.replace('-', MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """A difference, with its sign; nothing that rounds to 0 has one."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f'{value:+,.{digits}f}'
    return (text if float(text.replace(',', '')) else text[1:]).replace('-', MINUS)


def brief(value: float) -> str:
    """A number of an axis or of a table of curves: up to four digits that count."""
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f'{value:.1e}'.split('e')
        return f'{mantissa.removesuffix(".0")}e{int(exponent)}'.replace('-', MINUS)
    return f'{value:.4g}'.replace('-', MINUS)


def iterations(value: float) -> str:
    """A count of iterations on an axis: 160k, 1.5k or 400."""
    if abs(value) >= 1000:
        return f'{value / 1000:g}k'
    return f'{value:g}'
