"""How sure: halvings for the null and resamples for intervals, the group as the unit.

A draw is a row of weights over groups, so that a statistic of sums is one matrix product.
"""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.counts import iou

Weights = npt.NDArray[np.float64]
"""(draws, groups): how often each group counts in each draw."""


def halves(groups: int, draws: int, rng: np.random.Generator) -> Weights:
    """Random halvings of the groups: 1 in the first half, 0 in the second.

    An odd group goes to the second half.
    """
    if groups < 2:
        raise ValueError(f"a null needs at least 2 groups to halve, got {groups}")
    ranks = rng.permuted(np.tile(np.arange(groups), (draws, 1)), axis=1)
    return (ranks < groups // 2).astype(np.float64)


def resamples(groups: int, draws: int, rng: np.random.Generator) -> Weights:
    """Bootstrap resamples: each row draws ``groups`` groups with replacement."""
    if groups < 1:
        raise ValueError("a bootstrap needs at least one group")
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=draws).astype(np.float64)


def centred_interval(
    estimate: npt.NDArray[np.float64], draws: npt.NDArray[np.float64], level: float = 0.95
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Interval with the spread of the draws about their mean, laid around the estimate.

    A resample of histograms is rougher than its sample, which moves every drawn distance up; taking
    the spread about the mean of the draws removes that offset.

    Parameters
    ----------
    estimate
        (...).
    draws
        (draws, ...).

    Returns
    -------
    low, high : (...)
    """
    tail = (1 - level) / 2
    low, high = np.quantile(draws - draws.mean(0), [tail, 1 - tail], axis=0)
    return estimate + low, estimate + high


def pooled_iou(cases: pd.DataFrame, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """IoU of each variant on each domain and class, with a 95 % interval by groups.

    Counts are pooled over the cases of a run (the paper's IoU, section V), then the IoUs of a
    variant's folds and seeds are averaged. The interval is the percentile bootstrap over groups,
    the same resamples for all runs.

    Parameters
    ----------
    cases
        ``variant, encoder, run, domain, group, case, class, tp, fp, fn``.

    Returns
    -------
    ``variant, encoder, domain, class, iou, low, high, cases`` in order of appearance; a class that
    is absent everywhere has NaN.
    """
    rows = []
    for domain, table in cases.groupby("domain", sort=False):
        runs = table[["encoder", "variant", "run"]].drop_duplicates(ignore_index=True)
        classes = table["class"].unique()
        counts = _group_counts(table, runs["run"], classes)
        weights = resamples(len(counts), draws, np.random.default_rng(seed))
        pooled, drawn = iou(counts.sum(0)), iou(np.tensordot(weights, counts, 1))
        for (encoder, variant), own in runs.groupby(["encoder", "variant"], sort=False):
            score = pooled[own.index].mean(0)
            low, high = percentile_interval(drawn[:, own.index].mean(1))
            names = {"variant": variant, "encoder": encoder, "domain": domain}
            number = table.loc[table["run"] == own["run"].iloc[0], "case"].nunique()
            part = {"class": classes, "iou": score, "low": low, "high": high, "cases": number}
            rows.append(pd.DataFrame({**names, **part}))
    return pd.concat(rows, ignore_index=True)


def _group_counts(
    table: pd.DataFrame, runs: pd.Series, classes: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """Sum the counts of each group, (groups, runs, classes, 3)."""
    group = pd.factorize(table["group"])[0]
    place = (group, pd.Index(runs).get_indexer(table["run"]), pd.factorize(table["class"])[0])
    counts = np.zeros((group.max() + 1, len(runs), len(classes), 3), np.int64)
    np.add.at(counts, place, table[["tp", "fp", "fn"]].to_numpy())
    return counts


def percentile_interval(
    draws: npt.NDArray[np.float64], level: float = 0.95
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Interval between the outer quantiles of the draws, NaN where every draw is NaN.

    Parameters
    ----------
    draws
        (draws, ...); NaN draws are left out.

    Returns
    -------
    low, high : (...)
    """
    tail = (1 - level) / 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice", category=RuntimeWarning)
        low, high = np.nanquantile(draws, [tail, 1 - tail], axis=0)
    return low, high
