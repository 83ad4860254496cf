"""Two-sample statistics of a layer: MMD, classifier AUC, GDV and CKA.

The vector of an image is the mean over its positions. The pairwise table of all images is averaged
over groups once; every draw is then a quadratic form of group weights. Groups count alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import pdist, squareform

from skipshift.errors import ArgumentError
from skipshift.statistics.resampling import Groups, GroupWeights, Weights

Vectors = npt.NDArray[np.float64]
"""(M, D): one vector per image, the reference first."""

_FOLDS = 5
"""Folds of the domain classifier's cross-validation."""


@dataclass(frozen=True)
class PooledSample:
    """The vectors of both sets, pooled, with the group of each image."""

    vectors: Vectors
    """(M, D), the reference first."""

    group_index: npt.NDArray[np.int64]
    """(M,): index of each image's group in `groups`."""

    groups: Groups

    @property
    def folds(self) -> npt.NDArray[np.int64]:
        """(M,): fold of each image; images with the same label, in either set, share a fold."""
        names = np.concatenate([self.groups.reference, self.groups.shifted])
        codes = np.unique(names, return_inverse=True)[1]
        order = np.random.default_rng(0).permutation(codes.max() + 1)
        return np.asarray(order[codes][self.group_index] % _FOLDS)

    @property
    def images(self) -> npt.NDArray[np.int64]:
        """(G,): number of images in each group."""
        return np.bincount(self.group_index, minlength=sum(self.groups.sizes))

    def averaged(self, table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Average a pairwise table of images (M, M) to one of groups (G, G)."""
        member = np.eye(sum(self.groups.sizes))[self.group_index] / self.images
        return np.asarray(member.T @ table @ member)


TwoSampleStatistic = Callable[[PooledSample], Callable[[GroupWeights], npt.NDArray[np.float64]]]
"""Takes the pooled sample once; returns a function of the draws, group weights -> (draws,)."""


def mmd_kernel(pool: PooledSample) -> npt.NDArray[np.float64]:
    """Kernel of MMD between groups, (G, G): its form of the difference of weights is MMD^2."""
    squared = _squared_distances(pool.vectors)
    median = np.median(squared[np.triu_indices_from(squared, 1)])
    return pool.averaged(np.exp(-squared / (median or 1.0)))


def _mmd(pool: PooledSample) -> Callable[[GroupWeights], npt.NDArray[np.float64]]:
    kernel = mmd_kernel(pool)

    def of(samples: GroupWeights) -> npt.NDArray[np.float64]:
        gap = samples[0] - samples[1]
        return np.sqrt(np.maximum(_form(gap, kernel, gap), 0))

    return of


def _gdv(pool: PooledSample) -> Callable[[GroupWeights], npt.NDArray[np.float64]]:
    spread = pool.vectors.std(0)
    scaled = (pool.vectors - pool.vectors.mean(0)) / np.where(spread > 0, 2 * spread, 1)
    table = pool.averaged(np.sqrt(_squared_distances(scaled) / scaled.shape[1]))

    def of(samples: GroupWeights) -> npt.NDArray[np.float64]:
        # an image is no pair with itself
        same = [(side**2 / pool.images).sum(1) for side in samples]
        inner = [
            _form(side, table, side) / np.where(alone < 1, 1 - alone, 1)
            for side, alone in zip(samples, same, strict=True)
        ]
        return np.asarray(_form(samples[0], table, samples[1]) - (inner[0] + inner[1]) / 2)

    return of


def _auc(pool: PooledSample) -> Callable[[GroupWeights], npt.NDArray[np.float64]]:
    spread = pool.vectors.std(0)
    scaled = (pool.vectors - pool.vectors.mean(0)) / np.where(spread > 0, spread, 1)
    kernel = scaled @ scaled.T / scaled.shape[1]

    def of(samples: GroupWeights) -> npt.NDArray[np.float64]:
        a, b = (side[:, pool.group_index] / pool.images[pool.group_index] for side in samples)
        scores = np.zeros(a.shape)
        # draws of the same groups, such as permutations, share their factorisations
        used = (samples[0] + samples[1] > 0) / pool.images * pool.images.mean()
        weights, which = np.unique(used[:, pool.group_index], axis=0, return_inverse=True)
        for number, weight in enumerate(weights):
            rows = np.flatnonzero(which.ravel() == number)
            scores[rows] = _scores(kernel, pool.folds, weight, np.sign(b[rows] - a[rows]))
        return np.array([_auc_of(*draw) for draw in zip(scores, a, b, strict=True)])

    return of


def _scores(
    kernel: npt.NDArray[np.float64],
    folds: npt.NDArray[np.int64],
    weight: npt.NDArray[np.float64],
    membership: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Ridge regression of set membership on the vectors, cross-validated.

    Parameters
    ----------
    kernel, folds, weight
        (M, M), (M,) and (M,): how often each image is counted.
    membership
        (draws, M): -1 for the reference, 1 for the shifted set.

    Returns
    -------
    (draws, M)
    """
    scores = np.zeros(membership.shape)
    for fold in np.unique(folds):
        train, test = (np.flatnonzero(k & (weight > 0)) for k in (folds != fold, folds == fold))
        if not len(train):  # no training images: all scores tie
            continue
        known, counts = membership[:, train], weight[train]
        known = known - (known @ counts / counts.sum())[:, None]
        solved = np.linalg.solve(kernel[np.ix_(train, train)] + np.diag(1 / counts), known.T)
        scores[:, test] = (kernel[np.ix_(test, train)] @ solved).T
    return scores


def _auc_of(scores: Vectors, a: Weights, b: Weights) -> float:
    """Probability that an image of ``b`` has a higher score than one of ``a``; ties count half."""
    first, second = np.flatnonzero(a), np.flatnonzero(b)
    margin = scores[second][:, None] - scores[first]
    # equal images may differ by rounding, and tie
    wins = (margin > 1e-9) + 0.5 * (np.abs(margin) <= 1e-9)
    return float(b[second] @ wins @ a[first] / (a.sum() * b.sum()))


def _cka(pool: PooledSample) -> Callable[[GroupWeights], npt.NDArray[np.float64]]:
    split = len(pool.groups.reference)
    names = np.concatenate([pool.groups.reference, pool.groups.shifted])[pool.group_index]
    first, second = (
        np.flatnonzero(pool.group_index < split),
        np.flatnonzero(pool.group_index >= split),
    )
    first, second = (side[np.argsort(names[side], kind="stable")] for side in (first, second))
    if not np.array_equal(names[first], names[second]):
        raise ArgumentError("cka needs paired sets: the same groups, with equal numbers of images")
    x, y = (pool.vectors[side] @ pool.vectors[side].T for side in (first, second))

    def of(samples: GroupWeights) -> npt.NDArray[np.float64]:
        weights = samples[0][:, pool.group_index[first]]
        paired = np.allclose(weights, samples[1][:, pool.group_index[second]])
        paired &= not samples[0][:, split:].any()
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


TWO_SAMPLE_STATISTICS: Mapping[str, TwoSampleStatistic] = {
    "mmd": _mmd,
    "auc": _auc,
    "gdv": _gdv,
    "cka": _cka,
}
"""Statistics of a layer, from one vector per image.

Every group counts alike, and so do its images.

``mmd``: maximum mean discrepancy (Gretton et al. 2012), biased estimator, with the kernel
exp(-d^2 / m), m the median of d^2 over all pairs of images.

``auc``: area under the ROC curve of a domain classifier, ridge regression on standardised vectors
in five cross-validation folds that never split a group; 0.5 is chance, 1 perfect separation.

``gdv``: the generalised discrimination value of two classes (Schilling et al. 2021) with its sign
reversed, so that larger is further apart; 1 is far.

``cka``: 1 - linear centred kernel alignment (Kornblith et al. 2019) of paired sets. It compares
images pair by pair, so splits of the reference and permutations do not apply: it has no null.
"""
