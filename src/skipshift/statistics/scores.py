"""IoU and Dice of every network on every domain, with intervals over groups and trainings.

Every score is a ratio of sums over groups, on each domain and of each run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.errors import ArgumentError
from skipshift.records import TABLE_COLUMNS, run_parts
from skipshift.statistics.counts import case_parts, constant_counts, ratio
from skipshift.statistics.crossed import (
    Crossed,
    amount_interval,
    crossed,
    ratios,
    score_interval,
    stacked,
    unknown,
)

SCORES = ("iou", "case_iou", "case_dice")
"""IoU of the summed counts of all cases (the paper's), mean IoU and mean Dice of single cases."""

EMPTY = ("empty_alarm", "empty_pixels")
"""Of the cases whose reference lacks the class: the share with any false positive, and the mean
area of false positives in pixels. Lower is better."""

MEAN = "mean"
"""Class name of the mean over all foreground classes."""

CONSTANT = "constant"
"""Encoder name of the constant predictions, whose variants are ``all-CLASS``."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """Scores with the error that each group brings; the mean of several classes comes last."""

    scores: Array
    """(domains, runs, shown, metrics); NaN where a class is absent."""

    errors: Array
    """(groups, domains, runs, shown, metrics), as from `ratios`."""

    weights: Array
    """(groups, domains, runs, shown, metrics): each group's share of what is divided by."""

    def of(self, runs: npt.NDArray[np.int64]) -> "Measured":
        """Select runs."""
        return Measured(self.scores[:, runs], self.errors[:, :, runs], self.weights[:, :, runs])

    def minus(self, other: "Measured") -> "Measured":
        """Differences of paired runs; the weights are averaged."""
        scores, errors = self.scores - other.scores, self.errors - other.errors
        return Measured(scores, errors, (self.weights + other.weights) / 2)

    def parts(self, domains: Sequence[int]) -> Array:
        """Part of each score in the mean over domains and runs, (domains, runs, shown, metrics).

        A run is averaged over those domains where it has a score, and counts if it has any.
        """
        known = np.isfinite(self.scores[list(domains)])
        each = known / np.maximum(known.sum(0), 1)
        with np.errstate(invalid="ignore"):
            return np.asarray(each / known.any(0).sum(0))

    def mean(self, domains: Sequence[int]) -> Crossed:
        """Join runs and groups on the mean over domains, (shown, metrics)."""
        shape = self.scores.shape[2:]
        cells = [self._cell(np.array(domains), at) for at in np.ndindex(*shape)]
        return stacked(cells).reshaped(shape)

    def _cell(self, domains: npt.NDArray[np.int64], at: tuple[int, ...]) -> Crossed:
        place: Any = (..., *at)
        scores = self.scores[place][domains]
        known = np.isfinite(scores)
        if not known.any():
            return unknown(scores.shape[1])
        runs, used = known.any(0), known.any(1)
        known, scores = known[used][:, runs], scores[used][:, runs]
        errors, weights = (
            np.where(known, values[place][:, domains[used]][:, :, runs], 0)
            for values in (self.errors, self.weights)
        )
        number = known.sum(0)
        effects = np.where(known, scores, 0).sum(0) / number
        return crossed(effects, errors * len(known) / number, weights.sum(2) / known.sum(1))

    def groups(self, domains: Sequence[int]) -> npt.NDArray[np.int64]:
        """(shown, metrics): number of groups with anything to divide by."""
        used = (self.weights[:, list(domains)] > 0).any((1, 2))
        return np.asarray(used.sum(0), np.int64)


@dataclass(frozen=True)
class GroupSums:
    """Numerators and denominators of the scores, summed within each group."""

    parts: Array
    """(groups, domains, runs, classes, metrics, 2): numerator and denominator."""

    domains: tuple[str, ...]
    """Names of the domains, sorted."""

    runs: pd.DataFrame
    """``run, encoder, variant``, and ``fold, seed`` if named by the run; one row per index of the
    runs' axis, sorted by run."""

    classes: tuple[str, ...]
    """Names of the classes in ``parts``."""

    foreground: tuple[str, ...]
    """The classes but the background; the last of ``classes``."""

    metrics: tuple[str, ...]
    """Names of the metrics in ``parts``."""

    cases: int
    """Number of cases summed."""

    @property
    def shown(self) -> tuple[str, ...]:
        """Class names of a score; the mean of several foreground classes comes last."""
        return (*self.classes, MEAN) if len(self.foreground) > 1 else self.classes

    def with_mean(self, values: Array) -> Array:
        """Append the mean of the foreground: (..., classes, metrics) -> (..., shown, metrics)."""
        if len(self.foreground) < 2:
            return values
        mean = values[..., -len(self.foreground) :, :].mean(-2, keepdims=True)
        return np.concatenate([values, mean], -2)

    def measured(self) -> Measured:
        """Divide, and say how much of the error each group brings."""
        scores, errors = ratios(self.parts)
        below = self.parts[..., 1]
        weights = np.nan_to_num(ratio(below, np.broadcast_to(below.sum(0), below.shape)))
        return Measured(*(self.with_mean(values) for values in (scores, errors, weights)))


def group_sums(
    cases: pd.DataFrame,
    classes: Sequence[str],
    foreground: Sequence[str],
    metrics: Sequence[str] = SCORES,
) -> GroupSums:
    """Sum numerators and denominators of scores within each group.

    Parameters
    ----------
    cases
        Columns of cases.parquet.
    classes
        Classes to keep, the ``foreground`` last.
    metrics
        The first of `SCORES` and `EMPTY`.
    """
    cases = cases[cases["class"].isin(classes)]
    runs = runs_of(cases)
    groups, labels = pd.factorize(cases["group"], sort=True)
    places, domains = pd.factorize(cases["domain"], sort=True)
    axes = [
        groups,
        places,
        pd.Index(runs["run"]).get_indexer(pd.Index(cases["run"])),
        pd.Index(classes).get_indexer(pd.Index(cases["class"])),
    ]
    shape = (len(labels), len(domains), len(runs), len(classes))
    cell = np.ravel_multi_index(axes, shape)
    columns = np.concatenate(case_parts(cases[["tp", "fp", "fn"]].to_numpy()), -2)
    columns = columns[:, : len(metrics)].reshape(len(cases), -1).T
    sums = [np.bincount(cell, column, np.prod(shape)) for column in columns]
    parts = np.asarray(sums, np.float64).T.reshape(*shape, len(metrics), 2)
    number = len(cases[["domain", "case"]].drop_duplicates())
    names = tuple(str(name) for name in domains)
    return GroupSums(parts, names, runs, tuple(classes), tuple(foreground), tuple(metrics), number)


def constants(cases: pd.DataFrame) -> pd.DataFrame:
    """Count the constant predictions, which call every pixel one class: a floor for scores.

    Returns
    -------
    Columns of cases.parquet, and ``encoder, variant``: a run ``all-CLASS`` of `CONSTANT` for each
    class. Empty for a table of one class, which does not say how many pixels there are.
    `ArgumentError` if the runs were not evaluated on the same references.
    """
    classes = [str(name) for name in cases["class"].unique()]
    keys = ["domain", "case", "class"]
    pixels = cases["tp"] + cases["fn"]
    if len(classes) < 2:
        return pd.DataFrame(columns=["run", "group", *keys, "tp", "fp", "fn", "encoder", "variant"])
    first = pixels.groupby([cases[key] for key in keys], sort=False).transform("first")
    if (pixels != first).any():
        domain, case, name = cases.loc[(pixels != first).to_numpy(), keys].iloc[0]
        raise ArgumentError(
            f"case {case} of {domain} does not have as many pixels of {name} in every run; "
            f"evaluate all runs on the same masks"
        )
    one = cases.assign(pixels=pixels).drop_duplicates(keys)
    wide = one.pivot(index=["domain", "case", "group"], columns="class", values="pixels")
    reference = wide[classes].fillna(0).to_numpy(np.int64)
    counts = constant_counts(np.stack([reference, 0 * reference, 0 * reference], -1))
    index = pd.MultiIndex.from_tuples(
        [(*row, of, name) for row in wide.index for of in classes for name in classes],
        names=[*wide.index.names, "of", "class"],
    )
    table = pd.DataFrame(counts.reshape(-1, 3), index, ["tp", "fp", "fn"]).reset_index()
    variant = "all-" + table.pop("of")
    return table.assign(run=variant, encoder=CONSTANT, variant=variant)


def estimates(cases: pd.DataFrame) -> pd.DataFrame:
    """Score each network on each domain and class, with a 95 % interval.

    A run has one value of each of `SCORES` and `EMPTY`, averaged over a network's folds and seeds.
    The constant predictions come last. With one run the interval is of that checkpoint and covers
    the choice of groups; with several, it is of the variant and covers trainings and groups. It is
    a t-interval on the scale of the logit (`empty_pixels`: of the logarithm).

    A case counts for ``case_iou`` and ``case_dice`` if its reference has the class, whatever is
    predicted; a class that is missed scores 0. Cases whose reference lacks it are in `EMPTY`.

    Parameters
    ----------
    cases
        Columns of cases.parquet; the first class is background. A table with columns ``encoder``
        and ``variant`` may name its runs freely.

    Returns
    -------
    Columns of scores.csv, in order of appearance. The mean of several foreground classes is a class
    too, `MEAN`. A value is NaN where the class is absent, an interval also where there are fewer
    than 2 groups, or the score is 0 or 1.
    """
    classes, foreground = list(cases["class"].unique()), foreground_of(cases)
    rows = []
    for domain, table in cases.groupby("domain", sort=False):
        # of one domain at a time: they are as many as the classes squared
        floor = constants(table)
        for part in (table,) if floor.empty else (table, floor):
            sums = group_sums(part, classes, foreground, (*SCORES, *EMPTY))
            order, measured = runs_of(part, sort=False), sums.measured()
            for encoder, variant in order[["encoder", "variant"]].drop_duplicates().to_numpy():
                own = (sums.runs["encoder"] == encoder) & (sums.runs["variant"] == variant)
                scored = _scored(measured.of(np.flatnonzero(own)), sums.shown)
                names = {"encoder": str(encoder), "variant": str(variant), "domain": str(domain)}
                rows.append(scored.assign(**names, cases=sums.cases))
    return pd.concat(rows, ignore_index=True)[list(TABLE_COLUMNS["scores.csv"])]


def _scored(measured: Measured, shown: Sequence[str]) -> pd.DataFrame:
    """Rows ``class, metric`` of one network on one domain."""
    result = measured.mean([0])
    low, high = score_interval(result.effect, result.half_width())
    low[:, -1], high[:, -1] = (
        bound[:, -1] for bound in amount_interval(result.effect, result.half_width())
    )
    between, by_groups = result.spread()
    return shown_table(
        shown,
        (*SCORES, *EMPTY),
        {
            "value": result.effect,
            "low": low,
            "high": high,
            "groups": measured.groups([0]),
            "runs": result.count,
            "spread_runs": between,
            "spread_groups": by_groups,
        },
    )


def shown_table(
    shown: Sequence[str], metrics: Sequence[str], columns: dict[str, npt.NDArray[np.generic]]
) -> pd.DataFrame:
    """Table of (shown, metrics) arrays: rows ``class, metric``, one column per array."""
    keys = pd.MultiIndex.from_product([shown, metrics], names=["class", "metric"])
    flat = {name: np.asarray(each).ravel() for name, each in columns.items()}
    return pd.DataFrame(flat, index=keys).reset_index()


def pooled_iou(scores: pd.DataFrame) -> pd.DataFrame:
    """Select the paper's IoU (section V) of the networks from `estimates`: columns of iou.csv."""
    pooled = scores[(scores["metric"] == "iou") & (scores["encoder"] != CONSTANT)]
    pooled = pooled.rename(columns={"value": "iou"})
    return pooled[list(TABLE_COLUMNS["iou.csv"])].reset_index(drop=True)


def foreground_of(table: pd.DataFrame) -> tuple[str, ...]:
    """All classes of a table but the first, the background; a single class is foreground."""
    names = [str(name) for name in table["class"].unique() if name != MEAN]
    return tuple(names[1:] or names)


def headline_class(foreground: Sequence[str]) -> str:
    """Class that headlines report: the only foreground class, or the mean of several."""
    return foreground[0] if len(foreground) == 1 else MEAN


def runs_of(cases: pd.DataFrame, sort: bool = True) -> pd.DataFrame:
    """List the runs of a table with encoder and variant, and fold and seed if named by the run."""
    own = [name for name in ("encoder", "variant") if name in cases]
    runs = cases[["run", *own]].drop_duplicates("run", ignore_index=True)
    runs = runs.sort_values("run", ignore_index=True) if sort else runs
    return runs if own else pd.concat([runs, run_parts(runs["run"])], axis=1)
