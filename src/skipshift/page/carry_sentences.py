"""Sentences about activation patching (`carry`): no more than the intervals support."""

import numpy as np
import pandas as pd

from skipshift.names import listed
from skipshift.statistics.recovery import ALL, NONE


def carry_sentence(table: pd.DataFrame) -> str:
    """Say what the shift costs, what one path alone brings back, and what is missed without it.

    Shares are said only of a loss that is not 0 by its interval.

    >>> row = {"share": 0.0, "low": 0.0, "high": 0.0, "in_domain": 0.9, "lost_low": 0.3,
    ...        "lost_high": 0.5, "sure": False}
    >>> rows = [{"path": "none", "iou": 0.5, **row}, {**row, "path": "L1", "iou": 0.8,
    ...         "share": 0.75, "low": 0.7, "high": 0.8, "sure": True},
    ...         {**row, "path": "all", "iou": 0.9, "share": 1.0, "low": 1.0, "high": 1.0}]
    >>> carry_sentence(pd.DataFrame(rows))
    'The shift costs 0.400 IoU, from 0.900 to 0.500. Patching L1 alone recovers 75 % of it (95 %
    interval 70 to 80).'
    """
    none = table[table["path"] == NONE].iloc[0]
    said = [_cost(none)]
    if sure_loss(table) and not recovers(table):
        said.append(_no_recovery(table))
    elif sure_loss(table):
        said += [_alone(table), _missed(table), _farther(table)]
    return " ".join(filter(None, [*said, _unread(table)]))


def sure_loss(table: pd.DataFrame) -> bool:
    """Whether the loss differs from 0 by its 95 % interval; without one that is not known."""
    none = table[table["path"] == NONE].iloc[0]
    return bool(none.get("lost_low", np.nan) > 0)


def recovers(table: pd.DataFrame) -> bool:
    """Whether patching all paths recovers any of the loss, by the 95 % interval of its share.

    Where it does not, the mode does not work on this network and these sets, and no path counts.
    Ablation, of which nothing is expected back, has no ``missing`` and is not judged.
    """
    if "missing" not in table or table["missing"].isna().all():
        return True
    every = table[table["path"] == ALL].iloc[0]
    return bool(every["low"] > 0)


def _no_recovery(table: pd.DataFrame) -> str:
    every = table[table["path"] == ALL].iloc[0]
    return (
        f"This mode does not work here: with all paths patched, {_percent(every['share'])} comes "
        f"back ({_interval(every['low'], every['high'])}), so no path is named."
    )


def single_paths(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of single paths, and of all paths last."""
    sets = table["path"].str.contains("+", regex=False)
    return table[~sets & (table["path"] != NONE)]


def _cost(none: pd.Series) -> str:
    before, after = none["in_domain"], none["iou"]
    change = f"from {before:.3f} to {after:.3f}"
    if not after < before:
        return f"The shift costs no IoU, {change}: no recovered fraction is defined."
    low, high = none.get("lost_low", np.nan), none.get("lost_high", np.nan)
    if low > 0:
        return f"The shift costs {before - after:.3f} IoU, {change}."
    fewer = f"The IoU is {before - after:.3f} lower, {change}, which "
    if np.isnan(low):
        return (
            f"{fewer}one group, or too few with the class, cannot tell from chance: shares of it "
            "are no finding."
        )
    return (
        f"{fewer}may be chance (95 % interval of the loss {low:.3f} to {high:.3f}): shares of it "
        "are no finding."
    )


def _alone(table: pd.DataFrame) -> str:
    """Sentence on the path that recovers most, if it is sure to recover anything."""
    best = _largest(table, "share", "sure")
    if best is None:
        return "No path alone is sure to recover any of it."
    interval = _interval(best["low"], best["high"])
    more = ", more than was lost" if best["low"] > 1 else ""
    return f"Patching {best['path']} alone recovers {_percent(best['share'])} ({interval}){more}."


def _missed(table: pd.DataFrame) -> str:
    """Sentence on the path without which most is missed, if it is sure that anything is."""
    if "missing" not in table or table["missing"].isna().all():
        return ""
    worst = _largest(table, "missing", "missing_sure")
    if worst is None:
        return "No path is sure to be missed where all others are patched."
    interval = _interval(worst["missing_low"], worst["missing_high"])
    return (
        f"With all paths but {worst['path']} patched, {_percent(worst['missing'])} stays lost "
        f"({interval})."
    )


def _farther(table: pd.DataFrame) -> str:
    if "farther" not in table or not table["farther"].any():
        return ""
    paths = list(table.loc[table["farther"], "path"])
    return (
        f"Patching {listed(paths)} alone leads the decoder block behind farther from the reference "
        f"than the shift does: the share is of a state that neither set has."
    )


def _unread(table: pd.DataFrame) -> str:
    if "read" not in table or table["read"].all():
        return ""
    paths = list(table.loc[~table["read"], "path"])
    return f"Nothing reads {listed(paths)}: left out."


def _largest(table: pd.DataFrame, column: str, sure: str) -> pd.Series | None:
    """Row of the single path with the largest value, of those that are surely above 0."""
    single = single_paths(table)
    found = single[(single["path"] != ALL) & single[sure]]
    return None if found.empty else found.nlargest(1, column).iloc[0]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} % of it"


def _interval(low: float, high: float) -> str:
    return f"95 % interval {100 * low:.0f} to {100 * high:.0f}"
