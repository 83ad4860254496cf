"""Metrics of every network on every domain: pooled value, interval over groups, worst case."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

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
from skipshift.statistics.scores import MEAN, SCORES, GroupSums, foreground_of, runs_of

Pooled = tuple[float, Array, Array]
"""Value of a run, error of each group in it, and each group's weight, as from `pooled`."""

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
    is the one farthest from 0. Class `MEAN` is the mean over several foreground classes and has no
    single cases. ``cases`` counts all cases, ``present`` those with the class.
    ``low`` and ``high`` are the t-interval of scores.csv (`Crossed`): over groups with one run,
    over trainings and groups with several; NaN with fewer than 2 groups.
    """
    rows: list[dict[str, Any]] = []
    network = ["encoder", "variant", "metric", "domain"]
    for key, own in table.groupby(network, sort=False):
        metric, about = METRICS[str(key[2])], dict(zip(network, key, strict=True))
        about |= {"cases": own["case"].nunique(), "groups": own["group"].nunique()}
        groups = np.unique(own["group"].astype(str))
        values = {}
        for name, part in own.groupby("class", sort=False):
            runs = [run for _, run in part.groupby("run", sort=False)]
            values[str(name)] = [pooled(run, groups, metric) for run in runs]
            cases = dict(_spread([case_values(run, metric) for run in runs], metric))
            rows.append({**about, "class": name, **_joined(values[str(name)], metric), **cases})
            rows[-1]["present"] = part.loc[part["present"], "case"].nunique()
        foreground = foreground_of(own)
        if metric.by_class and len(foreground) > 1:
            same = zip(*(values[name] for name in foreground), strict=True)
            mean = _joined([_mean_of_classes(run) for run in same], metric)
            held = own["present"] & own["class"].isin(foreground)
            rows.append({**about, "class": MEAN, **mean})
            rows[-1]["present"] = own.loc[held, "case"].nunique()
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS["metrics.csv"]))


def metric_sums(table: pd.DataFrame) -> GroupSums | None:
    """Sum the metrics that networks are compared by within groups; None if there are none.

    Parameters
    ----------
    table
        Columns of metrics.parquet; the first class is background and left out.
    """
    names = [name for name in table["metric"].unique() if METRICS[name].compared]
    names = [name for name in names if name not in SCORES]
    table = table[table["metric"].isin(names)]
    if table.empty:
        return None
    foreground, runs = foreground_of(table), runs_of(table)
    axes: dict[str, list[str]] = {
        "group": sorted(table["group"].unique()),
        "domain": sorted(table["domain"].unique()),
        "run": list(runs["run"]),
        "class": list(foreground),
        "metric": names,
    }
    cells = table.groupby(list(axes), sort=False)
    sums, held = cells[["numerator", "denominator"]].sum(), cells["present"].any()
    values = np.where(held, ratio(*sums.to_numpy().T), np.nan)
    means = [METRICS[name].mean_of_groups for name in sums.index.get_level_values("metric")]
    sums[means] = np.stack([np.nan_to_num(values), np.isfinite(values)], -1)[means]
    whole = sums.reindex(pd.MultiIndex.from_product(list(axes.values())), fill_value=0)
    parts = whole.to_numpy(np.float64).reshape(*map(len, axes.values()), 2)
    number = len(table[["domain", "case"]].drop_duplicates())
    domains = tuple(axes["domain"])
    return GroupSums(parts, domains, runs, foreground, foreground, tuple(names), number)


def pooled(run: pd.DataFrame, groups: npt.NDArray[np.str_], metric: Metric) -> Pooled:
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
    weights = np.nan_to_num(ratio(below.sum(1), np.full(len(below), below.sum())))
    number = max(int((weights > 0).sum()), 1)
    errors = np.sqrt((number - 1) / number) * np.where(weights > 0, scores[0] - scores[1:], 0)
    return float(scores[0]), errors, weights


def _mean_of_classes(run: Sequence[Pooled]) -> Pooled:
    """Average value, errors and weights of one run's classes."""
    values, errors, weights = zip(*run, strict=True)
    return float(np.mean(values)), np.mean(errors, 0), np.mean(weights, 0)


def _joined(runs: Sequence[Pooled], metric: Metric) -> dict[str, float]:
    result = joined(runs)
    low, high = _interval(result, metric)
    return {"value": float(result.effect), "low": float(low), "high": float(high)}


def joined(runs: Sequence[Pooled]) -> Crossed:
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
