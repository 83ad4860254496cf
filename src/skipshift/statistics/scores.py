"""IoU and Dice of every network on every domain, with intervals over groups.

Every score is a ratio of sums over groups, so a thousand bootstrap draws are one matrix product.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.records import TABLE_COLUMNS, run_parts
from skipshift.statistics.counts import dice, iou, ratio
from skipshift.statistics.resampling import percentile_interval, resamples

METRICS = ("iou", "case_iou", "case_dice")
"""IoU of the summed counts of all cases (the paper's), mean IoU and mean Dice of single cases."""

MEAN = "mean"
"""Class name of the mean over all foreground classes."""

Array = npt.NDArray[np.float64]

_STEP = 2.0**-30
"""Scores of cases are rounded to multiples of this, so that sums are exact in any order."""

_CHUNK = 100
"""Draws processed at a time: their sums span all runs, classes and domains."""


@dataclass(frozen=True)
class GroupSums:
    """Numerators and denominators of the scores on some domains, summed within each group."""

    parts: Array
    """(groups, domains, runs, classes, metrics, 2): numerator and denominator."""

    runs: pd.DataFrame
    """``run, encoder, variant, fold, seed``, one row per index of the runs' axis."""

    classes: tuple[str, ...]
    """Names of the classes in ``parts``."""

    foreground: tuple[str, ...]
    """The classes but the background; the last of ``classes``."""

    cases: int
    """Number of cases summed."""

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.parts)

    @property
    def shown(self) -> tuple[str, ...]:
        """Class names of a score; the mean of several foreground classes comes last."""
        return (*self.classes, MEAN) if len(self.foreground) > 1 else self.classes

    def average(self, cells: Array) -> Array:
        """Average over the domains that have a class, and append the foreground mean.

        (..., domains, runs, classes, metrics) -> (..., runs, shown, metrics).
        """
        known = np.isfinite(cells)
        values = ratio(np.where(known, cells, 0).sum(-4), known.sum(-4))
        if len(self.foreground) < 2:
            return values
        mean = values[..., -len(self.foreground) :, :].mean(-2, keepdims=True)
        return np.concatenate([values, mean], -2)

    def scores(self, weights: Array) -> Array:
        """(draws, groups) -> (draws, runs, shown, metrics); a row of ones is the sample itself."""
        return np.concatenate(
            [self.average(divided(sums)) for sums in weighted(weights, self.parts)]
        )

    def interval(self, draws: Array) -> tuple[Array, Array]:
        """(draws, ...) -> low and high (...), NaN for fewer than 2 groups."""
        if self.groups < 2:
            return np.full(draws.shape[1:], np.nan), np.full(draws.shape[1:], np.nan)
        return percentile_interval(draws, self.groups)

    def table(self, **values: Array) -> pd.DataFrame:
        """Table of (shown, metrics) arrays: rows ``class, metric``, one column per array."""
        keys = pd.MultiIndex.from_product([self.shown, METRICS], names=["class", "metric"])
        columns = {name: each.ravel() for name, each in values.items()}
        return pd.DataFrame(columns, index=keys).reset_index().assign(groups=self.groups)


def group_sums(cases: pd.DataFrame, classes: Sequence[str], foreground: Sequence[str]) -> GroupSums:
    """Sum the counts and scores of cases within each group.

    Parameters
    ----------
    cases
        Columns of cases.parquet, of the domains to average.
    classes
        Classes to keep, the ``foreground`` last.
    """
    cases = cases[cases["class"].isin(classes)]
    runs = _runs(cases)
    axes = [
        pd.factorize(cases["group"], sort=True)[0],
        pd.factorize(cases["domain"])[0],
        pd.Index(runs["run"]).get_indexer(pd.Index(cases["run"])),
        pd.Index(classes).get_indexer(pd.Index(cases["class"])),
    ]
    shape = (axes[0].max() + 1, axes[1].max() + 1, len(runs), len(classes))
    cell = np.ravel_multi_index(axes, shape)
    counts = cases[["tp", "fp", "fn"]].to_numpy()
    each = np.round(np.stack([iou(counts), dice(counts)], -1) / _STEP) * _STEP
    known = np.isfinite(each)
    above = np.column_stack([counts[:, 0], np.where(known, each, 0)])
    below = np.column_stack([counts.sum(1), known])
    columns = np.stack([above, below], -1).astype(np.float64).reshape(len(cases), -1).T
    sums = [np.bincount(cell, column, np.prod(shape)) for column in columns]
    parts = np.asarray(sums, np.float64).T.reshape(*shape, len(METRICS), 2)
    number = len(cases[["domain", "case"]].drop_duplicates())
    return GroupSums(parts, runs, tuple(classes), tuple(foreground), number)


def weighted(weights: npt.NDArray[np.number], parts: Array) -> Iterator[Array]:
    """Weighted sums in chunks of draws: (draws, groups), (groups, ...) -> (chunk, ...)."""
    for start in range(0, len(weights), _CHUNK):
        yield np.tensordot(weights[start : start + _CHUNK].astype(np.float64), parts, 1)


def divided(parts: Array) -> Array:
    """Numerator over denominator, NaN where it is 0: (..., 2) -> (...)."""
    return ratio(parts[..., 0], parts[..., 1])


def estimates(cases: pd.DataFrame, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Score each network on each domain and class, with a 95 % interval.

    A run has one value of each of `METRICS`, averaged over a network's folds and seeds.
    The interval is the percentile bootstrap over groups, with the same resamples for all runs: it
    covers the variance of the test set and not that of training, and is approximate for few groups.

    A case in which a class is neither present nor predicted has no score and is left out of
    ``case_iou`` and ``case_dice``; where it is predicted but not present, its score is 0.

    Parameters
    ----------
    cases
        Columns of cases.parquet; the first class is background. A table with columns ``encoder``
        and ``variant`` may name its runs freely.

    Returns
    -------
    Columns of scores.csv, in order of appearance. The mean of several foreground classes is a class
    too, `MEAN`. A value is NaN where the class is absent, an interval also where there
    are fewer than 2 groups.
    """
    classes = list(cases["class"].unique())
    rows = []
    for domain, table in cases.groupby("domain", sort=False):
        sums = group_sums(table, classes, foreground_of(cases))
        whole = sums.scores(np.ones((1, sums.groups)))[0]
        drawn = sums.scores(resamples(sums.groups, draws, np.random.default_rng(seed)))
        for (encoder, variant), own in sums.runs.groupby(["encoder", "variant"], sort=False):
            low, high = sums.interval(drawn[:, own.index].mean(1))
            part = sums.table(value=whole[own.index].mean(0), low=low, high=high)
            names = {"encoder": str(encoder), "variant": str(variant), "domain": str(domain)}
            rows.append(part.assign(**names, cases=sums.cases))
    return pd.concat(rows, ignore_index=True)[list(TABLE_COLUMNS["scores.csv"])]


def pooled_iou(scores: pd.DataFrame) -> pd.DataFrame:
    """Select the paper's IoU (section V) from `estimates`: columns of iou.csv."""
    pooled = scores[scores["metric"] == "iou"].rename(columns={"value": "iou"})
    return pooled[list(TABLE_COLUMNS["iou.csv"])].reset_index(drop=True)


def foreground_of(table: pd.DataFrame) -> tuple[str, ...]:
    """All classes of a table but the first, the background; a single class is foreground."""
    names = [str(name) for name in table["class"].unique() if name != MEAN]
    return tuple(names[1:] or names)


def headline_class(foreground: Sequence[str]) -> str:
    """Class that headlines report: the only foreground class, or the mean of several."""
    return foreground[0] if len(foreground) == 1 else MEAN


def _runs(cases: pd.DataFrame) -> pd.DataFrame:
    """List the runs of a table with encoder and variant, and fold and seed if named by the run."""
    own = [name for name in ("encoder", "variant") if name in cases]
    runs = cases[["run", *own]].drop_duplicates("run", ignore_index=True)
    return runs if own else pd.concat([runs, run_parts(runs["run"])], axis=1)
