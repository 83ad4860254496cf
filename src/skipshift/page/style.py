"""Style of the figures, colours of the variants, and export to SVG, PNG and JPEG."""

import contextlib
import io
import re
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from skipshift.names import LEVELS, VARIANTS, skips_of
from skipshift.page.outside import visible

INK = "#222222"
MUTED = "#6b6b6b"
FAINT = "#d9d9d9"
NULL = "#b4b4b4"
WIDTH = 10.5
"""Width of a full figure in inches: 1,008 CSS pixels, the width of the page."""

# Okabe and Ito's palette, safe for all kinds of colour blindness, and close to the colours of the
# paper's Fig. 1 (cyan, orange, red, teal).
VARIANT_COLOURS = dict(
    zip(VARIANTS, ("#4d4d4d", "#56b4e9", "#e69f00", "#d55e00", "#009e73"), strict=True)
)
# No palette has sixteen safe colours for the sixteen subsets: these repeat, and legends keep the
# order of the variants.
_OTHER_COLOURS = ("#0072b2", "#cc79a7", "#332288", "#999933", "#882255", "#44aa99")

_SANS = "'DejaVu Sans', sans-serif"
_PAGE_FONTS = "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"
# Paths in hundredths of a point: half the bytes of a violin.
_PATH = re.compile(r'\bd="[^"]*"')
_LONG = re.compile(r"(\d\.\d\d)\d+")
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.6,
    # names of cases and domains may hold a dollar sign
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "skipshift",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in this style whatever the user's settings, which are restored afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def colour_of(variant: str) -> str:
    """Colour of a variant, the same in every figure."""
    if variant in VARIANT_COLOURS:
        return VARIANT_COLOURS[variant]
    kept = skips_of(variant)
    return _OTHER_COLOURS[sum(1 << LEVELS.index(level) for level in kept) % len(_OTHER_COLOURS)]


def frame(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a position in inches from the lower left corner."""
    full_width, full_height = figure.get_size_inches()
    return figure.add_axes(
        (left / full_width, bottom / full_height, width / full_width, height / full_height)
    )


def write(figure: Figure, x: float, y: float, text: str, **style: object) -> None:
    """Write text at a position in inches from the lower left corner."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, **style)  # type: ignore[arg-type]


def to_svg(figure: Figure) -> bytes:
    """Export as SVG with text as text; byte-identical for the same figure."""
    buffer = io.BytesIO()
    for label in figure.findobj(Text):
        # a control character would make the file ill-formed
        label.set_text("\n".join(map(visible, label.get_text().split("\n"))))
    with styled():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "skipshift"})
    text = buffer.getvalue().decode().replace(_SANS, _PAGE_FONTS)
    return _PATH.sub(lambda path: _LONG.sub(r"\1", path[0]), text).encode()


def to_png(figure: Figure, dpi: int = 160) -> bytes:
    """Export as PNG; byte-identical for the same figure."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def to_jpeg(figure: Figure, dpi: int = 160) -> bytes:
    """Export as JPEG, for figures of photographs: a fifth of the size of a PNG."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="jpeg", dpi=dpi, pil_kwargs={"quality": 88, "subsampling": 0})
    return buffer.getvalue()
