"""Metrics of every network on every domain: pooled value, interval over groups, worst case."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.records import TABLE_COLUMNS
from skipshift.statistics.counts import ratio
from skipshift.statistics.crossed import (
    Array,
    Crossed,
    amount_interval,
    crossed,
    score_interval,
    unknown,
)
from skipshift.statistics.metrics import METRICS, Metric

LOWER_TAIL = 0.05
"""Share of the cases that are at most as good as the value of the column ``p5``."""


def metric_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Put the cases of metrics.parquet together.

    Parameters
    ----------
    table
        Columns of metrics.parquet, and ``encoder`` and ``variant`` of each run.

    Returns
    -------
    Columns of metrics.csv, averaged over the runs of a network. ``value`` is the ratio of the sums
    of all cases (``group_dice``: the mean over the groups with the class). ``mean``, ``p5`` and
    ``worst`` are of single cases (of groups) with the class in their mask, whatever was predicted:
    their mean, the case that 5 % of them are at most as good as, and the worst one; the worst bias
    is the one farthest from 0. ``cases`` counts all cases, ``present`` those with the class.
    ``low`` and ``high`` are the t-interval of scores.csv (`Crossed`): over groups with one run,
    over trainings and groups with several; NaN with fewer than 2 groups.
    """
    rows = []
    network = ["encoder", "variant", "metric", "domain", "class"]
    for key, own in table.groupby(network, sort=False):
        metric = METRICS[str(key[2])]
        groups = np.unique(own["group"].astype(str))
        runs = [run for _, run in own.groupby("run", sort=False)]
        result = joined([pooled(run, groups, metric) for run in runs])
        low, high = _interval(result, metric)
        cases = [case_values(run, metric) for run in runs]
        rows.append(
            {
                **dict(zip(network, key, strict=True)),
                **dict(_spread(cases, metric)),
                "value": float(result.effect),
                "low": float(low),
                "high": float(high),
                "cases": own["case"].nunique(),
                "groups": len(groups),
                "present": own.loc[own["present"], "case"].nunique(),
            }
        )
    columns = list(TABLE_COLUMNS["metrics.csv"])
    return pd.DataFrame(rows, columns=columns)


def pooled(
    run: pd.DataFrame, groups: npt.NDArray[np.str_], metric: Metric
) -> tuple[float, Array, Array]:
    """Value of one run's cases, and each group's error in it and part of what is divided by.

    A group's error is what leaving it out changes, times sqrt((n - 1) / n) with the number n of
    groups that have anything to divide by, as in `ratios`.

    Returns
    -------
    value, (groups,) errors, (groups,) weights.
    """
    if metric.mean_of_groups:
        values = pd.Series(case_values(run, metric)).reindex(groups).to_numpy(np.float64)
        above, below = np.nan_to_num(values)[:, None], 1.0 * np.isfinite(values)[:, None]
    else:
        parts = int(run["part"].max()) + 1
        cell = np.searchsorted(groups, run["group"].astype(str)) * parts + run["part"]
        above, below = (
            np.bincount(cell, run[name], len(groups) * parts).reshape(-1, parts).astype(np.float64)
            for name in ("numerator", "denominator")
        )
    # all groups, then all but each
    tops, bottoms = (np.vstack([part.sum(0), part.sum(0) - part]) for part in (above, below))
    scores = ratio((np.abs(tops) if metric.binned else tops).sum(1), bottoms.sum(1))
    weights = below.sum(1)
    number = max(int((weights > 0).sum()), 1)
    errors = np.sqrt((number - 1) / number) * np.where(weights > 0, scores[0] - scores[1:], 0)
    return float(scores[0]), errors, weights


def joined(runs: Sequence[tuple[float, Array, Array]]) -> Crossed:
    """Join the runs of a network that have a value; see `pooled` for each."""
    known = [run for run in runs if np.isfinite(run[0])]
    if not known:
        return unknown(len(runs))
    values, errors, weights = (np.array(part) for part in zip(*known, strict=True))
    return crossed(values, errors.T[:, None], weights.mean(0)[:, None])


def _interval(result: Crossed, metric: Metric) -> tuple[Array, Array]:
    width = result.half_width()
    if metric.range == "signed":
        return result.effect - width, result.effect + width
    of = score_interval if metric.range == "share" else amount_interval
    return of(result.effect, width)


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
