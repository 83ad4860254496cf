"""Quantification: the shares of classes in a set without masks, by the Hellinger distance (HDy)."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import stdtrit

from skipshift.statistics.confidence import Confidence, Histograms

Array = npt.NDArray[np.float64]


def class_shares(home: Histograms, counts: Histograms) -> Array:
    """Share (C,) of each class in a set: HDy (González-Castro et al. 2013), one class against all.

    The share of a class is that of the mixture, of the reference's histograms of its log-odds
    inside and outside of the class, which has the least Hellinger distance from the set's. It holds
    where the images of the classes are those of the reference and only their shares differ. The
    shares are divided by their sum; NaN of a class that the reference does not have, or has alone.

    Parameters
    ----------
    home
        (C, 2, 2, BINS) of the reference, with masks.
    counts
        (C, 2, 2, BINS) of the set.
    """
    shares = np.array([_share(*pair) for pair in zip(home, counts, strict=True)])
    total = np.nansum(shares)
    return shares / total if total > 0 else shares


def _share(home: Histograms, counts: Histograms) -> float:
    outside, inside = home.sum(0).astype(np.float64)
    seen = counts.sum((0, 1)).astype(np.float64)
    if not (inside.any() and outside.any() and seen.any()):
        return np.nan
    inside, outside, seen = (part / part.sum() for part in (inside, outside, seen))

    def apart(share: float) -> float:
        # 1 less the Bhattacharyya coefficient: half the square, convex in the share
        return float(1 - np.sqrt(seen * (share * inside + (1 - share) * outside)).sum())

    return float(minimize_scalar(apart, bounds=(0, 1), method="bounded").x)


def share_intervals(reference: Confidence, shifted: Confidence) -> tuple[Array, Array, Array]:
    """Shares (C,) with a 95 % interval, by leaving out one group of either set at a time.

    The interval is Student's t of the jackknife over the groups of both sets, with the degrees of
    freedom of the smaller one; NaN where a set has fewer than 2 groups.
    """
    home, away = reference.counts.sum(0), shifted.counts.sum(0)
    value = class_shares(home, away)
    variance = _jackknife(lambda one: class_shares(home - one, away), reference)
    variance = variance + _jackknife(lambda one: class_shares(home, away - one), shifted)
    least = min(len(reference.counts), len(shifted.counts))
    half = stdtrit(max(least - 1, 1), 0.975) * np.sqrt(variance)
    return value, np.clip(value - half, 0, 1), np.clip(value + half, 0, 1)


def _jackknife(without: Callable[[Histograms], Array], data: Confidence) -> Array:
    number = len(data.counts)
    if number < 2:
        return np.full(data.counts.shape[1], np.nan)
    values = np.stack([without(one) for one in data.counts])
    return np.asarray((number - 1) * values.var(0))
