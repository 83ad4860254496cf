"""Recovered fraction (`share`) and Shapley values of patched paths, with intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from skipshift.errors import ArgumentError
from skipshift.specs import CarrySpec
from skipshift.statistics.counts import ratio
from skipshift.statistics.crossed import Array, group_variance, ratios
from skipshift.statistics.multiplicity import ALPHA

Counts = npt.NDArray[np.int64]
"""(groups, rows, classes, 3)."""

Rows = Mapping[str, tuple[str, ...]]
"""Name of each row and the paths that are patched in it; the first is `NONE`, the last `ALL`."""

NONE, ALL = "none", "all"

_MOST_PATHS = 10

_SURE = {"share": "sure", "missing": "missing_sure"}
"""Column that says whether a value is above 0, at `ALPHA` over all single paths together."""

Interval = tuple[float, float]


def rows_of(paths: tuple[str, ...], subsets: bool, rests: bool = False) -> Rows:
    """Name the sets of paths to patch: each path alone, or all 2^k subsets.

    With ``rests`` also all paths but one. `ArgumentError` if ``subsets`` are asked for of more than
    10 paths.

    >>> list(rows_of(("L1", "L2", "L3"), subsets=True))
    ['none', 'L1', 'L2', 'L3', 'L1+L2', 'L1+L3', 'L2+L3', 'all']
    """
    if subsets and len(paths) > _MOST_PATHS:
        raise ArgumentError(
            f"subsets of {len(paths)} paths are {2 ** len(paths)} passes; "
            f"name at most {_MOST_PATHS} paths"
        )
    inner = {1} | ({len(paths) - 1} if rests else set()) - {0}
    sizes = range(1, max(2, len(paths))) if subsets else sorted(inner)
    sets = [chosen for size in sizes for chosen in combinations(paths, size)]
    return {NONE: (), **{"+".join(chosen): chosen for chosen in sets}, ALL: paths}


class Linear(NamedTuple):
    """A difference of means over domains, and what each group adds to its error."""

    value: float

    errors: Array
    """(groups, domains), the error of the value being their mean over the domains."""


@dataclass(frozen=True)
class _Scores:
    """IoU of the unpatched reference and of each row of the shifted images, in this order."""

    values: Array
    """(1 + rows,)."""

    errors: Array
    """(groups, domains, 1 + rows): what each group adds to the error of each IoU. One domain where
    the groups are paired, else the reference and the shifted set, each times two."""

    weights: Array
    """(groups, domains): share of the pixels that are divided by."""

    rows: tuple[str, ...]

    def difference(self, weights: Mapping[str, float], inside: float = 0.0) -> Linear:
        """Weighted sum of the IoU of rows, and of that of the unpatched reference."""
        contrast = np.array([inside, *(weights.get(name, 0.0) for name in self.rows)])
        return Linear(float(self.values @ contrast), self.errors @ contrast)


def share_table(
    rows: Rows,
    counts: tuple[Counts, Counts],
    groups: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    spec: CarrySpec,
) -> pd.DataFrame:
    """Compute IoU and recovered fractions of each row; the columns are those of `skipshift.carry`.

    Sets of several paths are shown with ``spec.subsets`` only.

    Parameters
    ----------
    counts
        Of the reference, whose first row is unpatched, and of the shifted images.
    groups
        Label of each image's group in both sets; a label in both is a pair.
    """
    scores = _scores_of(tuple(rows), counts, groups)
    lost = scores.difference({NONE: -1.0}, 1.0)
    table: dict[str, Sequence[float]] = {"iou": list(scores.values[1:])}
    gains = {
        "share": {name: {NONE: -1.0, name: 1.0} if paths else {} for name, paths in rows.items()},
        "missing": _missing(rows) if spec.mode in ("paired", "quantile") else {},
        "shapley": _shapley(rows) if spec.subsets else {},
    }
    level = 1 - ALPHA / len(rows[ALL])
    for column, contrasts in gains.items():
        found = [_fraction(scores, contrasts.get(name), lost) for name in rows]
        if column in _SURE:
            table[_SURE[column]] = [
                _fraction(scores, contrasts.get(name), lost, level)[1] > 0 for name in rows
            ]
        low, high = ("low", "high") if column == "share" else (f"{column}_low", f"{column}_high")
        table |= {name: [row[i] for row in found] for i, name in enumerate((column, low, high))}
    left = [scores.difference({name: -1.0}, 1.0) for name in rows]
    ends = [t_interval(each, scores.weights) for each in left]
    table |= {"lost": [each.value for each in left]}
    table |= {"lost_low": [low for low, _ in ends], "lost_high": [high for _, high in ends]}
    inside = foreground_iou(counts[0])[0]
    table["in_domain"] = list(np.broadcast_to(inside, len(rows)))
    shown = [spec.subsets or len(paths) < 2 or name == ALL for name, paths in rows.items()]
    return pd.DataFrame({"path": list(rows), **table})[shown].reset_index(drop=True)


def _missing(rows: Rows) -> dict[str, dict[str, float]]:
    """Contrast of each path: all paths patched, less all but this one."""
    named = {frozenset(chosen): name for name, chosen in rows.items()}
    every = frozenset(rows[ALL])
    rests = {path: named.get(every - {path}) for path in rows[ALL]}
    return {path: {rest: -1.0, ALL: 1.0} for path, rest in rests.items() if rest is not None}


def _shapley(rows: Rows) -> dict[str, dict[str, float]]:
    weights = shapley_weights(rows)
    return {p: dict(zip(rows, own, strict=True)) for p, own in zip(rows[ALL], weights, strict=True)}


def _fraction(
    scores: _Scores, contrast: Mapping[str, float] | None, lost: Linear, level: float = 0.95
) -> tuple[float, float, float]:
    """Give the share of the loss with its interval: NaN where none is defined."""
    if contrast is None or not lost.value > 0:
        return (np.nan,) * 3
    gain = scores.difference(contrast)
    return gain.value / lost.value, *share_interval(gain, lost, scores.weights, level)


def shapley_weights(rows: Rows) -> npt.NDArray[np.float64]:
    """Weights (paths, rows) that turn the shares of all subsets into Shapley values.

    The value of a path is its marginal contribution, averaged over all orders in which the paths
    can be patched (Shapley 1953).
    """
    paths = rows[ALL]
    index = {frozenset(chosen): i for i, chosen in enumerate(rows.values())}
    sums = np.zeros((len(paths), len(rows)))
    for i, path in enumerate(paths):
        for chosen, row in index.items():
            if path not in chosen:
                weight = 1 / (len(paths) * math.comb(len(paths) - 1, len(chosen)))
                sums[i, index[chosen | {path}]] += weight
                sums[i, row] -= weight
    return sums


def _scores_of(
    rows: tuple[str, ...],
    counts: tuple[Counts, Counts],
    groups: tuple[npt.NDArray[Any], npt.NDArray[Any]],
) -> _Scores:
    names = [np.unique(labels) for labels in groups]
    inside, outside = (foreground_iou(part) for part in (counts[0][:, :1], counts[1]))
    values = np.concatenate([inside[0], outside[0]])
    if np.array_equal(names[0], names[1]):
        errors = np.concatenate([inside[1], outside[1]], -1)[:, None]
        weights = (inside[2] + outside[2])[:, None] / 2
        return _Scores(values, errors, weights, rows)
    every = np.union1d(*names)
    errors = np.zeros((len(every), 2, len(values)))
    weights = np.zeros((len(every), 2))
    columns = (slice(0, 1), slice(1, None))
    for domain, part in enumerate((inside, outside)):
        own = np.searchsorted(every, names[domain])
        errors[own, domain, columns[domain]] = 2 * part[1]
        weights[own, domain] = part[2]
    return _Scores(values, errors, weights, rows)


def foreground_iou(counts: Counts) -> tuple[Array, Array, Array]:
    """Mean IoU over the foreground classes that are present, of (groups, rows, classes, 3) counts.

    Returns
    -------
    (rows,) values; (groups, rows) errors of the groups; (groups,) weights of the groups, their
    share of the pixels that are divided by.
    """
    tp, union = counts[..., 1:, 0], counts[..., 1:, :].sum(-1)
    scores, errors = ratios(np.stack([tp, union], -1).astype(np.float64))
    known = np.isfinite(scores)
    number = np.where(known.any(-1), known.sum(-1), np.nan)
    pixels = ratio(union, np.broadcast_to(union.sum(0), union.shape))
    weights = np.where(np.isfinite(pixels), pixels, 0).sum(-1)
    return (
        np.where(known, scores, 0).sum(-1) / number,
        np.where(known, errors, 0).sum(-1) / number,
        np.asarray((weights / number).mean(1)),
    )


def t_interval(mean: Linear, weights: Array, level: float = 0.95) -> Interval:
    """Give the t interval of a difference of IoU; NaN with one group."""
    variance, df = group_variance(mean.errors, weights)
    width = float(stdtrit(df, (1 + level) / 2) * np.sqrt(variance))
    return mean.value - width, mean.value + width


def share_interval(gain: Linear, loss: Linear, weights: Array, level: float = 0.95) -> Interval:
    """Interval of gain / loss: all s for which gain - s loss may be 0 (Fieller 1954, with t).

    NaN where the loss itself may be 0: there no interval is bounded. That needs no rule about few
    groups: with 2 it is so nearly always, with 5 in a tenth of the cases.
    """
    n, d = gain.value, loss.value
    if not (d > 0 and t_interval(loss, weights, level)[0] > 0):
        return np.nan, np.nan
    df = group_variance(gain.errors - n / d * loss.errors, weights)[1]
    t2 = float(stdtrit(df, (1 + level) / 2)) ** 2
    one, two = gain.errors.mean(1), loss.errors.mean(1)
    a = d * d - t2 * float(two @ two)
    b = n * d - t2 * float(one @ two)
    c = n * n - t2 * float(one @ one)
    if not (a > 0 and np.isfinite(b) and np.isfinite(c)):
        return np.nan, np.nan
    root = math.sqrt(max(b * b - a * c, 0.0))
    return (b - root) / a, (b + root) / a
