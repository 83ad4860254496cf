"""Distances between two sets of vectors as wholes: one number for a layer, not one for a channel.

The vector of an image is the mean of its positions. What a draw needs of the vectors is a table of
all pairs of images, summed over groups: every draw is then a quadratic form of weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import pdist, squareform

from skipshift.errors import ArgumentError
from skipshift.statistics.resampling import Groups, Sides, Weights

Vectors = npt.NDArray[np.float64]
"""(M, D): a vector for each image, those of the reference first."""

_FOLDS = 5
"""Folds of the domain classifier's cross-validation."""


@dataclass(frozen=True)
class Pool:
    """The vectors of both sets, with the group of each image."""

    vectors: Vectors
    """(M, D), the reference first."""

    place: npt.NDArray[np.int64]
    """(M,): each image's group, as its place in the row of `groups`."""

    groups: Groups

    @property
    def folds(self) -> npt.NDArray[np.int64]:
        """(M,): fold of each image; images of one label, in either set, are never taken apart."""
        names = np.concatenate([self.groups.reference, self.groups.shifted])
        codes = np.unique(names, return_inverse=True)[1]
        order = np.random.default_rng(0).permutation(codes.max() + 1)
        return np.asarray(order[codes][self.place] % _FOLDS)

    def summed(self, table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Sum a table of pairs of images (M, M) to one of pairs of groups (G, G)."""
        member = np.eye(sum(self.groups.sizes))[self.place]
        return np.asarray(member.T @ table @ member)

    def images(self, weights: Weights) -> npt.NDArray[np.float64]:
        """Count the images behind the weights of each draw: (draws, G) -> (draws,)."""
        return weights @ np.bincount(self.place, minlength=weights.shape[1])


Separation = Callable[[Pool], Callable[[Sides], npt.NDArray[np.float64]]]
"""Takes the vectors once and gives a function of draws: two sides of weights -> (draws,)."""


def _mmd(pool: Pool) -> Callable[[Sides], npt.NDArray[np.float64]]:
    squared = _squared_distances(pool.vectors)
    median = np.median(squared[np.triu_indices_from(squared, 1)])
    kernel = pool.summed(np.exp(-squared / (median or 1.0)))

    def of(sides: Sides) -> npt.NDArray[np.float64]:
        a, b = (side / pool.images(side)[:, None] for side in sides)
        return np.sqrt(np.maximum(_form(a - b, kernel, a - b), 0))

    return of


def _gdv(pool: Pool) -> Callable[[Sides], npt.NDArray[np.float64]]:
    spread = pool.vectors.std(0)
    scaled = (pool.vectors - pool.vectors.mean(0)) / np.where(spread > 0, 2 * spread, 1)
    table = pool.summed(np.sqrt(_squared_distances(scaled) / scaled.shape[1]))

    def of(sides: Sides) -> npt.NDArray[np.float64]:
        a, b = sides
        n, m = pool.images(a), pool.images(b)
        inner = [
            _form(side, table, side) / np.maximum(count * (count - 1), 1)
            for side, count in ((a, n), (b, m))
        ]
        return np.asarray(_form(a, table, b) / (n * m) - (inner[0] + inner[1]) / 2)

    return of


def _auc(pool: Pool) -> Callable[[Sides], npt.NDArray[np.float64]]:
    spread = pool.vectors.std(0)
    scaled = (pool.vectors - pool.vectors.mean(0)) / np.where(spread > 0, spread, 1)
    kernel = scaled @ scaled.T / scaled.shape[1]

    def of(sides: Sides) -> npt.NDArray[np.float64]:
        a, b = (side[:, pool.place] for side in sides)
        scores = np.zeros(a.shape)
        # draws that hold the same images, as permutations do, share their factorisations
        weights, which = np.unique(a + b, axis=0, return_inverse=True)
        for number, weight in enumerate(weights):
            rows = np.flatnonzero(which.ravel() == number)
            scores[rows] = _scores(kernel, pool.folds, weight, np.sign(b[rows] - a[rows]))
        return np.array([_auc_of(*draw) for draw in zip(scores, a, b, strict=True)])

    return of


def _scores(
    kernel: npt.NDArray[np.float64],
    folds: npt.NDArray[np.int64],
    weight: npt.NDArray[np.float64],
    sides: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Ridge regression of the side on the vectors, each image scored by the other folds.

    Parameters
    ----------
    kernel, folds, weight
        (M, M), (M,) and (M,): how often each image counts.
    sides
        (draws, M): -1 or 1.

    Returns
    -------
    (draws, M)
    """
    scores = np.zeros(sides.shape)
    for fold in np.unique(folds):
        train, test = (np.flatnonzero(k & (weight > 0)) for k in (folds != fold, folds == fold))
        if not len(train):  # nothing to learn from: every score ties
            continue
        known, counts = sides[:, train], weight[train]
        known = known - (known @ counts / counts.sum())[:, None]
        solved = np.linalg.solve(kernel[np.ix_(train, train)] + np.diag(1 / counts), known.T)
        scores[:, test] = (kernel[np.ix_(test, train)] @ solved).T
    return scores


def _auc_of(scores: Vectors, a: Weights, b: Weights) -> float:
    """Chance that an image of ``b`` has a higher score than one of ``a``; half where they tie."""
    first, second = np.flatnonzero(a), np.flatnonzero(b)
    margin = scores[second][:, None] - scores[first]
    # images that are alike differ by rounding only, and tie
    wins = (margin > 1e-9) + 0.5 * (np.abs(margin) <= 1e-9)
    return float(b[second] @ wins @ a[first] / (a.sum() * b.sum()))


def _cka(pool: Pool) -> Callable[[Sides], npt.NDArray[np.float64]]:
    own = len(pool.groups.reference)
    names = np.concatenate([pool.groups.reference, pool.groups.shifted])[pool.place]
    first, second = np.flatnonzero(pool.place < own), np.flatnonzero(pool.place >= own)
    first, second = (side[np.argsort(names[side], kind="stable")] for side in (first, second))
    if not np.array_equal(names[first], names[second]):
        raise ArgumentError("cka needs paired sets: the same groups with as many images in both")
    x, y = (pool.vectors[side] @ pool.vectors[side].T for side in (first, second))

    def of(sides: Sides) -> npt.NDArray[np.float64]:
        weights = sides[0][:, pool.place[first]]
        paired = np.array_equal(weights, sides[1][:, pool.place[second]])
        paired &= not sides[0][:, own:].any()
        similar = [_cka_of(x, y, weight) for weight in weights] if paired else np.nan
        return np.broadcast_to(1 - np.asarray(similar), len(weights))

    return of


def _cka_of(x: Vectors, y: Vectors, weight: Weights) -> float:
    share = weight / weight.sum()
    x, y = (gram - (m := gram @ share) - m[:, None] + share @ m for gram in (x, y))
    cross, own, other = (_form(share, a * b, share) for a, b in ((x, y), (x, x), (y, y)))
    return float(cross / np.sqrt(own * other)) if own > 0 and other > 0 else np.nan


def _form(a: Weights, table: npt.NDArray[np.float64], b: Weights) -> npt.NDArray[np.float64]:
    """Bilinear form of each draw: (..., G), (G, G), (..., G) -> (...)."""
    return np.asarray(((a @ table) * b).sum(-1))


def _squared_distances(vectors: Vectors) -> npt.NDArray[np.float64]:
    return np.asarray(squareform(pdist(vectors, "sqeuclidean")))


SEPARATIONS: Mapping[str, Separation] = {"mmd": _mmd, "auc": _auc, "gdv": _gdv, "cka": _cka}
"""Distances of a layer, from one vector for each image.

``mmd``: maximum mean discrepancy (Gretton et al. 2012), the biased one, with the kernel
exp(-d^2 / m) of the median m of d^2 over all pairs of images.

``auc``: of telling the sets apart by ridge regression on standardised vectors, in five folds that
never split a group; 0.5 is chance, 1 a clean cut.

``gdv``: the generalised discrimination value of two classes (Schilling et al. 2021) with its sign
turned, so that larger is further apart; 1 is far.

``cka``: 1 - linear centred kernel alignment (Kornblith et al. 2019) of paired sets. It compares
images one by one, so that splits of the reference and permutations say nothing: it has no null.
"""
