"""Estimates of the IoU without masks: each method fits a set with masks, then needs none.

All but agreement work class by class on log-odds of a class against all others, as the class-wise
variants of MOVAL (Li et al. 2024) do.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from skipshift.names import ESTIMATES
from skipshift.statistics.confidence import BINS, CENTRES, Confidence, Histograms, true_counts
from skipshift.statistics.counts import iou, ratio

Array = npt.NDArray[np.float64]

Estimate = Callable[[Confidence], Array]
"""Confidence (..., C, 2, 2, BINS) in sets -> estimated IoU (..., C); masks are not read."""

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


def _matched(home: Confidence, chances: Array) -> Estimate:
    """Choose for each class the chances, of (K, 2, BINS), by which the set's own IoU comes out."""
    found = np.stack([_expected(home.counts, one[None]) for one in chances])
    gaps = np.abs(found - iou(true_counts(home.counts)))
    best = np.where(np.isnan(gaps), np.inf, gaps).argmin(0)
    return lambda seen: _expected(seen.counts, chances[best])


def _average(_home: Confidence) -> Estimate:
    return lambda seen: _expected(seen.counts, _FLAT[None])


def _difference(home: Confidence) -> Estimate:
    gap = iou(true_counts(home.counts)) - _expected(home.counts, _FLAT[None])
    return lambda seen: np.clip(_expected(seen.counts, _FLAT[None]) + gap, 0, 1)


def _temperature(home: Confidence) -> Estimate:
    return _matched(home, np.stack([_both(_sigmoid(CENTRES / one)) for one in _TEMPERATURES]))


def _threshold(home: Confidence) -> Estimate:
    """Take pixels that are surer than a threshold for right, and all others for wrong."""
    sure = CENTRES[CENTRES > 0][:, None]
    return _matched(home, np.stack([-sure < CENTRES, sure < CENTRES], 1).astype(np.float64))


def _calibrated(home: Confidence) -> Estimate:
    """Take the share of pixels that are of the class among those of the same bin."""
    pixels = home.counts.sum(-2)
    chances = (home.counts[..., 1, :] + _FLAT) / (pixels + 1)
    return lambda seen: _expected(seen.counts, chances)


def _agreement(_home: Confidence) -> Estimate:
    """Take the peers' predictions for masks; a peer counts where either has the class."""

    def estimate(seen: Confidence) -> Array:
        assert seen.agreed is not None
        each = iou(seen.agreed)
        return ratio(np.nansum(each, -2), np.isfinite(each).sum(-2))

    return estimate


def _both(chances: Array) -> Array:
    return np.broadcast_to(chances, (2, BINS))


_FLAT = _both(_sigmoid(CENTRES))

_FITS = (_average, _difference, _temperature, _threshold, _calibrated, _agreement)

METHODS: Mapping[str, Callable[[Confidence], Estimate]] = dict(zip(ESTIMATES, _FITS, strict=True))
"""Methods by name: confidence as it is (average confidence, Guillory et al. 2021) or less its gap
on the set with masks (difference of confidences, ibid.); at a temperature (Guo et al. 2017) or
above a threshold (ATC, Garg et al. 2022) that give that set's IoU; or by its own calibration curve.
Agreement is the mean IoU with the predictions of peers (Jiang et al. 2022).
"""
