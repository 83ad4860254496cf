"""Many comparisons at one error rate: step-down max-T over shared swaps, in two levels."""

import numpy as np
import numpy.typing as npt

from skipshift.statistics.counts import ratio

Array = npt.NDArray[np.float64]

ALPHA = 0.05
"""Family-wise error rate of the verdicts."""

FIRST = 2 / 3
"""Part of `ALPHA` for what is asked first, the source domains and the mean over the others; the
single domains have the rest. With two thirds 6 groups can give a verdict on the first and 7 on all:
no other part does that."""

SWAPS = 9999
"""Random swaps of a comparison; where there are at most one more patterns, each is taken once."""

_TIE = 1e-9


def swap_shares(ours: Array, theirs: Array) -> Array:
    """Share of each group in the difference of two ratios of sums; a swap turns its sign.

    Parameters
    ----------
    ours, theirs
        (groups, ..., 2): numerator and denominator of each group.

    Returns
    -------
    (groups, ...): the difference to first order about both networks' common ratio, so that swapping
    a group changes only the sign of its share, exactly. Their sum is the difference times
    4 b b' / (b + b')^2, b and b' being the two denominators.
    """
    total = (ours + theirs).sum(0)
    apart = ours - theirs
    common = ratio(total[..., 0], total[..., 1])
    with np.errstate(invalid="ignore", divide="ignore"):
        share = 2 * (apart[..., 0] - common * apart[..., 1]) / total[..., 1]
    return np.asarray(share)


def signs(groups: int, draws: int, rng: np.random.Generator) -> Array:
    """Patterns of swaps, (patterns, groups) of 1 and -1; the first is the sample.

    A pattern and its opposite give the same size of a difference, so 2^(groups - 1) are all there
    are: each of them if they are at most ``draws`` + 1, else random ones (Phipson and Smyth 2010).
    """
    if 2 ** (groups - 1) <= draws + 1:
        bits = np.arange(2 ** (groups - 1))[:, None] >> np.arange(groups) & 1
    else:
        bits = rng.integers(0, 2, (draws + 1, groups), np.int8)
        bits[0] = 0
    return np.asarray(1 - 2.0 * bits)


def max_t(shares: Array, patterns: Array) -> tuple[Array, Array]:
    """Test each comparison by swaps, and adjust for all of them (Westfall and Young 1993).

    The statistic is |sum of shares| over the root of the sum of their squares, which no swap
    changes: a comparison of n groups never exceeds sqrt(n), so that one of few groups costs the
    others nothing. Step-down: the k-th largest is compared with the maximum over itself and all
    smaller ones.

    Parameters
    ----------
    shares
        (groups, comparisons) of `swap_shares`; 0 where a group is not in a comparison.
    patterns
        As from `signs`.

    Returns
    -------
    p and p_adjusted, (comparisons,).
    """
    scale = np.sqrt((shares**2).sum(0))
    drawn = np.abs(patterns @ np.divide(shares, scale, np.zeros_like(shares), where=scale > 0))
    seen = drawn[0]
    p = (drawn >= seen - _TIE).mean(0)
    order = np.argsort(-seen, kind="stable")
    largest = np.maximum.accumulate(drawn[:, order[::-1]], 1)[:, ::-1]
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate((largest >= seen[order] - _TIE).mean(0))
    return p, adjusted


def two_levels(first: Array, rest: Array, weight: float = FIRST) -> tuple[Array, Array]:
    """Adjust two families of p-values, each adjusted within itself, for each other.

    A closed test whose intersections have the weights (w, 1 - w), or 1 where one family is left
    (Bretz et al. 2009): a family that is found as a whole hands its part on to the other. NaN stays
    NaN and does not count; beside an empty family nothing changes.
    """
    worst = [float(np.max(p[~np.isnan(p)], initial=0)) for p in (first, rest)]
    one = np.maximum(first, np.minimum(first / weight, worst[1] / (1 - weight)))
    two = np.maximum(rest, np.minimum(rest / (1 - weight), worst[0] / weight))
    return np.minimum(one, 1), np.minimum(two, 1)


def smallest_swap_p(groups: int, weight: float = 1.0, draws: int = SWAPS) -> float:
    """Least adjusted p that swaps of this many groups could ever give, known before any training.

    One of all patterns there are, and no less than one of those that are drawn.

    Parameters
    ----------
    weight
        Part of `ALPHA` of its level: `FIRST`, 1 - `FIRST`, or 1 where there is one level.
    draws
        Number of random swaps, as for `signs`.

    >>> smallest_swap_p(4), round(smallest_swap_p(6, FIRST), 3)
    (0.125, 0.047)
    >>> round(smallest_swap_p(6, 1 - FIRST), 3), smallest_swap_p(30)
    (0.094, 0.0001)
    """
    least = max(2.0 ** (1 - groups), 1 / (draws + 1))
    return min(1.0, least / weight) if groups > 0 else 1.0
