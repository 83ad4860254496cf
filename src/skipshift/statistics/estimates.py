"""Estimates of the IoU from confidence alone: each method fits a set with masks, then needs none.

Every method works class by class on log-odds of a class against all others, as the class-wise
variants of MOVAL (Li et al. 2024) do.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from skipshift.names import ESTIMATES
from skipshift.statistics.confidence import BINS, CENTRES, Histograms, true_counts
from skipshift.statistics.counts import iou, ratio

Array = npt.NDArray[np.float64]

Estimate = Callable[[Histograms], Array]
"""Histograms (..., C, 2, 2, BINS) of sets -> estimated IoU (..., C); masks are not read."""

LEAST_GROUPS = 6
"""Groups of the reference that must have a class: with fewer, halves say little of new groups."""

WIDEST = 0.7
"""Width of an interval above which a class is not answered."""

_TEMPERATURES = np.exp(np.linspace(-2, 3, 201))


def _sigmoid(values: npt.NDArray[np.floating]) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))


def _expected(counts: Histograms, chances: Array) -> Array:
    """IoU of expected counts; ``chances`` (C or 1, 2, BINS) that a pixel is of the class.

    Pixels are told apart by whether the class is predicted. NaN where no pixel may be of it.
    """
    pixels = counts.sum(-2)
    inside = (pixels * chances).sum(-1)
    union = pixels[..., 1, :].sum(-1) + inside[..., 0]
    return ratio(inside[..., 1], union)


def _matched(home: Histograms, chances: Array) -> Estimate:
    """Choose for each class the chances, of (K, 2, BINS), by which the set's own IoU comes out."""
    found = np.stack([_expected(home, one[None]) for one in chances])
    gaps = np.abs(found - iou(true_counts(home)))
    best = np.where(np.isnan(gaps), np.inf, gaps).argmin(0)
    return lambda counts: _expected(counts, chances[best])


def _average(_home: Histograms) -> Estimate:
    return lambda counts: _expected(counts, _FLAT[None])


def _difference(home: Histograms) -> Estimate:
    gap = iou(true_counts(home)) - _expected(home, _FLAT[None])
    return lambda counts: np.clip(_expected(counts, _FLAT[None]) + gap, 0, 1)


def _temperature(home: Histograms) -> Estimate:
    return _matched(home, np.stack([_both(_sigmoid(CENTRES / one)) for one in _TEMPERATURES]))


def _threshold(home: Histograms) -> Estimate:
    """Take pixels that are surer than a threshold for right, and all others for wrong."""
    sure = CENTRES[CENTRES > 0][:, None]
    return _matched(home, np.stack([-sure < CENTRES, sure < CENTRES], 1).astype(np.float64))


def _calibrated(home: Histograms) -> Estimate:
    """Take the share of pixels that are of the class among those of the same bin."""
    pixels = home.sum(-2)
    chances = (home[..., 1, :] + _FLAT) / (pixels + 1)
    return lambda counts: _expected(counts, chances)


def _both(chances: Array) -> Array:
    return np.broadcast_to(chances, (2, BINS))


_FLAT = _both(_sigmoid(CENTRES))

METHODS: Mapping[str, Callable[[Histograms], Estimate]] = dict(
    zip(ESTIMATES, (_average, _difference, _temperature, _threshold, _calibrated), strict=True)
)
"""Methods by name: confidence as it is (average confidence, Guillory et al. 2021) or less its gap
on the set with masks (difference of confidences, ibid.); at a temperature (Guo et al. 2017) or
above a threshold (ATC, Garg et al. 2022) that give that set's IoU; or by its own calibration curve.
"""
