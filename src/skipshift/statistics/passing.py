"""How much of the feature distance behind a path goes when the path is patched (`passed`)."""

from typing import Any

import numpy as np
import numpy.typing as npt

from skipshift.statistics.crossed import Array, ratios
from skipshift.statistics.recovery import Linear, share_interval, t_interval

LEVELS = 8
"""Levels of each channel at which distributions are compared."""


def passed_in_pairs(squares: Array) -> tuple[float, float, float]:
    """Share of the squared distance between the maps of the same images that goes, low, high.

    Parameters
    ----------
    squares
        (groups, 2): sums of squares with the path patched, and without. NaN where there are none.
    """
    if not squares[:, 1].sum() > 0:
        return (np.nan,) * 3
    left, errors = ratios(squares)
    passed = Linear(1 - float(left), -errors[:, None])
    return passed.value, *t_interval(passed, squares[:, 1:])


def passed_between_sets(
    reference: Array,
    patched: Array,
    unpatched: Array,
    groups: tuple[npt.NDArray[Any], npt.NDArray[Any]],
) -> tuple[float, float, float]:
    """Share of the squared distance between two sets' distributions that goes, low, high.

    The distance is that of Cramér and von Mises at `LEVELS` levels of each channel, groups weighed
    alike and without the part that the groups' own spread adds (a U statistic: 0 on average where
    nothing differs, whatever the sizes). NaN below 2 groups, or if the distance may be 0.

    Parameters
    ----------
    reference
        (R, K): mean of each group's fractions of values below each level, of all channels.
    patched, unpatched
        (S, K): those of the shifted set.
    groups
        Sorted labels of the R and of the S groups; a label in both is a pair.
    """
    if min(map(len, groups)) < 2:
        return (np.nan,) * 3
    labels = np.union1d(*groups)
    places = [np.searchsorted(labels, own) for own in groups]
    before, after = (
        _leave_one_out(reference, part, places, len(labels)) for part in (unpatched, patched)
    )
    inside = np.stack([np.isin(labels, own) for own in groups], 1)
    number = np.where(inside, inside.sum(0), len(labels)).min(1)
    scale = np.sqrt((number - 1) / number)
    if inside.all():
        inside = inside[:, :1]

    def linear(distances: Array) -> Linear:
        own = scale * (distances[0] - distances[1:])
        each = inside / inside.sum(1, keepdims=True) * inside.shape[1]
        return Linear(float(distances[0]), own[:, None] * each)

    lost = linear(before)
    if not lost.value > 0:
        return (np.nan,) * 3
    gain = linear(before - after)
    return gain.value / lost.value, *share_interval(gain, lost, inside.astype(np.float64))


def _leave_one_out(
    reference: Array, shifted: Array, places: list[npt.NDArray[np.intp]], labels: int
) -> Array:
    """Squared distance of all groups, and without each label: (1 + labels,)."""
    a, b = np.zeros((labels, reference.shape[1])), np.zeros((labels, shifted.shape[1]))
    a[places[0]], b[places[1]] = reference, shifted
    there = [np.bincount(place, minlength=labels).astype(np.float64) for place in places]
    r, s = (np.concatenate([[0.0], own]) for own in there)
    n, m, pairs = there[0].sum() - r, there[1].sum() - s, (there[0] * there[1]).sum() - r * s

    def without(x: Array, y: Array) -> tuple[Array, Array]:
        """Products of the sums of both, and sums of the products, of all and without each label."""
        whole, own = x.sum(0) @ y.sum(0), (x * y).sum(1)
        products = whole - x @ y.sum(0) - y @ x.sum(0) + own
        return np.concatenate([[whole], products]), own.sum() - np.concatenate([[0.0], own])

    (aa, a_own), (bb, b_own), (ab, ab_own) = without(a, a), without(b, b), without(a, b)
    with np.errstate(invalid="ignore", divide="ignore"):
        within = (aa - a_own) / (n * (n - 1)) + (bb - b_own) / (m * (m - 1))
        return np.asarray(within - 2 * (ab - ab_own) / (n * m - pairs))
