"""Ranking of judged remedies: the table, and the rule that recommends one of them or none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.page.remedy_sentences import Facts, Recommended
from skipshift.records import TABLE_COLUMNS
from skipshift.remedies.judging import Judged
from skipshift.remedies.places import Place
from skipshift.remedies.setting import Remedy, Setting
from skipshift.statistics.excess import difference
from skipshift.statistics.gains import choose, constant_iou, gain_table, harm_table
from skipshift.statistics.multiplicity import ALPHA, smallest_swap_p
from skipshift.statistics.recovery import Counts, foreground_iou
from skipshift.statistics.resampling import p_value

COLUMNS = tuple(TABLE_COLUMNS["remedies.csv"])

_MISSING = 0.05
"""A class has all but gone where its share is below this part of its share on the reference."""

_RARE = 1e-3
"""Share of the reference's pixels below which a class may go missing."""


@dataclass(frozen=True)
class Row:
    """A remedy at a place."""

    remedy: Remedy
    place: Place
    judged: Mapping[float, Judged] | str
    """By weight; or why it could not be fitted."""


def ranked(
    rows: Sequence[Row],
    plain: Judged,
    permuted: npt.NDArray[np.floating],
    setting: Setting,
    layer: str,
    headroom: Mapping[str, float],
) -> tuple[pd.DataFrame, Facts]:
    """Make the table of all rows, best first, and what the verdict needs beside it.

    Parameters
    ----------
    plain
        The unmended network.
    permuted
        Statistic of its last layer, the observed one first; empty if there is none.
    layer
        Name of that layer.
    headroom
        IoU that comes back when a place is fed the reference's features, where that is known.
    """
    masks = setting.shifted.data.masks is not None
    fitted = [_joined(row, setting.shifted.folds, masks) for row in rows]
    table = pd.DataFrame([_about(row, one, setting) for row, one in zip(rows, fitted, strict=True)])
    table = table.reindex(columns=list(COLUMNS))
    good = [i for i, one in enumerate(fitted) if one is not None]
    done = [one for one in fitted if one is not None]
    index = table.index[good]
    if masks and done:
        counts = np.stack([plain.counts, *(one.counts for one in done)], 1)
        gains = gain_table(counts, setting.spec.seed).set_index(index)
        table.loc[index, list(gains)] = gains
    if setting.reference.data.masks is not None and done:
        home = np.stack([plain.home, *(one.judged.home for one in done)], 1)
        harms = harm_table(home).set_index(index)
        table.loc[index, list(harms)] = harms
    table["headroom"] = table["place"].map(dict(headroom)).astype(float)
    table["collapsed"] = [one is not None and _collapsed(one.judged, plain) for one in fitted]
    layers = list(table["place"])
    for i, one in zip(good, done, strict=True):
        left = _excess_left(one.judged, layers[i] == layer)
        table.loc[i, ["excess_left", "excess_low", "excess_high"]] = left
    facts = _facts(table, fitted, plain, permuted, setting, layer)
    order = ["gain", "excess_left"] if masks else ["excess_left", "gain"]
    table = table.sort_values(order, ascending=[not masks, masks], kind="stable")
    return table[list(COLUMNS)].reset_index(drop=True), facts


@dataclass(frozen=True)
class _Joined:
    """A remedy at a place with the weight that cross-fitting chose."""

    weight: float
    counts: Counts
    """(groups, classes, 3): each group by the weight that is best on the other folds."""
    judged: Judged
    """With the weight that is best on all folds."""


def _joined(row: Row, folds: npt.NDArray[np.int64], masks: bool) -> _Joined | None:
    if isinstance(row.judged, str):
        return None
    weights = list(row.judged)
    if masks:
        counts = np.stack([row.judged[w].counts for w in weights], 1)
        best = int(np.nanargmax(np.nan_to_num(foreground_iou(counts)[0], nan=-1.0)))
        return _Joined(weights[best], choose(counts, folds).counts, row.judged[weights[best]])
    left = [np.inf if (e := row.judged[w].excess) is None else e.value for w in weights]
    weight = weights[int(np.argmin(left))]
    return _Joined(weight, row.judged[weight].counts, row.judged[weight])


def _about(row: Row, one: _Joined | None, setting: Setting) -> dict[str, object]:
    used = setting.labelled if row.remedy.labelled else None
    about = {
        "remedy": row.remedy.name,
        "place": row.place.name,
        "labels": 0 if used is None else len(used.groups),
        "failed": row.judged if isinstance(row.judged, str) else "",
    }
    if one is None or isinstance(row.judged, str):
        return about
    return about | {
        "parameters": one.judged.parameters,
        "seconds": sum(judged.seconds for judged in row.judged.values()),
        "weight": one.weight,
        "unchanged": one.judged.unchanged,
    }


def _collapsed(judged: Judged, plain: Judged) -> bool:
    """Whether a class that is predicted on the reference is all but gone on the shifted set."""
    known = plain.home_pixels / plain.home_pixels.sum()
    seen = judged.pixels / judged.pixels.sum()
    return bool(((known >= _RARE) & (seen < _MISSING * known)).any())


def _excess_left(judged: Judged, same: bool) -> list[float]:
    """Excess with its interval; NaN where the change acts in the layer that is measured."""
    if same or judged.excess is None:
        return [np.nan] * 3
    return [judged.excess.value, *judged.excess.interval()]


def _facts(
    table: pd.DataFrame,
    fitted: Sequence[_Joined | None],
    plain: Judged,
    permuted: npt.NDArray[np.floating],
    setting: Setting,
    layer: str,
) -> Facts:
    data = setting.shifted.data
    masks = data.masks is not None
    groups = len(setting.shifted.folds)
    iou, constant, chosen = np.nan, np.nan, (np.nan,) * 4
    if masks:
        iou = float(foreground_iou(plain.counts[:, None])[0][0])
        constant = constant_iou(plain.counts)
        chosen = _choice(table, fitted, plain, setting)
    in_domain = np.nan
    if setting.reference.data.masks is not None:
        in_domain = float(foreground_iou(plain.home[:, None])[0][0])
    p = p_value(permuted) if len(permuted) else np.nan
    best = _best_by_iou(table, constant, setting.spec.margin) if masks else None
    if not masks and p < ALPHA:
        best = _best_by_excess(table, fitted, plain)
    return Facts(
        best=None if best is None else Recommended(*table.loc[best, ["remedy", "place"]]),
        iou=iou,
        in_domain=in_domain,
        constant=constant,
        chosen=chosen,
        layer=layer,
        excess=np.nan if plain.excess is None else plain.excess.value,
        p=p,
        groups=groups,
        images=len(data.groups),
        masks=masks,
        margin=setting.spec.margin,
        least_p=smallest_swap_p(groups),
        predicted=tuple(plain.pixels / plain.pixels.sum()),
        expected=tuple(plain.home_pixels / plain.home_pixels.sum()),
    )


def _choice(
    table: pd.DataFrame, fitted: Sequence[_Joined | None], plain: Judged, setting: Setting
) -> tuple[float, float, float, float]:
    """IoU, gain and interval of the rule that chooses the best row, or none, on other folds."""
    fit = [one.counts for i, one in enumerate(fitted) if one and not table.loc[i, "collapsed"]]
    counts = np.stack([plain.counts, *fit], 1)
    picked = choose(counts, setting.shifted.folds).counts
    row = gain_table(np.stack([plain.counts, picked], 1)).iloc[0]
    return float(row["iou"]), float(row["gain"]), float(row["low"]), float(row["high"])


def _best_by_iou(table: pd.DataFrame, constant: float, margin: float) -> int | None:
    """Return the smallest change among those whose gain is within the margin of the largest."""
    fit = table[
        ~table["collapsed"]
        & (table["p_adjusted"] < ALPHA)
        & (table["gain"] > margin)
        & (table["iou"] > constant)
    ]
    if fit.empty:
        return None
    near = fit[fit["gain"] >= fit["gain"].max() - margin]
    order = near.sort_values(["parameters", "gain"], ascending=[True, False], kind="stable")
    return int(order.index[0])


def _best_by_excess(
    table: pd.DataFrame, fitted: Sequence[_Joined | None], plain: Judged
) -> int | None:
    """Return the row that leaves the least excess, if that is clearly less than before."""
    # what a pruned skip no longer tells cannot differ
    fit = table[~table["collapsed"] & table["excess_left"].notna() & (table["remedy"] != "prune")]
    for index in fit.sort_values("excess_left", kind="stable").index:
        one = fitted[index]
        if one is not None and one.judged.excess is not None and plain.excess is not None:
            _, low, _ = difference(plain.excess, one.judged.excess)
            return int(index) if low > 0 else None
    return None
