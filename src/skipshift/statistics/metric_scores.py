"""Metrics of every network on every domain: pooled value, interval over groups, worst case."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.records import TABLE_COLUMNS
from skipshift.statistics.counts import ratio
from skipshift.statistics.metrics import METRICS, Metric
from skipshift.statistics.resampling import Weights, percentile_interval, resamples

LEAST_GROUPS = 5
"""Fewest groups with an interval: with fewer, a bootstrap's covers far less than it says."""

LOWER_TAIL = 0.05
"""Share of the cases that are at most as good as the value of the column ``p5``."""

Array = npt.NDArray[np.float64]


def metric_scores(table: pd.DataFrame, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Put the cases of metrics.parquet together.

    Parameters
    ----------
    table
        Columns of metrics.parquet, and ``encoder`` and ``variant`` of each run.
    draws, seed
        Bootstrap resamples of the groups for the 95 % interval; none below 5 groups.

    Returns
    -------
    Columns of metrics.csv, averaged over the runs of a network. ``value`` is the ratio of the sums
    of all cases (``group_dice``: the mean over the groups with the class). ``mean``, ``p5`` and
    ``worst`` are of single cases (of groups) with the class in their mask, whatever was predicted:
    their mean, the case that 5 % of them are at most as good as, and the worst one; the worst bias
    is the one farthest from 0. ``cases`` counts all cases, ``present`` those with the class.
    """
    rows = []
    network = ["encoder", "variant", "metric", "domain", "class"]
    for key, own in table.groupby(network, sort=False):
        metric = METRICS[str(key[2])]
        groups = np.unique(own["group"].astype(str))
        weights = resamples(len(groups), draws, np.random.default_rng(seed))
        weights = np.concatenate([np.ones((1, len(groups))), weights])
        runs = [run for _, run in own.groupby("run", sort=False)]
        drawn = np.mean([pooled(run, groups, weights, metric) for run in runs], axis=0)
        low, high = (np.nan, np.nan)
        if len(groups) >= LEAST_GROUPS:
            low, high = (float(bound) for bound in percentile_interval(drawn[1:], len(groups)))
        cases = [case_values(run, metric) for run in runs]
        rows.append(
            {
                **dict(zip(network, key, strict=True)),
                **dict(_spread(cases, metric)),
                "value": drawn[0],
                "low": low,
                "high": high,
                "cases": own["case"].nunique(),
                "groups": len(groups),
                "present": own.loc[own["present"], "case"].nunique(),
            }
        )
    columns = list(TABLE_COLUMNS["metrics.csv"])
    return pd.DataFrame(rows, columns=columns)


def pooled(
    run: pd.DataFrame, groups: npt.NDArray[np.str_], weights: Weights, metric: Metric
) -> Array:
    """Value of one run's cases for each row of weights (draws, groups): (draws,)."""
    if metric.mean_of_groups:
        values = pd.Series(case_values(run, metric)).reindex(groups).to_numpy(np.float64)
        known = np.isfinite(values)
        return ratio(weights @ np.where(known, values, 0), weights @ known)
    parts = int(run["part"].max()) + 1
    cell = np.searchsorted(groups, run["group"].astype(str)) * parts + run["part"]
    sums = [
        np.bincount(cell, run[name], len(groups) * parts).reshape(len(groups), parts)
        for name in ("numerator", "denominator")
    ]
    above, below = (weights @ each for each in sums)
    return ratio((np.abs(above) if metric.binned else above).sum(1), below.sum(1))


def case_values(run: pd.DataFrame, metric: Metric) -> "pd.Series[float]":
    """Value of each case of one run with the class in its mask; of each group for `mean_of_groups`.

    Indexed by case or group; NaN where the denominator is 0.
    """
    unit = "group" if metric.mean_of_groups else "case"
    held = (
        run.groupby(unit)["present"].transform("any") if metric.mean_of_groups else run["present"]
    )
    shown = run[held]
    above = shown["numerator"].abs() if metric.binned else shown["numerator"]
    sums = shown.assign(numerator=above).groupby(unit)[["numerator", "denominator"]].sum()
    values = ratio(sums["numerator"].to_numpy(), sums["denominator"].to_numpy())
    return pd.Series(values, index=sums.index.astype(str))


def _spread(runs: "list[pd.Series[float]]", metric: Metric) -> Iterator[tuple[str, float]]:
    """Mean, 5th percentile and worst of single cases, each averaged over the runs."""
    known: list[Array] = [np.asarray(values.dropna(), np.float64) for values in runs]
    known = [values for values in known if len(values)]
    for name, share in (("p5", LOWER_TAIL), ("worst", 0.0)):
        tails = [tail(values, metric.worse, share) for values in known]
        yield name, float(np.mean(tails)) if tails else np.nan
    yield "mean", float(np.mean([values.mean() for values in known])) if known else np.nan


def tail(values: Array, worse: Literal["low", "high", "far"], share: float) -> float:
    """Value of (N,) that a share of them are at most as good as; the worst for a share of 0.

    >>> tail(np.array([0.9, 0.2, 0.7]), "low", 0), tail(np.array([0.1, -0.5]), "far", 0)
    (0.2, -0.5)
    """
    badness = {"low": -values, "high": values, "far": np.abs(values)}[worse]
    order = np.argsort(-badness, kind="stable")
    return float(values[order[int(share * (len(values) - 1))]])
