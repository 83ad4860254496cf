"""The page of a finding about one network, whatever the command: its parts, and the files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from skipshift.page.example_pictures import Examples
from skipshift.page.outside import MOST, Names
from skipshift.page.shell import data_uri, render, write_page
from skipshift.page.style import to_svg
from skipshift.page.tables import flat
from skipshift.page.u_drawing import Drawing
from skipshift.page.u_picture import u_picture, write_u
from skipshift.page.wording import chance
from skipshift.records import REPORT

BLOCKS = (
    "Each block is a layer, coloured by its excess: the distance between the features of both "
    "sets, corrected for the noise floor."
)
CARRIED = (
    "A skip is as wide as the share of the lost IoU that comes back when it alone is fed the "
    "reference's features."
)
NOT_CARRIED = "What the skips carry was not measured: that needs paired images with masks."


Drawings = Mapping[tuple[str, ...], Drawing]
"""Values of what there are several of, such as distance and pooling -> the network."""


class Network(NamedTuple):
    """The network as pictures, and what to select them by."""

    axes: Mapping[str, Sequence[str]]
    """What there are several of, such as the distance -> its values."""

    views: Sequence[tuple[str, str]]
    """Numbers of the values of all axes, as ``0 1``, and the ``<svg>``; the first is shown."""

    caption: str


class Chart(NamedTuple):
    """A figure beside the network."""

    title: str
    source: str
    """Data URI."""

    alt: str
    width: int
    caption: str


class Table(NamedTuple):
    """A table of text."""

    id: str
    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str


class Findings(NamedTuple):
    """What a page shows, in this order."""

    title: str
    sub: str
    answers: Sequence[tuple[str, str]]
    """Questions and their answers: the verdict."""

    names: Names
    """Names that were cut."""

    drawings: Drawings | None = None
    """The first is the one of the files."""

    axes: tuple[str, ...] = ()
    """What the keys of ``drawings`` are."""

    caption: str = ""
    charts: Sequence[Chart] = ()
    examples: Examples | None = None
    tables: Sequence[Table] = ()
    sure: str = ""
    """How sure all this is, and what it could not tell."""


def write_findings(folder: Path, found: Findings, settings: Mapping[str, Any]) -> None:
    """Write report.html, and the network as u.svg, u.pdf and u.png if it is drawn."""
    text = found.names.settings(dict(flat(settings)))
    about = {"title": found.title, "sub": found.sub, "settings": text}
    write_page(folder / REPORT, "findings.html.j2", found.names, body=findings_body(found), **about)
    if found.drawings:
        write_u(folder, next(iter(found.drawings.values())))


def findings_body(found: Findings) -> str:
    """Body of the page: verdict, network, charts, images, tables, how sure."""
    return render(
        "body.html.j2",
        found.names,
        answers=found.answers,
        network=network(found.drawings, found.axes, found.caption),
        figures=found.charts,
        examples=found.examples,
        tables=found.tables,
        sure=found.sure,
    )


def network(drawings: Drawings | None, axes: Sequence[str], caption: str) -> Network | None:
    """Lay the pictures of a network out by what there are several of; None without any."""
    if not drawings:
        return None
    values = [list(dict.fromkeys(key[i] for key in drawings)) for i in range(len(axes))]
    several = [i for i, own in enumerate(values) if len(own) > 1]
    shown = {axes[i]: values[i] for i in several}
    views = [
        (
            " ".join(str(values[i].index(key[i])) for i in several),
            u_picture(drawing, ", ".join(("The network", *key))),
        )
        for key, drawing in drawings.items()
    ]
    return Network(shown, views, caption)


def chart(title: str, figure: Figure, alt: str, caption: str) -> Chart:
    """Hold a figure as SVG."""
    width = round(figure.get_size_inches()[0] * 96)
    return Chart(title, data_uri("image/svg+xml", to_svg(figure)), alt, width, caption)


def table(id_: str, title: str, frame: pd.DataFrame, columns: Sequence[str], note: str) -> Table:
    """Show the columns of a table that hold anything."""
    shown = frame[[name for name in columns if name in frame and frame[name].notna().any()]]
    rows = [
        [_cell(str(name), value) for name, value in zip(shown, row, strict=True)]
        for row in shown.itertuples(index=False)
    ]
    return Table(id_, title, list(map(str, shown)), rows, note)


def _cell(name: str, value: object) -> str:
    if isinstance(value, float) and value != value:
        return "-"
    if isinstance(value, float) and name.startswith("p_"):
        return chance(value)
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) >= 2
        return f"{value:.0f}" if whole else f"{round(value, 3) + 0:.3f}"
    return str(value)


def subject(names: Names, about: Mapping[str, Any]) -> str:
    """Say what a page is about, from its settings; empty without any."""
    if "net" not in about:
        return ""
    keys = ("reference", "shifted", "manifest", "fingerprint", "images", "net")
    *sets, net = (names(str(about[key]), 2 * MOST) for key in keys if key in about)
    return f"{' against '.join(sets)}, in {net}"
