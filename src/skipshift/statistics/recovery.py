"""Recovered fraction (`share`) and Shapley values of patched paths, with intervals."""

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.errors import ArgumentError
from skipshift.specs import CarrySpec
from skipshift.statistics.counts import iou
from skipshift.statistics.resampling import Weights, percentile_interval, resamples

Counts = npt.NDArray[np.int64]
"""(groups, rows, classes, 3)."""

Rows = Mapping[str, tuple[str, ...]]
"""Name of each row and the paths that are patched in it; the first is `NONE`, the last `ALL`."""

NONE, ALL = "none", "all"

_MOST_PATHS = 10
_UNSURE = 0.025
"""Largest fraction of resamples without a loss. Above it the loss may be zero, and the 95 %
interval of a fraction of it is unbounded (Fieller 1954)."""


def rows_of(paths: tuple[str, ...], subsets: bool) -> Rows:
    """Name the sets of paths to patch: each path alone, or all 2^k subsets.

    `ArgumentError` if ``subsets`` are asked for of more than 10 paths.

    >>> list(rows_of(("L1", "L2", "L3"), subsets=True))
    ['none', 'L1', 'L2', 'L3', 'L1+L2', 'L1+L3', 'L2+L3', 'all']
    """
    if subsets and len(paths) > _MOST_PATHS:
        raise ArgumentError(
            f"subsets of {len(paths)} paths are {2 ** len(paths)} passes; "
            f"name at most {_MOST_PATHS} paths"
        )
    sizes = range(1, max(2, len(paths) if subsets else 2))
    sets = [chosen for size in sizes for chosen in combinations(paths, size)]
    return {NONE: (), **{"+".join(chosen): chosen for chosen in sets}, ALL: paths}


def share_table(
    rows: Rows,
    counts: tuple[Counts, Counts],
    groups: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    spec: CarrySpec,
) -> pd.DataFrame:
    """Compute IoU and recovered fraction of each row; the columns are those of `skipshift.carry`.

    Parameters
    ----------
    counts
        Of the reference, whose first row is unpatched, and of the shifted images.
    groups
        Label of each image's group in both sets.
    """
    inside, outside = (
        _foreground_iou(np.tensordot(weights, part, 1))
        for weights, part in zip(_weights(groups, spec), counts, strict=True)
    )
    lost = inside[:, :1] - outside[:, :1]
    share = np.full(outside.shape, np.nan)
    np.divide(outside - outside[:, :1], lost, out=share, where=lost > 0)
    singles = rows[ALL]
    shapley = np.full(share.shape, np.nan)
    if spec.subsets:
        columns = [list(rows).index(path) for path in singles]
        shapley[:, columns] = share @ shapley_weights(rows).T
    number = min(len(part) for part in counts)
    unknown = np.full(len(rows), np.nan)
    low, high, shapley_low, shapley_high = (unknown,) * 4
    # where the loss may be zero, a fraction of it has no bounded interval
    if number > 1 and lost[0, 0] > 0 and np.mean(~(lost[1:] > 0)) <= _UNSURE:
        low, high = percentile_interval(share[1:], number)
        shapley_low, shapley_high = percentile_interval(shapley[1:], number)
    return pd.DataFrame(
        {
            "path": list(rows),
            "iou": outside[0],
            "share": share[0],
            "low": low,
            "high": high,
            "in_domain": np.broadcast_to(inside[0], len(rows)),
            "shapley": shapley[0],
            "shapley_low": shapley_low,
            "shapley_high": shapley_high,
        }
    )


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


def _weights(
    groups: tuple[npt.NDArray[Any], npt.NDArray[Any]], spec: CarrySpec
) -> tuple[Weights, Weights]:
    """Weights of the groups of both sets, (1 + draws, groups); the first row is the sample."""
    rng = np.random.default_rng(spec.seed)
    names = [np.unique(labels) for labels in groups]
    drawn = [
        np.concatenate([np.ones((1, len(own))), resamples(len(own), spec.draws, rng)])
        for own in names
    ]
    # paired sets are resampled together
    return drawn[0], drawn[0] if np.array_equal(names[0], names[1]) else drawn[1]


def _foreground_iou(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean IoU of (..., classes, 3) counts over the foreground classes that are present."""
    each = iou(counts)[..., 1:]
    known = np.isfinite(each)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, each, 0).sum(-1) / known.sum(-1))
