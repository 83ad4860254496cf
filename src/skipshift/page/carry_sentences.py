"""Sentences about activation patching (`carry`): the loss and the recovered fraction."""

import numpy as np
import pandas as pd

from skipshift.statistics.recovery import NONE


def carry_sentence(table: pd.DataFrame) -> str:
    """Say what the shift costs and which path recovers most of it.

    >>> row = {"share": 0.0, "low": 0.0, "high": 0.0, "in_domain": 0.9}
    >>> rows = [{"path": "none", "iou": 0.5, **row}, {**row, "path": "L1", "iou": 0.8,
    ...         "share": 0.75, "low": 0.7, "high": 0.8}, {**row, "path": "all", "iou": 0.9}]
    >>> carry_sentence(pd.DataFrame(rows))
    'The shift costs 0.400 IoU, from 0.900 to 0.500. Patching L1 recovers 75 % of it (95 %
    interval 70 to 80).'
    """
    none = table[table["path"] == NONE].iloc[0]
    before, after = none["in_domain"], none["iou"]
    if not after < before:
        return (
            f"The shift costs no IoU, from {before:.3f} to {after:.3f}: no recovered fraction is "
            "defined."
        )
    cost = f"The shift costs {before - after:.3f} IoU, from {before:.3f} to {after:.3f}."
    best = single_paths(table)[:-1].nlargest(1, "share").iloc[0]
    interval = "too few groups, or too small a loss, for an interval"
    if np.isfinite(best["low"]):
        interval = f"95 % interval {100 * best['low']:.0f} to {100 * best['high']:.0f}"
    return (
        f"{cost} Patching {best['path']} recovers {100 * best['share']:.0f} % of it ({interval})."
    )


def single_paths(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of single paths, and of all paths last."""
    sets = table["path"].str.contains("+", regex=False)
    return table[~sets & (table["path"] != NONE)]
