"""Sentences about the profile of one network."""

import pandas as pd

from skipshift.names import listed

LEVEL = 0.025
"""Chance that a verdict finds a shift where there is none, as a 95 % interval leaves at one end."""


def profile_verdict(rows: pd.DataFrame, skips: tuple[int, ...] | None, smallest_p: float) -> str:
    """Say in two sentences where the shift is largest, which skips pass it on, and how sure.

    Parameters
    ----------
    rows
        Columns of profile.csv, of one distance and one pooling.
    skips
        Skip levels that the network keeps; None where they are not known.
    smallest_p
        Smallest attainable p-value of the permutation test.
    """
    known = rows.dropna(subset=["excess", "low", "p_adjusted"])
    if known.empty:
        return (
            "Nothing can be said of a shift. A distance needs a null, an interval and "
            "permutations: draws of each, and at least 2 groups in the reference (of a "
            "fingerprint 2 parts, and in the other set as many groups as in a part)."
        )
    clear = known[known["p_adjusted"] < LEVEL]
    if clear.empty:
        return _alike(known, smallest_p)
    top = clear.iloc[int(clear["excess"].argmax())]
    return (
        f"The shift is largest at {top['layer']}, {top['excess']:.2f} above a null of "
        f"{top['null']:.2f} (95 % interval {top['low'] - top['null']:.2f} to "
        f"{top['high'] - top['null']:.2f}, p = {top['p_adjusted']:.2g} after Holm's correction)"
        f", and {len(clear)} of {len(rows)} layers stand clear of their nulls. "
        f"{_passed_on(rows, set(clear['layer']), skips)}"
    )


def _alike(rows: pd.DataFrame, smallest_p: float) -> str:
    top = rows.iloc[int(rows["excess"].argmax())]
    said = (
        f"The sets cannot be told apart: no layer stands clear of its null, and the largest excess "
        f"is {top['excess']:.2f} at {top['layer']} (p = {top['p_adjusted']:.2g} after Holm's "
        f"correction over {len(rows)} layers)."
    )
    least = smallest_p * len(rows)
    if least >= LEVEL:
        return f"{said} With groups this few no such p can fall below {min(least, 1):.2g}."
    return f"{said} A shift smaller than the intervals may be there all the same."


def _passed_on(rows: pd.DataFrame, clear: set[str], skips: tuple[int, ...] | None) -> str:
    named = set(rows["layer"])
    if skips is None or (skips and not any(f"d{2**level}" in named for level in skips)):
        return "Which skips pass it on is not said, since no layer is known to follow one."
    if not skips:
        return "The network keeps no skip that could pass it on."
    rising = clear & set(rows["layer"][rows["excess"].diff() > 0])
    passing = [level for level in skips if f"e{2**level}" in clear and f"d{2**level}" in rising]
    if not passing:
        return "No skip passes it on: the excess is larger behind none than in the layer before."
    names = listed(f"L{level}" for level in passing)
    blocks = listed(f"d{2**level}" for level in passing)
    return (
        f"{names} {'passes' if len(passing) == 1 else 'pass'} it on: at {blocks} the excess is "
        f"larger than in the layer before."
    )
