"""The page of a diagnosis, and the same as a fragment for notebooks."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from skipshift.page.carry_sentences import single_paths, sure_loss
from skipshift.page.diagnosis_sentences import diagnosis_answers
from skipshift.page.remedy_sentences import Facts
from skipshift.page.u_picture import u_picture
from skipshift.page.wording import chance
from skipshift.records import write_bytes

SHOWN = 15
"""Remedies on the page; remedies.csv has all."""


class Findings(NamedTuple):
    """What a diagnosis found, as tables."""

    layers: pd.DataFrame
    """Rows of one distance and pooling of a profile."""

    carried: pd.DataFrame | None
    """Table of `skipshift.carry`, if it was measured."""

    remedies: pd.DataFrame
    facts: Facts
    cause: str
    causes: pd.DataFrame
    """``remedy, cause, clear, left`` of every mistake that was tried."""

    skips: Sequence[str]
    """Skips that the network has, as L1."""


def write_diagnosis_page(path: Path, found: Findings, settings: Mapping[str, object]) -> None:
    """Write a page that opens from disk and asks no network for anything."""
    sub = f"{settings['reference']} against {settings['shifted']}, in {settings['net']}"
    text = _environment().get_template("findings.html.j2").render(
        title="Diagnosis", sub=sub, body=diagnosis_body(found), settings=settings
    )  # fmt: skip
    write_bytes(path, text.encode())


def diagnosis_body(found: Findings) -> str:
    """Body of the page: answers, the U as a picture, tables."""
    best = found.facts.best
    # shares of a loss that may be chance are no finding
    carried = found.carried if found.carried is not None and sure_loss(found.carried) else None
    return _environment().get_template("diagnosis.html.j2").render(
        answers=diagnosis_answers(
            found.layers, found.carried, found.remedies, found.facts, found.cause
        ),
        picture=u_picture(found.layers, found.skips, carried, best),
        carried=carried is not None,
        best=best,
        tables=list(_tables(found, carried)),
    )  # fmt: skip


def _tables(found: Findings, carried: pd.DataFrame | None) -> Any:
    yield _table(
        "remedies", "Remedies", found.remedies.head(SHOWN),
        ["remedy", "place", "parameters", "iou", "gain", "low", "high", "p_adjusted", "in_domain",
         "harm", "headroom", "excess_left"],
        f"The best {min(SHOWN, len(found.remedies))} of {len(found.remedies)}, each judged on "
        f"groups that it was not fitted on; p_adjusted is for all of them together. All are in "
        f"remedies.csv.",
    )  # fmt: skip
    yield _table(
        "profile", "Layers", found.layers,
        ["layer", "distance", "null", "excess", "low", "high", "p_adjusted"],
        "Distance of the features of both sets, the noise floor (null), and the excess with its "
        "95 % interval. A layer is clear of its noise floor where p_adjusted is below 0.05.",
    )  # fmt: skip
    if carried is not None:
        yield _table(
            "carry", "Skips", single_paths(carried),
            ["path", "iou", "share", "low", "high", "missing", "missing_low", "missing_high"],
            "Share of the lost IoU that comes back with one path alone, and that is missed without "
            "it where all others are patched, with 95 % intervals of each row alone.",
        )  # fmt: skip
    if len(found.causes):
        yield _table(
            "causes", "Mistakes tried", found.causes,
            ["remedy", "cause", "clear", "left"],
            "Layers that are clear of their noise floor beside a reference with the same mistake, "
            "and the part of the squared excess that is left; of the images alone where those "
            "exclude it.",
        )  # fmt: skip


def _table(id_: str, title: str, frame: pd.DataFrame, columns: list[str], note: str) -> Any:
    shown = frame[[name for name in columns if frame[name].notna().any()]]
    rows = [
        [_cell(str(name), value) for name, value in zip(shown, row, strict=True)]
        for row in shown.itertuples(index=False)
    ]
    return {"id": id_, "title": title, "columns": list(shown), "rows": rows, "note": note}


def _cell(name: str, value: object) -> str:
    if isinstance(value, float) and value == value and name.startswith("p_"):
        return chance(value)
    if isinstance(value, float):
        if value != value:
            return "-"
        return (
            f"{value:.0f}"
            if value.is_integer() and abs(value) >= 2
            else f"{round(value, 3) + 0:.3f}"
        )
    return str(value)


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("skipshift.page", "")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
