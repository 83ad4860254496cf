"""The U as a picture: an element of a page, and the same as SVG, PDF and PNG for papers."""

import io
from collections.abc import Iterator
from html import escape
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from skipshift.page.style import styled, to_png
from skipshift.page.u_drawing import Box, Drawing, Item, Line, Text
from skipshift.records import write_bytes

_ROUND = 6
_INCH = 96.0
"""CSS pixels."""

_POINT = 72 / _INCH
_ALIGNED = {"start": "left", "middle": "center", "end": "right"}


def u_picture(drawing: Drawing, label: str = "The network") -> str:
    """Draw a network as an ``<svg>`` element that needs no styles of a page.

    What tells something can be focused, and has its text as ``<title>`` and ``aria-label``.
    """
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="u" role="group" '
        f'aria-label="{escape(label)}" viewBox="0 0 {drawing.width:.0f} {drawing.height:.0f}" '
        f'width="{drawing.width:.0f}" height="{drawing.height:.0f}" '
        f'font-family="system-ui, sans-serif"><rect class="paper" width="100%" height="100%" '
        f'fill="#fff"/>{"".join(map(_group, drawing.items))}</svg>'
    )


def _group(item: Item) -> str:
    shapes = "".join(_svg(shape) for shape in item.shapes)
    if not item.told:
        return f'<g aria-hidden="true">{shapes}</g>'
    told = escape(item.told)
    return (
        f'<g role="img" tabindex="0" data-told="" aria-label="{told}"><title>{told}</title>'
        f"{shapes}</g>"
    )


def _svg(shape: Box | Line | Text) -> str:
    dash = "" if isinstance(shape, Text) or not shape.dashed else ' stroke-dasharray="4 3"'
    if isinstance(shape, Line):
        return (
            f'<line x1="{shape.x1:.1f}" y1="{shape.y1:.1f}" x2="{shape.x2:.1f}" '
            f'y2="{shape.y2:.1f}" stroke="{shape.stroke}" stroke-width="{shape.width:g}"{dash}/>'
        )
    role = f' class="{shape.role}"' if shape.role else ""
    if isinstance(shape, Box):
        return (
            f'<rect x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.wide:.1f}" '
            f'height="{shape.high:.1f}" rx="{_ROUND}" fill="{shape.fill or "none"}" '
            f'stroke="{shape.stroke}" stroke-width="{shape.width:g}"{dash}{role}/>'
        )
    bold = ' font-weight="600"' if shape.bold else ""
    return (
        f'<text x="{shape.x:.1f}" y="{shape.y:.1f}" text-anchor="{shape.anchor}" '
        f'fill="{shape.colour}" font-size="{shape.size:g}"{bold}{role}>{escape(shape.text)}</text>'
    )


def write_u(folder: Path, drawing: Drawing) -> None:
    """Write u.svg, u.pdf and u.png, for papers."""
    figure = u_figure(drawing)
    write_bytes(folder / "u.svg", u_picture(drawing).encode())
    write_bytes(folder / "u.pdf", _to_pdf(figure))
    write_bytes(folder / "u.png", to_png(figure, dpi=200))


@styled()
def u_figure(drawing: Drawing) -> Figure:
    """Draw the same by matplotlib."""
    figure = Figure(figsize=(drawing.width / _INCH, drawing.height / _INCH))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, drawing.width), ylim=(drawing.height, 0))
    axes.axis("off")
    for order, shape in enumerate(_shapes(drawing)):
        _draw(axes, shape, order)
    return figure


def _shapes(drawing: Drawing) -> Iterator[Box | Line | Text]:
    return (shape for item in drawing.items for shape in item.shapes)


def _draw(axes: Axes, shape: Box | Line | Text, order: int) -> None:
    if isinstance(shape, Text):
        axes.text(
            shape.x, shape.y, shape.text, ha=_ALIGNED[shape.anchor], va="baseline", zorder=order,
            color=shape.colour, size=0.92 * shape.size * _POINT,
            weight="bold" if shape.bold else "normal",
        )  # fmt: skip
        return
    style = "-" if not shape.dashed else (0, (4.0, 3.0))
    if isinstance(shape, Line):
        axes.plot(
            [shape.x1, shape.x2], [shape.y1, shape.y2], color=shape.stroke, ls=style,
            lw=shape.width * _POINT, zorder=order, solid_capstyle="butt",
        )  # fmt: skip
        return
    axes.add_patch(
        FancyBboxPatch(
            (shape.x, shape.y), shape.wide, shape.high, lw=shape.width * _POINT, zorder=order,
            boxstyle=f"round,pad=0,rounding_size={_ROUND if shape.high > 2 * _ROUND else 0}",
            fc=shape.fill or "none", ec=shape.stroke, ls=style,
        )
    )  # fmt: skip


def _to_pdf(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with styled():
        about = {"CreationDate": None, "Creator": "skipshift"}
        figure.savefig(buffer, format="pdf", metadata=about)
    return buffer.getvalue()
