"""Sentences about the profile of one network."""

from collections.abc import Mapping

import pandas as pd

from skipshift.names import listed

LEVEL = 0.025
"""Significance level of a layer, one-sided, which corresponds to a 95 % interval."""


def profile_verdict(rows: pd.DataFrame, skips: tuple[int, ...] | None, smallest_p: float) -> str:
    """Say in two sentences where the shift is largest, which skips pass it on, and how sure.

    Parameters
    ----------
    rows
        Columns of a profile's layers.csv, of one distance and one pooling.
    skips
        Skip levels that the network keeps; None where they are not known.
    smallest_p
        Smallest attainable p-value of the permutation test.
    """
    known = rows.dropna(subset=["excess", "low", "p_adjusted"])
    if known.empty:
        return (
            "No verdict is possible: it needs the null (noise floor), intervals and "
            "permutations: draws of each, and at least 2 groups in the reference (for a "
            "fingerprint 2 parts, and in the other set at least as many groups as in a part)."
        )
    clear = known[known["p_adjusted"] < LEVEL]
    if clear.empty:
        return _no_shift(known, smallest_p)
    top = clear.iloc[int(clear["excess"].argmax())]
    return (
        f"The shift is largest at {top['layer']}: its excess (bias-corrected distance) is "
        f"{top['excess']:.2f} over a null (noise floor) of "
        f"{top['null']:.2f} (95 % interval {top['low'] - top['null']:.2f} to "
        f"{top['high'] - top['null']:.2f}, p = {top['p_adjusted']:.2g} after Holm's correction)"
        f", and {len(clear)} of {len(rows)} layers are significantly above their nulls. "
        f"{_passed_on(rows, set(clear['layer']), skips)}"
    )


def beyond_edges(outside: Mapping[str, float]) -> str:
    """Say which layer has the most values beyond a fingerprint's edges; empty without layers."""
    if not outside:
        return ""
    layer = max(outside, key=outside.__getitem__)
    return f"Up to {outside[layer]:.1%} of a layer ({layer}) lies beyond the fingerprint's edges."


def _no_shift(rows: pd.DataFrame, smallest_p: float) -> str:
    top = rows.iloc[int(rows["excess"].argmax())]
    said = (
        f"No shift is detected: no layer is significantly above its null (noise floor), and the "
        f"largest excess is {top['excess']:.2f} at {top['layer']} (p = {top['p_adjusted']:.2g} "
        f"after Holm's correction for {len(rows)} layers)."
    )
    least = smallest_p * len(rows)
    if least >= LEVEL:
        return f"{said} With this few groups the corrected p cannot fall below {min(least, 1):.2g}."
    return f"{said} A shift smaller than the intervals cannot be ruled out."


def _passed_on(rows: pd.DataFrame, clear: set[str], skips: tuple[int, ...] | None) -> str:
    named = set(rows["layer"])
    if skips is None or (skips and not any(f"d{2**level}" in named for level in skips)):
        return "Which skips pass it on is unknown, because no measured layer is known to read one."
    if not skips:
        return "The network has no skips that could pass it on."
    rising = clear & set(rows["layer"][rows["excess"].diff() > 0])
    passing = [level for level in skips if f"e{2**level}" in clear and f"d{2**level}" in rising]
    if not passing:
        return (
            "No skip passes it on: the excess rises in no decoder block that reads a shifted skip."
        )
    names = listed(f"L{level}" for level in passing)
    blocks = listed(f"d{2**level}" for level in passing)
    return (
        f"{names} {'passes' if len(passing) == 1 else 'pass'} it on: at {blocks} the excess is "
        f"larger than in the layer before."
    )
