"""The pages of a diagnosis and of a search for remedies."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from skipshift.page.carry_sentences import single_paths, sure_loss
from skipshift.page.diagnosis_sentences import diagnosis_answers
from skipshift.page.example_pictures import Case, examples
from skipshift.page.findings import (
    BLOCKS,
    CARRIED,
    NOT_CARRIED,
    Findings,
    Table,
    subject,
    table,
)
from skipshift.page.outside import Names
from skipshift.page.remedy_sentences import Facts, Recommended, remedies_verdict
from skipshift.page.u_drawing import Link, draw_u, unmeasured
from skipshift.page.wording import UNITS

SHOWN = 15
"""Remedies on the page; remedies.csv has all."""

_NOTE = "Images as the network is given them."
_MASKED = (
    " Of a set with masks, the worst and the median by the mean IoU of the foreground before the "
    "remedy, of images that have any."
)
_CHANGED = (
    " Of a set without masks, the one of which the remedy changes most pixels, and the median."
)
_UNMASKED = " Of a set without masks, the one with the least foreground predicted, and the median."
_FITTED = (
    " Here the remedy is the one in mended/, fitted on all shifted images; the numbers of the "
    "tables are of images that it was not fitted on."
)


class Diagnosed(NamedTuple):
    """What a diagnosis found, as tables."""

    layers: pd.DataFrame
    """Rows of one distance and pooling of a profile."""

    carried: pd.DataFrame | None
    """Table of `skipshift.carry`, if it was measured."""

    remedies: pd.DataFrame
    facts: Facts
    cause: str
    differ: bool
    """Whether the search for a cause told the sets apart."""

    estimate: str
    """What the IoU on shifted images without masks is estimated at, in words; or empty."""

    causes: pd.DataFrame
    """``remedy, cause, clear, left`` of every mistake that was tried."""

    links: Sequence[Link]
    """Skips that the network has."""

    cases: Sequence[Case] = ()
    """Images to show."""


def diagnosis_findings(found: Diagnosed, about: Mapping[str, Any] = {}) -> Findings:
    """Lay the page of a diagnosis out.

    Parameters
    ----------
    about
        Settings, of which the page names ``net``, ``reference`` and ``shifted``.
    """
    names = Names()
    found = _named(found, names)
    *answers, sure = diagnosis_answers(*found[:7])
    return Findings(
        "Diagnosis",
        subject(names, about),
        answers,
        names,
        {(): draw_u(found.layers, found.links, found.carried, found.facts.best)},
        caption=_caption(found),
        examples=examples(found.cases, _examples_note(found.cases)),
        tables=_tables(found),
        sure=sure[1],
    )


def remedy_findings(
    remedies: pd.DataFrame,
    facts: Facts,
    known: tuple[Sequence[str], Sequence[Link]] = ((), ()),
    cases: Sequence[Case] = (),
    about: Mapping[str, Any] = {},
) -> Findings:
    """Lay the page of a search for remedies out.

    Parameters
    ----------
    known
        Layers and skips of the network; it is not drawn without any.
    about
        As in `diagnosis_findings`.
    """
    names = Names()
    table, facts = _named_remedies(remedies, facts, names)
    cases = _named_cases(cases, names)
    layers, links = names.every(known[0]), [Link(*names.every(link)) for link in known[1]]
    return Findings(
        "Remedies",
        subject(names, about),
        [("What can be done?", remedies_verdict(table, facts))],
        names,
        {(): draw_u(unmeasured(layers), links, None, facts.best)} if layers else {},
        caption="The recommended remedy is marked where it acts." * (facts.best is not None),
        examples=examples(cases, _examples_note(cases)),
        tables=[remedies_table(table, facts.best)],
        sure=_judged_on(facts),
    )


def _judged_on(facts: Facts) -> str:
    units = "each image its own group" if facts.groups == facts.images else f"{facts.groups} groups"
    return f"Remedies are judged on {facts.images} shifted images, {units}. {UNITS}"


def _named(found: Diagnosed, names: Names) -> Diagnosed:
    """Cut the names of layers, places and groups."""
    remedies, facts = _named_remedies(found.remedies, found.facts, names)
    return found._replace(
        layers=names.table(found.layers, "layer"),
        carried=None if found.carried is None else names.table(found.carried, "path"),
        remedies=remedies,
        facts=facts,
        links=[Link(*names.every(link)) for link in found.links],
        cases=_named_cases(found.cases, names),
    )


def _named_remedies(
    remedies: pd.DataFrame, facts: Facts, names: Names
) -> tuple[pd.DataFrame, Facts]:
    best = None if facts.best is None else Recommended(facts.best[0], names(facts.best[1]))
    classes = names.every(facts.classes)
    named = replace(facts, best=best, layer=names(facts.layer), classes=classes)
    return names.table(remedies, "place"), named


def _named_cases(cases: Sequence[Case], names: Names) -> list[Case]:
    return [case._replace(group=names(case.group)) for case in cases]


def _caption(found: Diagnosed) -> str:
    carried = found.carried is not None and sure_loss(found.carried)
    unsure = "The loss may be chance, so no share of it is shown."
    said = CARRIED if carried else NOT_CARRIED if found.carried is None else unsure
    marked = " The recommended remedy is marked where it acts." * (found.facts.best is not None)
    return f"{BLOCKS} {said}{marked}"


def _examples_note(cases: Sequence[Case]) -> str:
    mended = any(case.after is not None for case in cases)
    masked = _MASKED * any(case.mask is not None for case in cases)
    without = _CHANGED if mended else _UNMASKED
    unmasked = without * any(case.mask is None for case in cases)
    return _NOTE + masked + unmasked + _FITTED * mended


def _tables(found: Diagnosed) -> list[Table]:
    tables = [remedies_table(found.remedies, found.facts.best), layers_table(found.layers)]
    # shares of a loss that may be chance are no finding
    if found.carried is not None and sure_loss(found.carried):
        tables.append(skips_table(found.carried))
    if len(found.causes):
        note = (
            "Layers that are clear of their noise floor beside a reference with the same mistake, "
            "and the part of the squared excess that is left; of the images alone where those "
            "exclude it. Above 1 the sets are farther apart than without it."
        )
        columns = ["remedy", "cause", "clear", "left"]
        tables.append(table("causes", "Mistakes tried", found.causes, columns, note))
    return tables


def remedies_table(remedies: pd.DataFrame, best: Recommended | None) -> Table:
    """Show the best of the remedies."""
    shown = best_remedies(remedies, best)
    first = "The recommended one, then the" if best is not None else "The"
    note = (
        f"{first} best of {len(remedies)}, each judged on groups that it was not fitted on; "
        f"p_adjusted is for all of them together. All are in remedies.csv."
    )
    return table("remedies", "Remedies", shown.head(SHOWN), list(map(str, shown)), note)


def best_remedies(remedies: pd.DataFrame, best: Recommended | None) -> pd.DataFrame:
    """Rows that could be fitted, the recommended one first, by the columns that hold anything."""
    fitted = remedies[remedies["failed"] == ""]
    fitted = fitted.assign(passed_over=fitted["passed_over"].replace("", np.nan))
    pairs = zip(fitted["remedy"], fitted["place"], strict=True)
    first = np.array([pair == best for pair in pairs], bool)
    columns = ["remedy", "place", "parameters", "iou", "gain", "low", "high", "p_adjusted",
               "in_domain", "harm", "headroom", "excess_left", "relabelled", "relabelled_unshifted",
               "passed_over"]  # fmt: skip
    return pd.concat([fitted[first], fitted[~first]])[columns].dropna(axis=1, how="all")


def layers_table(layers: pd.DataFrame) -> Table:
    """Show the rows of one distance and pooling of a profile."""
    columns = ["layer", "distance", "null", "excess", "low", "high", "p_adjusted"]
    note = (
        "Distance of the features of both sets, the noise floor (null), and the excess with its "
        "95 % interval. A layer is clear of its noise floor where p_adjusted is below 0.05."
    )
    return table("profile", "Layers", layers, columns, note)


def skips_table(carried: pd.DataFrame) -> Table:
    """Show the single paths of activation patching."""
    columns = ["path", "iou", "share", "low", "high", "missing", "missing_low", "missing_high"]
    note = (
        "Share of the lost IoU that comes back with one path alone, and that is missed without it "
        "where all others are patched, with 95 % intervals of each row alone."
    )
    return table("carry", "Skips", single_paths(carried), columns, note)
