"""Excess of a distance over its null (noise floor), unbiased for any groups, with its interval."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

from skipshift.statistics.resampling import Comparisons, Groups, GroupWeights, rest_of

Array = npt.NDArray[np.floating]

Table = npt.NDArray[np.float64]
"""(G, G): products of all groups' features, such as their frequencies, summed over channels."""

_LEVEL = 0.95

_NORMAL = ndtri((np.arange(24) + 0.5) / 24)
"""Quantiles of the standard normal distribution, for means over it."""


@dataclass(frozen=True)
class Excess:
    """How far a distance lies above what it is without a shift, on the scale where noise adds."""

    squares: Array
    """(1 + units,): distance^power minus null^power, mean over channels; without each unit."""

    kinds: npt.NDArray[np.int64]
    """(units,): kind of each unit."""

    power: float
    """Scale of the distance: noise adds to its power."""

    @property
    def value(self) -> float:
        """The excess: an estimate of the population's distance, with a sign."""
        return rooted(float(self.squares[0]), self.power)

    def interval(self) -> tuple[float, float]:
        """95 % interval of the population's distance, NaN with fewer than 3 units of a kind."""
        low, high = t_interval(self.squares, self.kinds)
        return rooted(low, self.power), rooted(high, self.power)


def rooted(value: float, power: float) -> float:
    """Root that keeps the sign, so that the mean without a shift is about 0."""
    return float(np.sign(value) * np.abs(value) ** (1 / power))


def excess_of(
    comparisons: Comparisons,
    drawn: Array,
    noise: Array,
    power: float = 2,
    bias: Array | float = 0.0,
) -> tuple[Excess, Array]:
    """Excess of a layer, from one distance of every channel in all comparisons.

    Each channel has x = mean of matched^power - mean of null^power, divided by 1 - r^2 for the rest
    r of the shift in a null. Without a unit x moves as distance^power - null^power v_u / v does,
    with the noise v. The layer has the mean of x, times `shape_of` the channels where they differ
    by more than their errors: so its root compares with the mean of the channels' distances (eq.
    10).

    Parameters
    ----------
    drawn
        (draws, D): distances in `Comparisons.sides`.
    noise
        (1 + units,): `noise_of` the comparisons ``whole``.
    bias
        (D,): what noise adds to distance^power under this shift, beyond what it adds to the null.

    Returns
    -------
    The excess, and (D,) the null of each channel: the root of the mean of null^power. Where matched
    and null are thinned, it is moved to the size of the sets by what that moves the distance.
    """
    whole, matched, null = comparisons.split(drawn**power)
    rest = float((rest_of(comparisons.null, comparisons.groups) ** 2).mean())
    excess = (matched.mean(0) - null.mean(0) - bias) / (1 - rest)
    floor = null.mean(0) - rest * excess + whole[0] - matched.mean(0)
    ratio = (noise / np.where(noise[0] > 0, noise[0], 1))[1:, None]
    rows = np.vstack([excess, excess + whole[1:] - whole[0] - floor * (ratio - 1)])
    squares = rows.mean(1)
    if power == 2 and len(rows) > 1:
        errors = _errors(rows[1:], comparisons.kinds)
        if excess.var() > (1 + np.sqrt(8 / len(excess))) * (errors**2).mean():
            squares = squares * shape_of(rows, errors) ** 2
    # noise makes every power non-negative but the first, which GDV takes too
    null = floor if power == 1 else np.maximum(floor, 0) ** (1 / power)
    return Excess(squares, comparisons.kinds, power), null


def shape_of(squares: Array, errors: Array) -> Array:
    """Mean of roots over root of mean of the channels' squares, noise taken out: (.., D) -> (..).

    The mean of signed roots, over what it would be were all channels alike: roots of the mean
    square with the channels' errors about it. Noise alone makes either smaller, so it is 1 where
    channels are alike, and mean by quadratic mean where errors are small.
    """
    middle = squares.mean(-1)
    around = middle[..., None, None] + errors[:, None] * _NORMAL
    alike = _signed_root(around).mean((-2, -1))
    shape = _signed_root(squares).mean(-1) / np.where(alike > 0, alike, 1)
    return np.asarray(np.where((middle > 0) & (alike > 0), np.clip(shape, 0, 1), 1.0))


def _signed_root(values: Array) -> Array:
    return np.asarray(np.sign(values) * np.sqrt(np.abs(values)))


def _errors(rows: Array, kinds: npt.NDArray[np.int64]) -> Array:
    """Jackknife error of each channel about the mean of all: (units, D) -> (D,)."""
    centred = rows - rows.mean(1, keepdims=True)
    return np.asarray(np.sqrt(sum(_variances(centred, kinds))))


def _variances(rows: Array, kinds: npt.NDArray[np.int64]) -> list[Array]:
    """Jackknife variance from each kind of units, (units, ...) -> (...) each.

    (n - 1) / n sum (x_u - mean)^2 (Tukey 1958), each sample by itself (Arvesen 1969).
    """
    parts = [rows[kinds == kind] for kind in np.unique(kinds)]
    return [((p - p.mean(0)) ** 2).sum(0) * (len(p) - 1) / len(p) for p in parts]


def t_interval(values: Array, kinds: npt.NDArray[np.int64]) -> tuple[float, float]:
    """95 % t-interval of a value from itself without each unit; NaN without units.

    Degrees of freedom are Satterthwaite's: V^2 / sum V_kind^2 / (n_kind - 1).

    Parameters
    ----------
    values
        (1 + units,), the value first.
    kinds
        (units,): kind of each unit.
    """
    if not len(kinds):
        return np.nan, np.nan
    each = np.array(_variances(values[1:], kinds))
    counts = np.unique(kinds, return_counts=True)[1]
    if (total := each.sum()) <= 0:
        return float(values[0]), float(values[0])
    free = total**2 / (each**2 / (counts - 1)).sum()
    reach = float(stdtrit(free, (1 + _LEVEL) / 2) * np.sqrt(total))
    return float(values[0]) - reach, float(values[0]) + reach


def difference(a: Excess, b: Excess) -> tuple[float, float, float]:
    """Difference of the excesses of two layers of the same images, with its 95 % interval.

    From the difference of squares, which moves smoothly with each group even where an excess is 0:
    e_a - e_b = (e_a^2 - e_b^2) / (e_a + e_b).

    Returns
    -------
    value, low, high; NaN bounds with fewer than 3 units of a kind.
    """
    low, high = t_interval(a.squares - b.squares, a.kinds)
    if a.power == 1:
        return a.value - b.value, low, high
    total = abs(a.value) + abs(b.value)
    return a.value - b.value, _unsquared(low, total), _unsquared(high, total)


def _unsquared(end: float, total: float) -> float:
    # two numbers differ by no more than the root of the difference of their squares
    return min(end / total, rooted(end, 2), key=abs) if total else rooted(end, 2)


def noise_of(table: Table, sides: GroupWeights, groups: Groups) -> npt.NDArray[np.float64]:
    """Variance of the difference of both sides' means in each draw, (draws,), from between groups.

    v = s_1^2 / n + s_2^2 / m - 2 k c / (n m), with the covariance c of the k pairs that a draw
    holds. Groups of a side count alike; the s^2 of a single group is that of the other side.
    """
    sizes = [(side > 0).sum(1) for side in sides]
    n, m = sizes
    spreads = [_spread(table, side, count) for side, count in zip(sides, sizes, strict=True)]
    s1, s2 = (np.where(np.isnan(s), o, s) for s, o in (spreads, spreads[::-1]))
    variance = s1 / n + s2 / m
    if len(groups.pairs) > 1:
        variance = variance - 2 / (n * m) * _shared(table, sides, groups.pairs)
    # pairs that are equal leave no noise
    return np.asarray(np.maximum(variance, 1e-3 * (s1 / n + s2 / m)))


def _spread(table: Table, side: npt.NDArray[np.float64], count: npt.NDArray[np.int64]) -> Array:
    within = side @ np.diag(table) - ((side @ table) * side).sum(1)
    return np.where(count > 1, within * count / np.maximum(count - 1, 1), np.nan)


def _shared(table: Table, sides: GroupWeights, pairs: npt.NDArray[np.int64]) -> Array:
    """Multiply the number of pairs in each draw by their covariance, (draws,)."""
    a, b = (np.zeros_like(side) for side in sides)
    for into, side in ((a, sides[0]), (b, sides[1])):
        into[:, pairs.ravel()] = side[:, pairs.ravel()] > 0
    k = a.sum(1)
    cross = (a + b)[:, pairs[:, 0]] @ table[pairs[:, 0], pairs[:, 1]]
    return np.asarray(k * (cross - ((a @ table) * b).sum(1) / k) / np.maximum(k - 1, 1))


def noise_of_bins(shares: Array, groups: Groups, sizes: tuple[int, int]) -> Array:
    """Variance of P - Q in each bin, (G, D, B) -> (D, B), with ``sizes`` groups on the sides."""
    own, pairs = groups.sizes[0], groups.pairs
    noise = shares[:own].var(0, ddof=1) / sizes[0] + shares[own:].var(0, ddof=1) / sizes[1]
    if len(pairs) > 1:
        a, b = (shares[pairs[:, side]] for side in (0, 1))
        covariance = ((a - a.mean(0)) * (b - b.mean(0))).sum(0) / (len(pairs) - 1)
        noise = np.maximum(noise - 2 * len(pairs) / np.prod(groups.sizes) * covariance, 0)
    return np.asarray(noise)


def matching_sizes(products: Table, groups: Groups) -> tuple[int, int] | None:
    """Numbers of groups whose mean histograms are as rough as that of the rougher set.

    A group's roughness is |f - P|^2 / |P|^2, with the mean P of its set: where bins are sparse, the
    distance of a smooth and a rough histogram is not that of two in between. None where groups of
    both sets are alike: their roughness differs by no more than two standard errors.

    Parameters
    ----------
    products
        (G, G): products of the groups' frequencies, summed over channels and bins.
    """
    sizes = groups.sizes
    if min(sizes) < 2:
        return None
    means, errors = [], []
    for part in (slice(sizes[0]), slice(sizes[0], None)):
        inner = products[part, part]
        count = len(inner)
        away = (np.diag(inner) - 2 * inner.mean(0) + inner.mean()) * count / (count - 1)
        size = inner.mean() - away.mean() / count
        if size <= 0 or away.mean() <= 1e-6 * inner.mean():  # rounding
            return None
        means.append(away.mean() / size)
        errors.append(away.std(ddof=1) / np.sqrt(count) / away.mean())
    ratio = np.log(means[0] / means[1])
    if abs(ratio) < 2 * np.hypot(*errors):
        return None
    noise: Any = np.exp(ratio) / sizes[0], 1 / sizes[1]
    kept = [max(2, round(n * own / max(noise))) for n, own in zip(sizes, noise, strict=True)]
    return min(sizes[0], kept[0]), min(sizes[1], kept[1])
