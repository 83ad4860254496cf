"""The U as shapes: blocks coloured by excess, skips as wide as the loss that they carry."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import pandas as pd

from skipshift.page.carry_sentences import sure_loss
from skipshift.statistics.layer_tests import is_clear

WIDE, HIGH = 96, 44
"""Size of a block in CSS pixels."""

_STEP, _GAP, _TOP, _EDGE = 66, 150, 46, 20
_SKIP_MOST, _SKIP_LEAST = 22.0, 1.5
_LEGEND = 780
"""Least width, which the legend takes."""

_ROW = 8
"""Blocks in a row, where names have no stride."""

_NAME = re.compile(r"([ebsd])(\d+)([a-z]?)")
_LETTERS = 13
"""Letters of a name that fit in a block."""

# Five steps of ColorBrewer's sequential YlGnBu, told apart by all kinds of colour blindness.
SCALE = ("#ffffd9", "#c7e9b4", "#7fcdbb", "#41b6c4", "#225ea8")
_LIGHT_INK = 4
"""Steps of the scale from this one on have white letters."""

DARK, PALE, GREY, CARRIES, REMEDY = "#1d1d1f", "#ffffff", "#85898e", "#d55e00", "#a83c00"
_UNKNOWN = "#e4e6e9"

Role = Literal["", "ink", "mark"]
"""What a page may colour anew in the dark: text and outlines on its paper, and the remedy."""


class Link(NamedTuple):
    """A skip: its name, as L1, the layer that it leaves and the decoder block that it enters."""

    name: str
    source: str
    target: str


class Box(NamedTuple):
    """A rounded rectangle."""

    x: float
    y: float
    wide: float
    high: float
    fill: str = ""
    stroke: str = DARK
    width: float = 1.0
    dashed: bool = False
    role: Role = "ink"


class Line(NamedTuple):
    """A straight line."""

    x1: float
    y1: float
    x2: float
    y2: float
    stroke: str = GREY
    width: float = 1.0
    dashed: bool = False


class Text(NamedTuple):
    """A line of text."""

    x: float
    y: float
    text: str
    anchor: Literal["start", "middle", "end"] = "start"
    colour: str = DARK
    size: float = 13.0
    bold: bool = False
    role: Role = "ink"


class Item(NamedTuple):
    """Shapes that belong together."""

    told: str
    """What hover and focus tell of it; empty for mere decoration."""

    shapes: tuple[Box | Line | Text, ...]


class Drawing(NamedTuple):
    """Shapes in CSS pixels, y downwards, the first at the back."""

    width: float
    height: float
    items: tuple[Item, ...]


def draw_u(
    layers: pd.DataFrame,
    links: Sequence[Link] = (),
    carried: pd.DataFrame | None = None,
    best: tuple[str, str] | None = None,
) -> Drawing:
    """Lay a network out.

    Parameters
    ----------
    layers
        Rows of one distance and pooling of a profile: ``layer, excess, low, high, p_adjusted``.
    links
        Skips that the network has. An encoder stage without one is joined to the decoder block of
        its stride by a dashed line: that skip is pruned.
    carried
        Table of `skipshift.carry`, if there is one: ``path, share, low, high``. Shares of a loss
        that may be chance are not drawn.
    best
        Remedy that is recommended and its place, marked where it acts.

    Returns
    -------
    The drawing; each layer, skip and remedy is an item that tells its numbers. Layers whose names
    have no stride stand in rows, in depth order.
    """
    rows = {str(row.layer): row for row in layers.itertuples()}
    places = _places(list(rows), links)
    known = layers["excess"].dropna()
    most = float(known.max()) if len(known) else 0.0
    clear = dict(zip(rows, is_clear(layers), strict=True))
    sure = carried is not None and sure_loss(carried)
    paths = {} if carried is None or not sure else {str(r.path): r for r in carried.itertuples()}
    items = [Item("", tuple(_arrows(places))), *_skips(places, links, paths)]
    if "bottleneck" in paths and (deepest := _deepest(places)):
        items.append(_bottleneck(places[deepest], paths["bottleneck"]))
    items += [_block(name, places[name], rows[name], most, clear[name]) for name in places]
    items += _remedy(places, links, best)
    bottom = max((y for _, y in places.values()), default=0) + HIGH + 40
    items.append(Item("", tuple(_legend(most, bottom, bool(len(known)), bool(paths)))))
    wide = max([x + WIDE + _EDGE for x, _ in places.values()] + [_LEGEND])
    return Drawing(wide, bottom + 40, tuple(items))


_Places = Mapping[str, tuple[float, float]]
"""Layer -> left upper corner of its block."""


def _places(names: Sequence[str], links: Sequence[Link]) -> dict[str, tuple[float, float]]:
    """Place the blocks: encoder down the left, decoder up the right, bottleneck between."""
    if not names or not all(map(_NAME.fullmatch, names)):
        return {
            name: (_EDGE + i % _ROW * (WIDE + 26), _TOP + i // _ROW * 1.6 * HIGH)
            for i, name in enumerate(names)
        }
    strides = sorted({_stride(name) for name in names})
    down = [name for name in names if name[0] in "eb"]
    right = _EDGE + (len(strides) - 1) * _STEP * 2 + _GAP + WIDE
    crowded = any(_stride(name) == strides[-1] for name in down[:-1])
    found: dict[str, tuple[float, float]] = {}
    taken: dict[tuple[int, float], int] = {}
    for name in (n for n in names if n[0] != "s"):
        side, level = (1 if name[0] == "d" else 0), strides.index(_stride(name))
        x = float(right - level * _STEP if side else _EDGE + level * _STEP)
        if name in down[-1:]:
            # in a row of its own where an encoder stage has its stride: skips would cross it
            found[name] = ((_EDGE + right) / 2, _TOP + (level + crowded) * _STEP)
            continue
        again = taken.get((side, level), 0)
        taken[side, level] = again + 1
        # a second block of a stride stands towards the middle
        shift = again * (WIDE + 8) * (1 - 2 * side)
        found[name] = (x + shift, _TOP + level * _STEP)
    ends = {link.name: link for link in links}
    for name in (n for n in names if n[0] == "s"):
        link = ends.get(_level(name))
        if link is not None and {link.source, link.target} <= found.keys():
            (x1, y1), (x2, y2) = found[link.source], found[link.target]
            found[name] = ((x1 + x2) / 2, (y1 + y2) / 2)
        else:
            found[name] = ((_EDGE + right) / 2, _TOP + strides.index(_stride(name)) * _STEP)
    return found


def _stride(name: str) -> int:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[2])


def _level(skip: str) -> str:
    """Name of the path of a skip's own layer: ``s4`` is L2."""
    stride = _stride(skip)
    return f"L{stride.bit_length() - 1}" if stride.bit_count() == 1 else skip


def _deepest(places: _Places) -> str:
    """Name the bottleneck: the last layer of the way down; empty where names have no stride."""
    return next((n for n in reversed(list(places)) if _NAME.fullmatch(n) and n[0] in "eb"), "")


def _arrows(places: _Places) -> Iterator[Line]:
    """Thin lines from block to block in depth order, but for skips."""
    order = [at for name, at in places.items() if not (name[0] == "s" and _NAME.fullmatch(name))]
    for (x1, y1), (x2, y2) in pairwise(order):
        yield Line(x1 + WIDE / 2, y1 + HIGH / 2, x2 + WIDE / 2, y2 + HIGH / 2)


def _skips(places: _Places, links: Sequence[Link], paths: Mapping[str, Any]) -> Iterator[Item]:
    for name, source, target in links:
        if source in places and target in places:
            yield _skip(name, _between(places[source], places[target]), paths.get(name))
    deepest = _deepest(places)
    left = {n for n in places if n[0] == "e" and _NAME.fullmatch(n)} - {k.source for k in links}
    for name in sorted(left, key=_stride):
        target, above = f"d{_stride(name)}", _stride(name) < _stride(deepest)
        if above and target in places and target not in {link.target for link in links}:
            line = Line(*_between(places[name], places[target]), GREY, 1.5, True)
            level = _level(f"s{_stride(name)}")
            yield Item(f"{level}: pruned", (line, *_label(line, f"{level} pruned", 0)))


def _between(
    source: tuple[float, float], target: tuple[float, float]
) -> tuple[float, float, float, float]:
    return source[0] + WIDE, source[1] + HIGH / 2, target[0], target[1] + HIGH / 2


def _skip(name: str, ends: tuple[float, float, float, float], row: Any) -> Item:
    share = _number(row, "share")
    width = max(_SKIP_LEAST, min(1.0, share) * _SKIP_MOST) if share == share else _SKIP_LEAST
    line = Line(*ends, CARRIES, round(width, 1))
    label = f"{name}: {round(share, 2) + 0:.0%}" if share == share else name
    return Item(_told_of_path(name, row), (line, *_label(line, label, width)))


def _label(line: Line, text: str, width: float) -> tuple[Text]:
    y = (line.y1 + line.y2) / 2 - width / 2 - 5
    return (Text((line.x1 + line.x2) / 2, y, text, "middle"),)


def _bottleneck(at: tuple[float, float], row: Any) -> Item:
    """Write the share of the loss that the bottleneck carries below its block."""
    share = _number(row, "share")
    label = f"carries {round(share, 2) + 0:.0%}" if share == share else "carries: unknown"
    text = Text(at[0] + WIDE / 2, at[1] + HIGH + 16, label, "middle", size=12)
    return Item(_told_of_path("bottleneck", row), (text,))


def _told_of_path(name: str, row: Any) -> str:
    share, low, high = (_number(row, key) for key in ("share", "low", "high"))
    if share != share:
        return f"{name}: the loss that it carries was not measured"
    ends = f" (95 % interval {100 * low:.0f} to {100 * high:.0f})" if low == low else ""
    return f"{name}: {100 * share:.0f} % of the lost IoU comes back with this path alone{ends}"


def _number(row: Any, key: str) -> float:
    return float(getattr(row, key, float("nan")))


def _block(name: str, at: tuple[float, float], row: Any, most: float, clear: bool) -> Item:
    x, y = at
    excess, low, high = (_number(row, key) for key in ("excess", "low", "high"))
    # what may be noise has no colour
    step = min(4, int(5 * excess / most)) if clear and excess > 0 < most else 0
    fill, ink = SCALE[step], PALE if step >= _LIGHT_INK else DARK
    if excess != excess:
        fill, ink = _UNKNOWN, DARK
    ends = f" (95 % interval {low:.3f} to {high:.3f})" if low == low else ""
    value = f"{round(excess, 3) + 0:.3f}" if excess == excess else ""
    told = f"{name}: excess {value}{ends}, {'' if clear else 'not '}clear of its noise floor"
    if excess != excess:
        told = f"{name}: excess unknown"
    short = name if len(name) <= _LETTERS else f"…{name[1 - _LETTERS :]}"
    dashed = excess == excess and not clear
    box = Box(x, y, WIDE, HIGH, fill, width=2 if clear else 1, dashed=dashed)
    middle = x + WIDE / 2
    title = Text(middle, y + 18, short, "middle", ink, bold=True, role="")
    return Item(told, (box, title, Text(middle, y + 35, value, "middle", ink, role="")))


def _remedy(places: _Places, links: Sequence[Link], best: tuple[str, str] | None) -> Iterator[Item]:
    """Mark the place of the recommended remedy by a ring and its name."""
    if best is None:
        return
    remedy, place = best
    label = f"remedy: {remedy} at {place}"
    skip = next((link for link in links if link.name == place), None)
    # a skip with a layer of its own is marked there
    own = (n for n in places if n[0] == "s" and _NAME.fullmatch(n) and _level(n) == place)
    place = next(own, place)
    if place not in places and skip is not None and {skip.source, skip.target} <= places.keys():
        x1, y1, x2, y2 = _between(places[skip.source], places[skip.target])
        middle = (x1 + x2) / 2, (y1 + y2) / 2
        ring = Box(middle[0] - 50, middle[1] - 32, 100, 48, "", REMEDY, 3, False, "mark")
    elif place in places:
        x, y = places[place]
        ring = Box(x - 5, y - 5, WIDE + 10, HIGH + 10, "", REMEDY, 3, False, "mark")
    else:
        text = Text(_EDGE, 24, label, "start", REMEDY, bold=True, role="mark")
        yield Item(label, (text,))
        return
    # near the right edge the label ends where the ring does
    last = ring.x > max(x for x, _ in places.values()) - WIDE
    end = ring.x + ring.wide if last else ring.x
    text = Text(end, ring.y - 5, label, "end" if last else "start", REMEDY, 13, True, "mark")
    yield Item(label, (ring, text))


def unmeasured(layers: Sequence[str]) -> pd.DataFrame:
    """Rows of layers of which nothing is known, for `draw_u`."""
    unknown = dict.fromkeys(("excess", "low", "high", "p_adjusted"), float("nan"))
    return pd.DataFrame({"layer": list(layers)}).assign(**unknown)


def _legend(most: float, y: float, profiled: bool, carried: bool) -> Iterator[Box | Text]:
    x = float(_EDGE)
    if profiled:
        for i, colour in enumerate(SCALE):
            yield Box(_EDGE + i * 44, y, 44, 12, colour, GREY, 0.5, role="")
        yield Text(_EDGE, y + 28, "excess 0", size=11)
        yield Text(_EDGE + 5 * 44, y + 28, f"{most:.2f}", "end", size=11)
        x += 5 * 44 + 22
        yield Text(x, y + 11, "dashed outline: not clear of its noise floor", size=11)
    if carried:
        told = "a skip is as wide as the share of the lost IoU that it brings back alone"
        yield Text(x, y + 28, told, size=11)
