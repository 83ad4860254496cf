"""Statistical tests between groups, the units on which detectors decide."""

from collections.abc import Sequence
from math import comb

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit
from scipy.stats import mannwhitneyu

Numbers = npt.NDArray[np.float64]

CHANCE = 2e-3
"""Largest p-value of a difference that is reported."""

SEPARATE = 0.05
"""Largest p-value of groups that do not overlap at all: two groups against eight suffice."""


def group_means(values: Numbers, groups: pd.Series) -> Numbers:
    """Average (N, ...) over each of G groups: (G, ...), without NaN."""
    flat = pd.DataFrame(values.reshape(len(values), -1))
    means = flat.groupby(groups.to_numpy(), sort=False).mean().to_numpy()
    return np.asarray(means).reshape(len(means), *values.shape[1:])


def groups_differ(sides: Sequence[Numbers], least: float) -> bool:
    """Whether (G,) and (G',) differ by ``least`` in the median, and significantly.

    Significant is a Mann-Whitney test beyond `CHANCE`, or groups that do not overlap where this
    itself is improbable (`SEPARATE`). NaN is left out.
    """
    reference, domain = (side[~np.isnan(side)] for side in sides)
    if abs(np.median(domain) - np.median(reference)) <= least:
        return False
    if domain.min() > reference.max() or domain.max() < reference.min():
        return 2 / comb(len(reference) + len(domain), len(domain)) <= SEPARATE
    return bool(mannwhitneyu(reference, domain).pvalue < CHANCE)


def mean_is_positive(values: Numbers, chance: float = CHANCE) -> bool:
    """Whether the mean of (G,) exceeds 0 at level ``chance``: one-sided t-test."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    return bool(values.mean() > stdtrit(len(values) - 1, 1 - chance) * error)
