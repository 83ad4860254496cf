"""Correction of an estimate by sets on which its error is known, with a conformal interval."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

Labels = npt.NDArray[np.str_]

LEVEL = 0.95

_REACHES = (0.15, 0.25, 0.4, 0.6)
"""Bandwidths that are tried, in standard deviations of the known sets."""

_FLOOR = 0.03
"""Error of the IoU that is expected wherever it is, so that few alike sets are not overrated."""


@dataclass(frozen=True)
class Known:
    """Sets on which the error of an estimate is known."""

    traits: Array
    """(M, F): what is known of each set without its masks."""

    errors: Array
    """(M,): estimated minus true IoU."""

    kinds: Labels
    """(M,): kind of each set; all kinds count alike, whatever their number of sets."""

    families: Labels
    """(M,): family of each kind. Each family is predicted from the others alone."""


@dataclass(frozen=True)
class Correction:
    """What is subtracted from an estimate, and how sure that is."""

    known: Known
    scale: Array
    """(F,): standard deviation of each trait."""

    reach: float
    """Bandwidth of the kernel, in standard deviations."""

    quantile: float
    """Conformal quantile of the scaled errors of left-out families."""

    farthest: float
    """How far, in standard deviations, the sets of a left-out family lie from all others."""

    loss: float
    """Mean absolute error of corrected estimates on left-out families."""

    def __call__(self, traits: Array) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
        """Predict the errors of sets with traits (N, F).

        Returns
        -------
        Their expected error and half the width of its interval, (N,), and whether a set is like
        any of the known ones.
        """
        shares = _shares(self.known.kinds)
        mean, spread, nearest = _predicted(
            self.known.traits, self.known.errors, shares, traits, self.scale, self.reach
        )
        return mean, self.quantile * (spread + _FLOOR), nearest <= self.farthest


def correction(known: Known) -> Correction:
    """Learn from known sets how wrong an estimate is, given what a set looks like.

    The expected error is the mean over known sets of like traits (Nadaraya 1964, Watson 1964), its
    scale their spread. The interval is split conformal (Vovk et al. 2005): the quantile of the
    scaled errors of families that were left out. It covers new sets that differ from the known
    ones as those families differ from each other. The bandwidth is the best on left-out families.
    """
    scale = np.maximum(known.traits.std(0), 1e-9)
    shares = _shares(known.kinds)
    found = []
    for reach in _REACHES:
        mean, spread, nearest = (np.zeros(len(known.errors)) for _ in range(3))
        for family in np.unique(known.families):
            own = known.families == family
            mean[own], spread[own], nearest[own] = _predicted(
                known.traits[~own], known.errors[~own], shares[~own], known.traits[own], scale,
                reach,
            )  # fmt: skip
        off = np.abs(known.errors - mean)
        quantile = conformal_quantile(off / (spread + _FLOOR), shares)
        farthest = conformal_quantile(nearest, shares)
        loss = float(shares @ off / shares.sum())
        found.append(Correction(known, scale, reach, quantile, farthest, loss))
    return min(found, key=lambda one: one.loss)


def conformal_quantile(scores: Array, shares: Array, level: float = LEVEL) -> float:
    """Quantile of scores (N,) of several kinds with one of a new kind, which may be of any size.

    ``shares`` (N,) are weights, of each kind 1 in all, as in hierarchical conformal prediction (Lee
    et al. 2023). Infinite where the kinds are too few for the level: 0.95 needs 19.
    """
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(shares[order]) / (shares.sum() + 1)
    first = int(np.searchsorted(reached.round(9), level))
    return float(scores[order][first]) if first < len(scores) else np.inf


def _shares(kinds: Labels) -> Array:
    _, own, numbers = np.unique(kinds, return_inverse=True, return_counts=True)
    return np.asarray(1 / numbers[own])


def _predicted(
    known: Array, errors: Array, shares: Array, traits: Array, scale: Array, reach: float
) -> tuple[Array, Array, Array]:
    """Weighted mean and spread of the errors around each of several traits, and the nearest."""
    squares = (((traits[:, None] - known[None]) / scale) ** 2).sum(-1)
    nearest = squares.min(1, keepdims=True)
    weights = shares * np.exp(-0.5 * (squares - nearest) / reach**2)
    weights /= weights.sum(1, keepdims=True)
    mean = weights @ errors
    spread = np.sqrt(np.maximum(weights @ errors**2 - mean**2, 0))
    return mean, spread, np.sqrt(nearest[:, 0])
