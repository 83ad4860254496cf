"""Sentences about comparisons with the baseline: no more than the tests support."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from skipshift.names import listed
from skipshift.page.wording import amount, chance, counted, on_domains, signed
from skipshift.statistics.comparisons import (
    AWAY,
    BOTH_FAIL,
    CHECKPOINT,
    EQUIVALENT,
    HIGHER,
    LOWER,
    OPEN,
)
from skipshift.statistics.multiplicity import ALPHA
from skipshift.statistics.scores import MEAN, headline_class


def leading(tests: pd.DataFrame) -> dict[str, Any]:
    """Test of the variant with the largest effect on one domain, which may be negative."""
    ranked = tests.sort_values("effect", ascending=False, kind="stable")
    return {str(name): value for name, value in ranked.iloc[0].items()}


def sides(test: Mapping[str, Any]) -> tuple[str, str]:
    """Name what is compared, a variant or one checkpoint of it, and the baseline.

    >>> sides({"of": "checkpoint", "variant": "L1-pruned"})
    ('this checkpoint of L1-pruned', 'that of the baseline')
    """
    if test["of"] == CHECKPOINT:
        return f"this checkpoint of {test['variant']}", "that of the baseline"
    return str(test["variant"]), "the baseline"


def claim(test: Mapping[str, Any], margin: float) -> str:
    """Say what one test supports, of variants or of checkpoints."""
    ours, theirs = sides(test)
    verdict, comparison = test["verdict"], f"the comparison of {ours}"
    if verdict == BOTH_FAIL:
        return (
            f"{ours} and {theirs} both fail: {_score(test)} and {test['baseline']:.3f} are not "
            f"above the best constant prediction ({test['floor']:.3f}) by more than {margin:g}"
        )
    if not np.isfinite(test["low"]):
        return f"{comparison} with {theirs} is inconclusive: {_no_interval(test)}"
    interval = f"95 % interval {signed(test['low'])} to {signed(test['high'])}"
    p, p_equivalence = (chance(test[name]) for name in ("p_adjusted", "p_equivalence_adjusted"))
    if verdict == EQUIVALENT:
        return (
            f"{ours} is equivalent to {theirs} within {margin:g}: the difference is "
            f"{signed(test['effect'])} ({interval}, adjusted p of equivalence {p_equivalence})"
        )
    if verdict == OPEN:
        return (
            f"{comparison} with {theirs} is inconclusive: the difference is "
            f"{signed(test['effect'])} ({interval}, adjusted p {p}){_missing(test)}"
        )
    small = test["p_equivalence_adjusted"] < ALPHA
    return (
        f"{ours} is {verdict} than {theirs} by {amount(abs(test['effect']))} ({interval}, "
        f"adjusted p {p}){f', but by less than the margin of {margin:g}' if small else ''}"
    )


def _score(test: Mapping[str, Any]) -> str:
    return f"{test['baseline'] + test['effect']:.3f}"


def _no_interval(test: Mapping[str, Any]) -> str:
    if not np.isfinite(test["effect"]):
        return "no case has the class"
    where = "a single group" if test["groups"] < 2 else "a domain of a single group"
    return f"the difference is {signed(test['effect'])}, and {where} gives no interval"


def _missing(test: Mapping[str, Any]) -> str:
    """Say what an inconclusive comparison lacks: groups, trainings, images, or fewer questions."""
    if test["least_p"] >= ALPHA:
        few = counted(int(test["groups"]), "group")
        return f"; with {few} no adjusted p of a difference can be below {chance(test['least_p'])}"
    if test["of"] != CHECKPOINT and np.isnan(test["more_runs"]):
        return "; more images would be needed to settle it, not more trainings"
    if test["more_runs"] > 0:
        more = counted(int(test["more_runs"]), "more training")
        return f"; were effect and spreads as they seem, {more} of each network would settle it"
    if test["low"] > 0 or test["high"] < 0:
        return ", not significant after correction for multiple tests"
    return ""


def verdict_sentences(tests: pd.DataFrame, margin: float, metric: str = "iou") -> list[str]:
    """Say for each encoder and variant what the tests show on the single domains.

    Parameters
    ----------
    tests
        Columns of tests.csv, as from `compare` with this ``margin``.
    metric
        One of `SCORES`; the class is the only foreground class, or the mean of several.
    """
    label = headline_class([name for name in tests["class"].unique() if name != MEAN])
    shown = tests[(tests["class"] == label) & (tests["metric"] == metric)]
    shown = shown[shown["domain"] != AWAY].dropna(subset="effect")
    encoders = shown["encoder"].nunique()
    said = []
    for (encoder, _), rows in shown.groupby(["encoder", "variant"], sort=False):
        text = tally(rows, margin) if len(rows) > 1 else claim(leading(rows), margin)
        text = f"with {encoder}, {text}" if encoders > 1 else text
        said.append(f"{text[0].upper()}{text[1:]}.")
    return said


def tally(tests: pd.DataFrame, margin: float) -> str:
    """Count the verdicts on one variant over several domains; name the domains if few."""
    said = []
    for _, rows in tests.groupby("of", sort=False):
        ours, theirs = sides({str(name): value for name, value in rows.iloc[0].items()})
        counts = [_counted(rows, verdict, margin, len(tests)) for verdict in _WORDS]
        parts = [text for text in counts if text]
        failed = _where(rows, BOTH_FAIL, len(tests))
        if parts:
            both = f"; both fail on {failed}" if failed else ""
            said.append(f"against {theirs}, {ours} is {listed(parts)}{both}")
        else:
            said.append(f"{ours} and {theirs} both fail on {failed}")
    return "; ".join(said)


_WORDS = {
    HIGHER: "higher on {where} (by {span})",
    LOWER: "lower on {where} (by {span})",
    EQUIVALENT: "equivalent within {margin:g} on {where}",
    OPEN: "inconclusive on {where}",
}


def _counted(tests: pd.DataFrame, verdict: str, margin: float, total: int) -> str:
    where = _where(tests, verdict, total)
    if not where:
        return ""
    of = tests[tests["verdict"] == verdict]["effect"].abs()
    sizes = [amount(size) for size in sorted(of)]
    span = sizes[0] if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
    return _WORDS[verdict].format(where=where, span=span, margin=margin)


def _where(tests: pd.DataFrame, verdict: str, total: int) -> str:
    rows: Sequence[str] = list(tests[tests["verdict"] == verdict]["domain"])
    return on_domains(rows, total) if len(rows) else ""
