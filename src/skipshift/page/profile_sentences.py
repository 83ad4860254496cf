"""Sentences about the profile of one network."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from skipshift.names import listed
from skipshift.page.wording import counted
from skipshift.statistics.layer_tests import is_clear
from skipshift.statistics.multiplicity import ALPHA


def profile_verdict(rows: pd.DataFrame) -> str:
    """Say in two sentences where the excess is largest, and how sure that is.

    Parameters
    ----------
    rows
        Columns of a profile's layers.csv, of one distance and one pooling.
    """
    known = rows.dropna(subset=["excess", "p_adjusted"])
    if known.empty:
        return (
            "No verdict is possible: it needs the null (noise floor) and permutations: draws of "
            "each, and at least 2 groups in the reference (for a fingerprint 2 parts, and in the "
            "other set at least as many groups as in a part)."
        )
    if reason := no_verdict(known):
        return f"No verdict is possible: {reason}. {_largest(known)}"
    clear = known[is_clear(known)]
    if clear.empty:
        return (
            f"No shift is detected: no layer is significantly above its null (noise floor). "
            f"{_largest(known)} A shift smaller than the interval cannot be ruled out."
        )
    top = clear.iloc[int(clear["excess"].argmax())]
    return (
        f"The excess (bias-corrected distance) is largest at {top['layer']}: {top['excess']:.2f}"
        f"{_interval(top)}, {_chance(top, len(known))}, a distance of {top['distance']:.2f} beside "
        f"a null (noise floor) of {top['null']:.2f}; {len(clear)} of {len(rows)} layers are "
        f"significantly above their nulls. {_order(known, top)}"
    )


def no_verdict(rows: pd.DataFrame) -> str:
    """Say why no data of these groups could show a shift; empty where they could.

    Parameters
    ----------
    rows
        With ``groups`` and ``least_p``.
    """
    least, groups = rows["least_p"].iloc[0], rows["groups"].iloc[0]
    return f"with {groups} groups no p can fall below {least:.2g}" * bool(least >= ALPHA)


def not_behind(rows: pd.DataFrame, top: str) -> list[str]:
    """Layers of a profile whose excess is not significantly smaller than that of the largest.

    Parameters
    ----------
    rows
        With ``layer`` and ``behind_low``, which is NaN where it is not known.
    top
        The layer of the largest excess.
    """
    others = rows[rows["layer"] != top]
    return [str(layer) for layer in others["layer"][~(others["behind_low"] > 0)]]


def top_layer(rows: pd.DataFrame) -> str:
    """Find the layer with the largest excess of those that are clear of their nulls."""
    return _largest_layer(rows[is_clear(rows)])


def rivals(rows: pd.DataFrame) -> list[str]:
    """Layers whose excess is not significantly smaller than that of the `top_layer`.

    Each difference is asked at 95 %; that all of them hold says no more at 5 % than the least of
    them, so nothing is corrected (Berger 1982).
    """
    largest = _largest_layer(rows)
    # differences are to the largest excess of all, which may belong to a layer that is not clear
    return not_behind(rows, largest) if largest == top_layer(rows) else [largest]


def _largest_layer(rows: pd.DataFrame) -> str:
    return str(rows["layer"].iloc[int(rows["excess"].argmax())])


def order_known(rows: pd.DataFrame) -> bool:
    """Whether there are intervals of the differences between layers."""
    return bool(rows["behind_low"].notna().any())


def _order(rows: pd.DataFrame, top: pd.Series) -> str:
    if len(rows) == 1:
        return "No other layer was measured."
    if not order_known(rows):
        return "With fewer than 3 groups in a set the order of layers is unknown."
    if float(top["excess"]) < rows["excess"].max():
        return "A layer that is not significantly above its null has a larger excess."
    near = not_behind(rows, str(top["layer"]))
    if not near:
        return "That is more than in any other layer: no 95 % interval of a difference holds 0."
    return (
        f"Its order with {listed(near)} is uncertain: the 95 % intervals of the differences hold 0."
    )


def _largest(rows: pd.DataFrame) -> str:
    top = rows.iloc[int(rows["excess"].argmax())]
    return (
        f"The largest excess is {top['excess']:.2f} at {top['layer']}{_interval(top)}, "
        f"{_chance(top, len(rows))}."
    )


def _interval(row: pd.Series) -> str:
    if np.isnan(row["low"]):
        return " (fewer than 3 groups in a set give no interval)"
    return f" (95 % interval {row['low']:.2f} to {row['high']:.2f})"


def _chance(row: pd.Series, layers: int) -> str:
    return f"p = {row['p_adjusted']:.2g} adjusted for {counted(layers, 'layer')}"


def beyond_edges(outside: Mapping[str, float]) -> str:
    """Say which layer has the most values beyond a fingerprint's edges; empty without layers."""
    if not outside:
        return ""
    layer = max(outside, key=outside.__getitem__)
    return f"Up to {outside[layer]:.1%} of a layer ({layer}) lies beyond the fingerprint's edges."
