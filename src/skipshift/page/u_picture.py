"""The U as a picture: blocks coloured by excess, skips as wide as the loss that they carry."""

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

import pandas as pd

from skipshift.statistics.layer_tests import is_clear

WIDE, HIGH = 96, 44
"""Size of a block in CSS pixels."""

_STEP, _GAP, _TOP = 66, 150, 46
_SKIP_MOST, _SKIP_LEAST = 22.0, 1.5
_LEGEND = 760
"""Least width, which the legend takes."""

_NAME = re.compile(r"([ebsd])(\d+)([a-z]?)")
_SKIP = re.compile(r"L(\d+)([a-z]?)")

# Five steps of ColorBrewer's sequential YlGnBu, told apart by all kinds of colour blindness.
_SCALE = ("#ffffd9", "#c7e9b4", "#7fcdbb", "#41b6c4", "#225ea8")
_LIGHT_INK = 4
"""Steps of the scale from this one on have white letters."""


class _Block(NamedTuple):
    name: str
    x: float
    y: float


def u_picture(
    layers: pd.DataFrame,
    skips: Sequence[str] = (),
    carried: pd.DataFrame | None = None,
    best: tuple[str, str] | None = None,
) -> str:
    """Draw a network as SVG.

    Parameters
    ----------
    layers
        Rows of one distance and pooling of a profile: ``layer, excess, low, high, p_adjusted``.
    skips
        Skips that the network has, as L1; those of ``carried`` are added. Levels between them that
        it lacks are dashed.
    carried
        Table of `skipshift.carry`, if there is one: ``path, share, low, high, lost``.
    best
        Remedy that is recommended and its place, marked where it acts.

    Returns
    -------
    An ``<svg>`` element that needs no styles of a page. Every block and skip has a ``<title>`` with
    its numbers. Layers whose names have no stride stand in a row, in depth order.
    """
    rows = {str(row.layer): row for row in layers.itertuples()}
    paths = {} if carried is None else {str(row.path): row for row in carried.itertuples()}
    blocks = _blocks(list(rows))
    high = max((block.y for block in blocks), default=0) + HIGH + 58
    wide = max([block.x + WIDE + 20 for block in blocks] + [_LEGEND])
    parts = [*_arrows(blocks), *_skip_lines(blocks, skips, paths)]
    most = float(layers["excess"].max()) if layers["excess"].notna().any() else 0.0
    clear = dict(zip(layers["layer"].astype(str), is_clear(layers), strict=True))
    for block in blocks:
        parts += _drawn(block, rows.get(block.name), most, clear.get(block.name, False))
    parts += _marked(blocks, best)
    parts += _legend(most, high - 34)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {wide:.0f} {high:.0f}" '
        f'width="{wide:.0f}" height="{high:.0f}" font-family="system-ui, sans-serif" '
        f'font-size="13" fill="#1d1d1f"><title>The network: layers by excess, skips by the loss '
        f"that they carry</title>{''.join(parts)}</svg>"
    )


def _blocks(names: Sequence[str]) -> list[_Block]:
    """Place the blocks: encoder down the left, decoder up the right, bottleneck between."""
    found = {name: _NAME.fullmatch(name) for name in names}
    if not names or not all(found.values()):
        return [_Block(n, 20 + i * (WIDE + 26), _TOP) for i, n in enumerate(names)]
    down = [n for n in names if n[0] in "eb"]
    up = [n for n in names if n[0] == "d"]
    strides = sorted({_stride(n) for n in names})
    level = {stride: i for i, stride in enumerate(strides)}
    depth = len(strides) - 1
    right = 20 + depth * _STEP * 2 + _GAP + WIDE
    blocks = []
    for side, own in ((0, down), (1, up)):
        seen: dict[int, int] = {}
        for name in own:
            at = level[_stride(name)]
            again = seen.get(at, 0)
            seen[at] = again + 1
            x: float = 20 + at * _STEP if side == 0 else right - at * _STEP
            if side == 0 and name == down[-1]:
                x = (20 + right) / 2
            blocks.append(_Block(name, x + again * (WIDE + 8) * (1 - 2 * side), _TOP + at * _STEP))
    return blocks


def _stride(name: str) -> int:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[2])


def _skip_lines(
    blocks: Sequence[_Block], skips: Sequence[str], paths: Mapping[str, object]
) -> Iterator[str]:
    """Lines from the encoder to the decoder, one a level; dashed where the network has no skip."""
    by_name = {block.name: block for block in blocks}
    has = {*skips, *(name for name in paths if _SKIP.fullmatch(name))}
    known = [int(match[1]) for name in has if (match := _SKIP.fullmatch(name))]
    for level in range(min([1, *known]), max([*known, 0]) + 1):
        name, stride = f"L{level}", 2**level
        left, right = by_name.get(f"e{stride}"), by_name.get(f"d{stride}")
        if left is None or right is None:
            continue
        y = left.y + HIGH / 2
        ends = f'x1="{left.x + WIDE:.0f}" y1="{y:.0f}" x2="{right.x:.0f}" y2="{y:.0f}"'
        row = paths.get(name)
        middle = (left.x + WIDE + right.x) / 2
        if name not in has:
            yield f'<g><title>{name}: pruned</title><line {ends} stroke="#63666b" '
            yield 'stroke-width="1.5" stroke-dasharray="3 5"/></g>'
            continue
        share = getattr(row, "share", float("nan"))
        width = max(_SKIP_LEAST, min(1.0, share) * _SKIP_MOST) if share == share else _SKIP_LEAST
        yield f"<g><title>{escape(_skip_title(name, row))}</title>"
        yield f'<line {ends} stroke="#d55e00" stroke-width="{width:.1f}" stroke-opacity=".75"/>'
        label = f"{name} {round(share, 2) + 0:.0%}" if share == share else name
        yield f'<text x="{middle:.0f}" y="{y - width / 2 - 5:.0f}" text-anchor="middle">{label}'
        yield "</text></g>"


def _skip_title(name: str, row: object) -> str:
    share, low, high = (getattr(row, key, float("nan")) for key in ("share", "low", "high"))
    if share != share:
        return f"{name}: the loss that it carries was not measured"
    ends = f" [{low:.2f}, {high:.2f}]" if low == low else ""
    return f"{name}: {share:.0%}{ends} of the lost IoU comes back with this path alone"


def _arrows(blocks: Sequence[_Block]) -> Iterator[str]:
    """Thin lines from block to block in depth order, but for skips."""
    order = [block for block in blocks if not block.name.startswith("s")]
    for one, other in pairwise(order):
        yield (
            f'<line x1="{one.x + WIDE / 2:.0f}" y1="{one.y + HIGH / 2:.0f}" '
            f'x2="{other.x + WIDE / 2:.0f}" y2="{other.y + HIGH / 2:.0f}" stroke="#9a9da1"/>'
        )


def _drawn(block: _Block, row: object, most: float, clear: bool) -> Iterator[str]:
    excess = getattr(row, "excess", float("nan"))
    step = min(4, int(5 * excess / most)) if excess > 0 < most else 0
    fill, ink = _SCALE[step], "#fff" if step >= _LIGHT_INK else "#1d1d1f"
    low, high = getattr(row, "low", float("nan")), getattr(row, "high", float("nan"))
    ends = f" [{low:.3f}, {high:.3f}]" if low == low else ""
    told = "clear of its noise floor" if clear else "not clear of its noise floor"
    title = f"{block.name}: excess {excess:.3f}{ends}, {told}"
    middle = block.x + WIDE / 2
    yield f"<g><title>{escape(title)}</title>"
    yield f'<rect x="{block.x:.0f}" y="{block.y:.0f}" width="{WIDE}" height="{HIGH}" rx="6" '
    yield f'fill="{fill}" stroke="#1d1d1f" stroke-width="{2 if clear else 1}"'
    yield "/>" if clear else ' stroke-dasharray="4 3"/>'
    short = block.name if len(block.name) <= 13 else f"{block.name[:12]}…"
    yield f'<text x="{middle:.0f}" y="{block.y + 18:.0f}" text-anchor="middle" fill="{ink}" '
    yield f'font-weight="600">{escape(short)}</text>'
    value = f"{excess:.3f}" if excess == excess else "-"
    yield f'<text x="{middle:.0f}" y="{block.y + 35:.0f}" text-anchor="middle" fill="{ink}">'
    yield f"{value}</text></g>"


def _marked(blocks: Sequence[_Block], best: tuple[str, str] | None) -> Iterator[str]:
    """Mark the place of the recommended remedy by a ring and its name."""
    if best is None or not blocks:
        return
    remedy, place = best
    skip = _SKIP.fullmatch(place)
    name = f"e{2 ** int(skip[1])}" if skip else place
    at = next((block for block in blocks if block.name == name), None)
    label = escape(f"remedy: {remedy} at {place}")
    if at is None:
        yield f'<g><title>{label}</title><text x="20" y="24" fill="#a83c00" '
        yield f'font-weight="600">{label}</text></g>'
        return
    yield f'<g><title>{label}</title><rect x="{at.x - 5:.0f}" y="{at.y - 5:.0f}" '
    yield f'width="{WIDE + 10}" height="{HIGH + 10}" rx="10" fill="none" stroke="#a83c00" '
    yield f'stroke-width="3"/><text x="{at.x:.0f}" y="{at.y - 10:.0f}" fill="#a83c00" '
    yield f'font-weight="600">{label}</text></g>'


def _legend(most: float, y: float) -> Iterator[str]:
    for i, colour in enumerate(_SCALE):
        yield f'<rect x="{20 + i * 44}" y="{y:.0f}" width="44" height="12" fill="{colour}" '
        yield 'stroke="#9a9da1" stroke-width=".5"/>'
    yield f'<text x="20" y="{y + 28:.0f}" font-size="11">excess 0</text>'
    yield f'<text x="240" y="{y + 28:.0f}" font-size="11" text-anchor="end">{most:.2f}</text>'
    yield f'<text x="262" y="{y + 11:.0f}" font-size="11">dashed: not clear of its noise floor; '
    yield "a skip is as wide as the share of the lost IoU that it carries</text>"
