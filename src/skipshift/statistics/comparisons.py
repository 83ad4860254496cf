"""Each variant against the baseline of its encoder: effect, interval, tests and verdict.

The effect is the variant's score minus the baseline's, over the folds and seeds that both have.

- Its 95 % interval is the percentile bootstrap over groups, not corrected for multiple comparisons.
- ``p`` is that of the paired permutation test, which swaps the counts of the two networks within
  groups: all patterns of swaps if they are few, else random ones and the observed one (Phipson and
  Smyth 2010).
- ``p_equivalence`` is the larger of two one-sided t-tests (TOST, Schuirmann 1987) that the effect
  lies within the margin. Their standard error is that of the groups' linearised contributions.
- ``p_adjusted`` and ``p_equivalence_adjusted`` are corrected (Holm 1979) for a family: all variants
  and domains of one encoder, class and metric.
- ``verdict`` is ``higher`` or ``lower`` if ``p_adjusted`` is below 0.05, else ``equivalent`` if
  ``p_equivalence_adjusted`` is, else ``cannot tell``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtr

from skipshift.errors import ArgumentError
from skipshift.names import BASELINE
from skipshift.records import TABLE_COLUMNS
from skipshift.statistics.counts import ratio
from skipshift.statistics.resampling import holm, resamples
from skipshift.statistics.scores import (
    MEAN,
    Array,
    GroupSums,
    divided,
    foreground_of,
    group_sums,
    weighted,
)

AWAY = "away"
"""Domain name of the mean over all domains but those of the training."""

HIGHER, LOWER, EQUIVALENT, OPEN = "higher", "lower", "equivalent", "cannot tell"

ALPHA = 0.05
"""Family-wise error rate of the verdicts."""

FEW_GROUPS = 20
"""Below this number of groups intervals and equivalence tests are only approximate."""

_TIE = 1e-12
"""Effects that differ by less count as equal."""


@dataclass(frozen=True)
class _Pairs:
    """Runs of the variants paired with the baseline's by fold and seed."""

    ours: npt.NDArray[np.int64]
    theirs: npt.NDArray[np.int64]
    networks: list[tuple[str, str]]
    """(encoder, variant) of each network compared."""

    starts: npt.NDArray[np.int64]
    """Index of the first pair of each network; its pairs are contiguous."""

    def mean(self, pairs: Array) -> Array:
        """(..., pairs, classes, metrics) -> (..., networks, classes, metrics)."""
        sizes = np.diff(self.starts, append=len(self.ours))
        means: Array = np.add.reduceat(pairs, self.starts, -3) / sizes[:, None, None]
        return means

    def effect(self, scores: Array) -> Array:
        """(..., runs, classes, metrics) -> (..., networks, classes, metrics)."""
        return self.mean(scores[..., self.ours, :, :] - scores[..., self.theirs, :, :])


def compare(
    cases: pd.DataFrame,
    margin: float,
    homes: Sequence[str] = (),
    draws: int = 1000,
    swaps: int = 9999,
    seed: int = 0,
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

    Returns
    -------
    Columns of tests.csv. Fewer than 2 groups give NaN and ``cannot tell``. With few groups
    intervals and equivalence tests are approximate; p is exact but cannot be small: with 5 groups
    the smallest attainable p is 0.0625. `ArgumentError` if ``margin`` is out of range, or a domain
    or class has a reserved name.
    """
    if not 0 < margin < 1:
        raise ArgumentError(f"margin must be in (0, 1), got {margin}")
    foreground = foreground_of(cases)
    tables = []
    for name, members in _domain_sets(cases, homes).items():
        sums = group_sums(cases[cases["domain"].isin(members)], foreground, foreground)
        pairs = _pairs(sums.runs)
        if not pairs.networks:
            continue
        rng = np.random.default_rng(seed)
        effect = pairs.effect(sums.scores(np.ones((1, sums.groups)))[0])
        drawn = pairs.effect(sums.scores(resamples(sums.groups, draws, rng)))
        low, high = sums.interval(drawn)
        p = _permutation_p(sums, pairs, effect, _swaps(sums.groups, swaps, rng))
        p_equivalence = _equivalence_p(sums, pairs, effect, margin)
        for i, (encoder, variant) in enumerate(pairs.networks):
            part = sums.table(
                effect=effect[i], low=low[i], high=high[i], p=p[i], p_equivalence=p_equivalence[i]
            )
            tables.append(part.assign(encoder=encoder, variant=variant, domain=name))
    if not tables:
        return pd.DataFrame(columns=list(TABLE_COLUMNS["tests.csv"]))
    return _judged(pd.concat(tables, ignore_index=True))


def _domain_sets(cases: pd.DataFrame, homes: Sequence[str]) -> dict[str, list[str]]:
    """Domains to average, by the name of the mean."""
    domains = [str(domain) for domain in cases["domain"].unique()]
    if AWAY in domains or MEAN in set(cases["class"]):
        raise ArgumentError(
            f"domain {AWAY!r} and class {MEAN!r} are reserved for means; rename yours"
        )
    away = [domain for domain in domains if domain not in homes]
    several = {AWAY: away} if homes and len(away) > 1 else {}
    return {domain: [domain] for domain in domains} | several


def _pairs(runs: pd.DataFrame) -> _Pairs:
    names = runs[["encoder", "variant", "fold", "seed"]].itertuples(index=False, name=None)
    index = {name: i for i, name in enumerate(names)}
    pairs = [
        ((encoder, variant), index[encoder, variant, *trial], index[encoder, BASELINE, *trial])
        for encoder, variant, *trial in sorted(index)
        if variant != BASELINE and (encoder, BASELINE, *trial) in index
    ]
    owners = [network for network, _, _ in pairs]
    networks = list(dict.fromkeys(owners))
    ours, theirs = (np.array([pair[side] for pair in pairs], np.int64) for side in (1, 2))
    starts = np.array([owners.index(network) for network in networks], np.int64)
    return _Pairs(ours, theirs, networks, starts)


def _swaps(groups: int, swaps: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """(patterns, groups): 1 where a group is swapped; all patterns if they are few."""
    if 2**groups <= swaps + 1:
        return (np.arange(2**groups)[:, None] >> np.arange(groups) & 1).astype(np.uint8)
    observed = np.zeros((1, groups), np.uint8)
    bits = rng.integers(0, 256, (swaps, -(-groups // 8)), np.uint8)
    return np.concatenate([observed, np.unpackbits(bits, axis=1, count=groups)])


def _permutation_p(
    sums: GroupSums, pairs: _Pairs, effect: Array, swaps: npt.NDArray[np.uint8]
) -> Array:
    """Fraction of swaps whose effect is at least as far from 0 as the observed one."""
    ours, theirs = sums.parts[:, :, pairs.ours], sums.parts[:, :, pairs.theirs]
    both = (ours + theirs).sum(0)
    beyond, known = np.zeros(effect.shape), np.zeros(effect.shape)
    for moved in weighted(swaps, theirs - ours):
        moved += ours.sum(0)
        scores = sums.average(divided(moved)), sums.average(divided(both - moved))
        drawn = pairs.mean(scores[0] - scores[1])
        beyond += (np.abs(drawn) >= np.abs(effect) - _TIE).sum(0)
        known += np.isfinite(drawn).sum(0)
    return np.where(np.isfinite(effect) & (sums.groups > 1), ratio(beyond, known), np.nan)


def _equivalence_p(sums: GroupSums, pairs: _Pairs, effect: Array, margin: float) -> Array:
    """Larger p of two one-sided t-tests against the margin."""
    if sums.groups < 2:
        return np.full(effect.shape, np.nan)
    whole = sums.parts.sum(0)
    top, bottom = sums.parts[..., 0], sums.parts[..., 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = sums.groups * (top - divided(whole) * bottom) / whole[..., 1]
        spread = pairs.effect(sums.average(shares)).std(0, ddof=1) / np.sqrt(sums.groups)
        t = (margin - np.abs(effect)) / spread
    return np.asarray(stdtr(sums.groups - 1, -t))


def _judged(tests: pd.DataFrame) -> pd.DataFrame:
    """Adjust the p-values of each family and add the verdict."""
    family = tests.groupby(["encoder", "class", "metric"])
    for name in ("p", "p_equivalence"):
        tests[f"{name}_adjusted"] = family[name].transform(lambda p: holm(p.to_numpy(float)))
    differs = tests["p_adjusted"] < ALPHA
    tests["verdict"] = np.select(
        [differs & (tests["effect"] > 0), differs, tests["p_equivalence_adjusted"] < ALPHA],
        [HIGHER, LOWER, EQUIVALENT],
        OPEN,
    )
    return tests[list(TABLE_COLUMNS["tests.csv"])]
