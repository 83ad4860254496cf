"""Each variant against the baseline of its encoder: effect, interval, tests and verdict.

The effect is the variant's score minus the baseline's, over the folds and seeds that both have.
One rule (`decide`) gives every verdict, and what was drawn is what is tested:

- With one pair of runs, groups were drawn: the verdict is about two *checkpoints*. ``p`` is that of
  swapping the two within groups, ``p_adjusted`` that of step-down max-T over shared swaps.
- With several, runs and groups were drawn: the verdict is about *variants*. Interval and ``p`` are
  those of `Crossed`, ``p_adjusted`` is Holm's.
- ``p_equivalence`` is the larger of two one-sided tests that the effect lies within the margin,
  with the same standard error; its adjustment is Holm's.
- All are adjusted in `two_levels` for a family: all variants and domains of one encoder, class and
  metric. The source domains and the mean over the others come first, the single domains behind.
- ``verdict`` is ``both fail`` if neither network is above the best constant prediction by more than
  the margin, ``higher`` or ``lower`` if ``p_adjusted`` is below 0.05, else ``equivalent`` if
  ``p_equivalence_adjusted`` is, else ``cannot tell``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.errors import ArgumentError
from skipshift.names import BASELINE
from skipshift.records import TABLE_COLUMNS
from skipshift.statistics.counts import ratio
from skipshift.statistics.crossed import Crossed, stacked
from skipshift.statistics.metric_scores import metric_sums
from skipshift.statistics.multiplicity import (
    ALPHA,
    FIRST,
    SWAPS,
    max_t,
    signs,
    smallest_swap_p,
    swap_shares,
    two_levels,
)
from skipshift.statistics.resampling import holm
from skipshift.statistics.scores import (
    MEAN,
    SCORES,
    Array,
    GroupSums,
    Measured,
    constants,
    foreground_of,
    group_sums,
    shown_table,
)

AWAY = "away"
"""Domain name of the mean over all domains but those of the training."""

HIGHER, LOWER, EQUIVALENT, OPEN = "higher", "lower", "equivalent", "cannot tell"
BOTH_FAIL = "both fail"

CHECKPOINT, VARIANT = "checkpoint", "variant"
"""What a verdict is about: with one run, and with several."""

_RESERVED = f"domain {AWAY!r} and class {MEAN!r} are reserved for means; rename yours"

Flags = npt.NDArray[np.bool_]

_TESTED = ("p", "p_adjusted", "p_equivalence", "p_equivalence_adjusted")


@dataclass(frozen=True)
class Place:
    """What a comparison is made on: one domain, or the mean of several."""

    name: str
    domains: tuple[str, ...]

    first: bool
    """Whether it is asked first: the source domains, and the mean over the others."""


@dataclass(frozen=True)
class _Pair:
    """Runs of a variant paired with the baseline's by fold and seed."""

    encoder: str
    variant: str
    ours: npt.NDArray[np.int64]
    theirs: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Cell:
    """One variant on one place; all arrays are (shown, metrics) but the shares."""

    crossed: Crossed

    shares: Array
    """(groups, shown, metrics) of `swap_shares`; 0 with several runs."""

    groups: npt.NDArray[np.int64]
    baseline: Array
    floor: Array


@dataclass(frozen=True)
class Decision:
    """p-values of one family, (comparisons,)."""

    p: Array
    p_adjusted: Array
    p_equivalence: Array
    p_equivalence_adjusted: Array


def compare(
    cases: pd.DataFrame,
    margin: float,
    homes: Sequence[str] = (),
    swaps: int = SWAPS,
    seed: int = 0,
    measured: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Compare each variant with the baseline of its encoder on each domain, class and metric.

    Parameters
    ----------
    cases
        Columns of cases.parquet; the first class is background and left out.
    margin
        Equivalence margin: the largest negligible difference of a score, in (0, 1).
    homes
        Source domains, those of the training. The mean over all others is compared too, as domain
        `AWAY`.
    swaps
        Number of random swaps; if there are at most one more patterns, each is taken once.
    measured
        Columns of metrics.parquet: networks are compared by the metrics beside IoU, too, those that
        are `Metric.compared`.

    Returns
    -------
    Columns of tests.csv. A place with a domain of fewer than 2 groups has NaN and ``cannot tell``.
    `ArgumentError` if ``margin`` is out of range, or a domain or class has a reserved name.
    """
    if not 0 < margin < 1:
        raise ArgumentError(f"margin must be in (0, 1), got {margin}")
    foreground = foreground_of(cases)
    if MEAN in foreground:
        raise ArgumentError(_RESERVED)
    places = places_of([str(domain) for domain in cases["domain"].unique()], homes)
    sums = group_sums(cases, foreground, foreground)
    patterns = signs(len(sums.parts), swaps, np.random.default_rng(seed))
    tables = _compared(sums, _floors(cases, foreground), places, patterns, margin)
    if measured is not None and (beside := metric_sums(measured)) is not None:
        tables += _compared(beside, None, places, patterns, margin)
    if not tables:
        return pd.DataFrame(columns=list(TABLE_COLUMNS["tests.csv"]))
    tests = pd.concat(tables, ignore_index=True)
    tests["verdict"] = _verdicts(tests, margin)
    return tests[list(TABLE_COLUMNS["tests.csv"])]


def _compared(
    sums: GroupSums,
    floors: Array | None,
    places: Sequence[Place],
    patterns: Array,
    margin: float,
) -> list[pd.DataFrame]:
    """Columns of tests.csv but the verdict, a table of each variant on each place."""
    measured, tables = sums.measured(), []
    for encoder in sums.runs["encoder"].unique():
        pairs = [pair for pair in _pairs(sums.runs) if pair.encoder == encoder]
        named = [(place, pair) for place in places for pair in pairs]
        cells = [_cell(sums, measured, floors, *each) for each in named]
        if cells:
            first = np.array([place.first for place, _ in named])
            columns = _columns(cells, first, patterns, margin)
            for i, (place, pair) in enumerate(named):
                own = {name: values[i] for name, values in columns.items()}
                part = shown_table(sums.shown, sums.metrics, own)
                tables.append(part.assign(encoder=encoder, variant=pair.variant, domain=place.name))
    return tables


def places_of(domains: Sequence[str], homes: Sequence[str]) -> list[Place]:
    """List what is compared on: each domain, and `AWAY` beside source domains and several others.

    `ArgumentError` if a domain is called `AWAY`.

    >>> [(place.name, place.first) for place in places_of(["A", "B", "C"], ["A"])]
    [('A', True), ('B', False), ('C', False), ('away', True)]
    """
    if AWAY in domains:
        raise ArgumentError(_RESERVED)
    away = tuple(domain for domain in domains if domain not in homes)
    alone = bool(homes) and len(away) == 1
    places = [Place(name, (name,), name in homes or alone) for name in domains]
    return [*places, Place(AWAY, away, True)] if homes and len(away) > 1 else places


def decide(
    crossed: Crossed, shares: Array, first: Flags, patterns: Array, margin: float
) -> Decision:
    """Test all comparisons of a family at one error rate.

    Parameters
    ----------
    crossed
        Effects and their variances, (comparisons,); NaN is left open and does not count.
    shares
        (groups, comparisons) of `swap_shares`, for comparisons of one run.
    first
        (comparisons,): what is asked first.
    patterns
        As from `signs`.
    """
    known, single = np.isfinite(crossed.effect + crossed.groups), crossed.count < 2
    p = np.where(known, crossed.p(), np.nan)
    levels = [known & first, known & ~first]
    if single.any():
        p[known & single] = max_t(shares[:, known & single], patterns)[0]
    if single.all():
        adjusted = _by_level(levels, [max_t(shares[:, level], patterns)[1] for level in levels])
    else:
        adjusted = _by_level(levels, [holm(p[level]) for level in levels])
    equal = np.where(known, crossed.p_equivalence(margin), np.nan)
    return Decision(p, adjusted, equal, _by_level(levels, [holm(equal[level]) for level in levels]))


def _by_level(levels: Sequence[Flags], found: Sequence[Array]) -> Array:
    adjusted = np.full(len(levels[0]), np.nan)
    for level, values in zip(levels, two_levels(found[0], found[1]), strict=True):
        adjusted[level] = values
    return adjusted


def both_fail(ours: Array, theirs: Array, floor: Array, margin: float) -> Flags:
    """Whether neither score is above the best constant prediction's by more than the margin."""
    return np.asarray(np.maximum(ours, theirs) <= floor + margin)


def least_p(groups: npt.NDArray[np.int64], first: Flags, swaps: int = SWAPS) -> Array:
    """Least adjusted p that swaps could give each comparison of a family, (comparisons,)."""
    weights = _weights(first)
    pairs = zip(groups, weights, strict=True)
    return np.array([smallest_swap_p(int(n), weight, swaps) for n, weight in pairs])


def _weights(first: Flags) -> Array:
    """Part of `ALPHA` that each comparison's level has, (comparisons,); 1 of a single level."""
    one_level = bool(first.all() or not first.any())
    return np.ones(len(first)) if one_level else np.where(first, FIRST, 1 - FIRST)


def _pairs(runs: pd.DataFrame) -> list[_Pair]:
    names = runs[["encoder", "variant", "fold", "seed"]].itertuples(index=False, name=None)
    index = {name: i for i, name in enumerate(names)}
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for encoder, variant, *trial in sorted(index):
        if variant != BASELINE and (encoder, BASELINE, *trial) in index:
            sides = index[encoder, variant, *trial], index[encoder, BASELINE, *trial]
            found.setdefault((encoder, variant), []).append(sides)
    return [_Pair(*network, *np.array(sides).T) for network, sides in found.items()]


def _floors(cases: pd.DataFrame, foreground: tuple[str, ...]) -> Array | None:
    """Scores of the constant predictions, if any: (domains, constants, shown, metrics)."""
    tables = (constants(table) for _, table in cases.groupby("domain"))
    scores = [
        group_sums(table, foreground, foreground).measured().scores
        for table in tables
        if not table.empty
    ]
    return np.concatenate(scores) if scores else None


def _cell(
    sums: GroupSums, measured: Measured, floors: Array | None, place: Place, pair: _Pair
) -> _Cell:
    domains = [sums.domains.index(name) for name in place.domains]
    tested = [
        bool(sums.parts[:, domains, ours].any() and sums.parts[:, domains, theirs].any())
        for ours, theirs in zip(pair.ours, pair.theirs, strict=True)
    ]
    # where domains are left out in turn, not every run is tested on every domain
    sides = [side[tested] if any(tested) else side for side in (pair.ours, pair.theirs)]
    ours, theirs = (measured.of(side) for side in sides)
    apart = ours.minus(theirs)
    part = apart.parts(domains)
    shares = np.zeros((len(sums.parts), *part.shape[2:]))
    if len(sides[0]) == 1:
        swapped = swap_shares(*(sums.parts[:, domains, side[0]] for side in sides))
        shares = np.nan_to_num(_weighted(part[:, 0], sums.with_mean(swapped)))
    floor = np.full(part.shape[2:], np.nan)
    if floors is not None:
        floor = _weighted(part.sum(1), np.moveaxis(floors[domains], 1, 0)).max(0)
    baseline = _weighted(part, theirs.scores[domains]).sum(0)
    return _Cell(apart.mean(domains), shares, apart.groups(domains), baseline, floor)


def group_effects(cases: pd.DataFrame, places: Sequence[Place]) -> pd.DataFrame:
    """Difference of each variant from its baseline within single groups, by pooled IoU.

    Parameters
    ----------
    cases
        Columns of cases.parquet; the first class is background and left out.

    Returns
    -------
    ``encoder, variant, domain, class, group, effect``: the mean over pairs of runs, and over those
    domains of the place that the group is in. A group without the class has no row.
    """
    foreground = foreground_of(cases)
    sums = group_sums(cases, foreground, foreground, SCORES[:1])
    groups = sorted(cases["group"].unique())
    scores = sums.with_mean(ratio(sums.parts[..., 0], sums.parts[..., 1]))[..., 0]
    rows = []
    for pair, place in product(_pairs(sums.runs), places):
        domains = [sums.domains.index(name) for name in place.domains]
        apart = (scores[:, :, pair.ours] - scores[:, :, pair.theirs])[:, domains]
        about = {"encoder": pair.encoder, "variant": pair.variant, "domain": place.name}
        known = np.isfinite(apart)
        effects = ratio(np.where(known, apart, 0).sum((1, 2)), known.sum((1, 2)))
        for group, own in zip(groups, effects, strict=True):
            for name, effect in zip(sums.shown, own, strict=True):
                rows.append({**about, "class": name, "group": group, "effect": effect})
    return pd.DataFrame(rows).dropna(subset="effect").reset_index(drop=True)


def _weighted(part: Array, values: Array) -> Array:
    """Sum (..., domains, ...) values by their parts (domains, ...), over the domains."""
    axis = -part.ndim
    return np.asarray(np.where(part == 0, 0, part * values).sum(axis))


def _columns(
    cells: Sequence[_Cell], first: Flags, patterns: Array, margin: float
) -> dict[str, npt.NDArray[np.generic]]:
    """Columns of tests.csv, each (comparisons, shown, metrics), for one encoder."""
    crossed = stacked([cell.crossed for cell in cells])
    shares = np.stack([cell.shares for cell in cells], 1)
    groups = np.stack([cell.groups for cell in cells])
    families = list(np.ndindex(*groups.shape[1:]))
    tested = {name: np.full(groups.shape, np.nan) for name in _TESTED}
    least = np.full(groups.shape, np.nan)
    for at in families:
        decision = decide(crossed.at(at), shares[:, :, *at], first, patterns, margin)
        for name, values in tested.items():
            values[:, *at] = getattr(decision, name)
        least[:, *at] = least_p(groups[:, *at], first, len(patterns) - 1)
    between, by_groups = crossed.spread()
    several = crossed.count > 1
    half = crossed.half_width()
    # as the smallest p of a level has to be for a verdict, so that 0 more stand beside no open one
    error = ALPHA * _weights(first) / np.where(first, first.sum(), (~first).sum())
    level = 1 - error[:, None, None]
    more = crossed.more_runs(margin, level) if several.any() else np.full(groups.shape, np.nan)
    return {
        "effect": crossed.effect,
        "low": crossed.effect - half,
        "high": crossed.effect + half,
        "groups": groups,
        "runs": crossed.count,
        "of": np.where(several, VARIANT, CHECKPOINT),
        **tested,
        "spread_runs": between,
        "spread_groups": by_groups,
        "more_runs": more,
        "least_p": np.where(several, np.nan, least),
        "baseline": np.stack([cell.baseline for cell in cells]),
        "floor": np.stack([cell.floor for cell in cells]),
    }


def _verdicts(tests: pd.DataFrame, margin: float) -> npt.NDArray[np.str_]:
    """Verdict of each row of tests.csv; networks that fail by IoU fail by what has no floor."""
    theirs = tests["baseline"].to_numpy(float)
    effect = tests["effect"].to_numpy(float)
    fail = both_fail(theirs + effect, theirs, tests["floor"].to_numpy(float), margin)
    keys = pd.MultiIndex.from_frame(tests[["encoder", "variant", "domain", "class"]])
    by_iou = keys.isin(keys[fail & (tests["metric"] == "iou").to_numpy()])
    fail |= by_iou & ~tests["metric"].isin(SCORES).to_numpy()
    differs = tests["p_adjusted"].to_numpy(float) < ALPHA
    equal = tests["p_equivalence_adjusted"].to_numpy(float) < ALPHA
    conditions = [fail, differs & (effect > 0), differs, equal]
    verdicts = [np.array(verdict) for verdict in (BOTH_FAIL, HIGHER, LOWER, EQUIVALENT)]
    return np.select(conditions, verdicts, OPEN)
