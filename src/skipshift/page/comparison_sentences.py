"""Sentences about comparisons with the baseline: no more than the tests support."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from skipshift.names import BASELINE, listed
from skipshift.page.wording import amount, chance, on_domains, signed
from skipshift.statistics.comparisons import ALPHA, AWAY, EQUIVALENT, HIGHER, LOWER, OPEN
from skipshift.statistics.scores import MEAN, headline_class


def leading(tests: pd.DataFrame) -> dict[str, Any]:
    """Test of the variant with the largest effect on one domain, which may be negative."""
    ranked = tests.sort_values("effect", ascending=False, kind="stable")
    return {str(name): value for name, value in ranked.iloc[0].items()}


def claim(test: Mapping[str, Any], margin: float, named: bool = True) -> str:
    """Say what one test supports; of the variant by name, or of "it"."""
    variant, verdict = test["variant"] if named else "it", test["verdict"]
    comparison = f"the comparison of {variant}" if named else "its comparison"
    if not np.isfinite(test["low"]):
        few = "a single group gives no interval" if test["groups"] < 2 else "no case has the class"
        return f"{comparison} with the baseline is inconclusive: {few}"
    interval = f"95 % interval {signed(test['low'])} to {signed(test['high'])}"
    p, p_equivalence = (chance(test[name]) for name in ("p_adjusted", "p_equivalence_adjusted"))
    if verdict == EQUIVALENT:
        return (
            f"{variant} is equivalent to the baseline within {margin:g}: the difference is "
            f"{signed(test['effect'])} ({interval}, adjusted p of equivalence {p_equivalence})"
        )
    if verdict == OPEN:
        alone = test["low"] > 0 or test["high"] < 0
        return (
            f"{comparison} with the baseline is inconclusive: the difference is "
            f"{signed(test['effect'])} ({interval}, adjusted p {p})"
            f"{', not significant after correction for multiple tests' if alone else ''}"
        )
    small = test["p_equivalence_adjusted"] < ALPHA
    return (
        f"{variant} is {verdict} than the baseline by {amount(abs(test['effect']))} ({interval}, "
        f"adjusted p {p}){f', but by less than the margin of {margin:g}' if small else ''}"
    )


def verdict_sentences(tests: pd.DataFrame, margin: float, metric: str = "iou") -> list[str]:
    """Say for each encoder which variant is the highest where, and what the tests show of each.

    Parameters
    ----------
    tests
        Columns of tests.csv, as from `compare` with this ``margin``.
    metric
        One of `METRICS`; the class is the only foreground class, or the mean of several.
    """
    label = headline_class([name for name in tests["class"].unique() if name != MEAN])
    shown = tests[(tests["class"] == label) & (tests["metric"] == metric)]
    shown = shown[shown["domain"] != AWAY].dropna(subset="effect")
    said = []
    for encoder, rows in shown.groupby("encoder", sort=False):
        tops = [leading(part) for _, part in rows.groupby("domain", sort=False)]
        highest = pd.Series(
            {top["domain"]: top["variant"] if top["effect"] > 0 else BASELINE for top in tops}
        )
        where = [
            f"{name} on {on_domains(list(part.index), len(tops))}"
            for name, part in highest.groupby(highest, sort=False)
        ]
        said.append(f"With {encoder}, the highest is {listed(where)}.")
        for _, part in rows.groupby("variant", sort=False):
            text = tally(part, margin) if len(part) > 1 else claim(leading(part), margin)
            said.append(f"{text[0].upper()}{text[1:]}.")
    return said


def tally(tests: pd.DataFrame, margin: float) -> str:
    """Count the verdicts on one variant over several domains; name the domains if few."""
    parts = []
    for verdict in (HIGHER, LOWER, EQUIVALENT, OPEN):
        rows = tests[tests["verdict"] == verdict]
        if rows.empty:
            continue
        where = on_domains(list(rows["domain"]), len(tests))
        sizes = [amount(size) for size in sorted(rows["effect"].abs())]
        span = sizes[0] if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
        parts.append(
            {
                HIGHER: f"higher on {where} (by {span})",
                LOWER: f"lower on {where} (by {span})",
                EQUIVALENT: f"equivalent within {margin:g} on {where}",
                OPEN: f"inconclusive on {where}",
            }[verdict]
        )
    return f"against the baseline, {tests['variant'].iloc[0]} is {listed(parts)}"
