"""The numbers in images: their range, their depth, and constant borders.

A judge compares the means of groups, (G, ...) of the training against (G', ...) of a domain, and
says in a sentence what differs, or gives None.
"""

from collections.abc import Sequence
from math import comb
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.stats import mannwhitneyu

Numbers = npt.NDArray[np.float64]

WIDER = 1.8
"""A range of this times the training's width is told; a scanner's brightness seldom reaches it."""

COARSER = 3.0
"""A step between used levels of this times the training's is told: 1.6 bits are lost."""

CHANCE = 2e-3
"""Largest p-value of a difference between groups (Mann-Whitney)."""

SEPARATE = 0.05
"""Largest chance that groups of one kind lie apart altogether: two beside eight may be told."""

_FILLED = 0.6
_REACH = 8


def measure_levels(image: npt.NDArray[Any]) -> Numbers:
    """Low and high level, bits of a channel, and step between used levels of (H, W, C): (4,).

    Low and high are the 1st and 99th percentile over full scale, 0..1. The step is in units of
    1/255, at least 1: finer than eight bits all are alike.
    """
    full = int(np.iinfo(image.dtype).max)
    counts = cv2.calcHist([image.reshape(-1, 1)], [0], None, [full + 1], [0, full + 1]).ravel()
    marks = [0.01 * image.size, 0.99 * image.size]
    low, high = np.searchsorted(np.cumsum(counts, dtype=np.float64), marks)
    used = np.count_nonzero(counts[low : high + 1])
    step = (high - low) / max(used - 1, 1) * 255 / full
    return np.array([low / full, high / full, 8 * image.itemsize, max(step, 1.0)])


def measure_padding(image: npt.NDArray[Any]) -> float:
    """Share of (H, W, C) in strips of one value along the sides, 0..1.

    A strip ends at once: within eight pixels most of the next rows differ. So a dark ground around
    an object is none; nor are mirrored or repeated borders, which this does not see.
    """
    height, width = image.shape[:2]
    left = 1.0
    for turned, side in ((image, height), (image.transpose(1, 0, 2), width)):
        both = _strip(turned) + _strip(turned[::-1])
        left *= max(side - both, 0) / side
    return 1 - left


def _strip(image: npt.NDArray[Any]) -> int:
    """Rows of one value at the top."""
    start, tolerance = image[0, 0].astype(np.float64), np.iinfo(image.dtype).max // 80
    if np.ptp(image[0], axis=0).max() > tolerance:
        return 0
    lows, highs = image.min(1), image.max(1)
    same = (np.maximum(highs - start, start - lows) <= tolerance).all(1)
    rows = len(same) if same.all() else int(same.argmin())
    if rows < 2 or rows == len(same):
        return 0
    beyond = image[rows : rows + _REACH + 1].astype(np.float64)
    filled = (np.abs(beyond - start).max(2) > 2 * tolerance).mean(1).max()
    return rows if filled >= _FILLED else 0


def judge_range(reference: Numbers, domain: Numbers) -> str | None:
    """Whether levels span another range, from (G, 4) of `measure_levels`.

    Told if the range is `WIDER` or as much narrower, or if less than half of the narrower range is
    shared, and the groups differ, too (`differs`). Cannot tell a forgotten rescaling from a
    scanner of half the brightness.
    """
    ranges = reference[:, :2], domain[:, :2]
    widths = [np.log(np.maximum(np.ptp(side, axis=1), 1e-4)) for side in ranges]
    middles = [side.mean(1) for side in ranges]
    (low, high), (other_low, other_high) = (np.median(side, 0) for side in ranges)
    shared = min(high, other_high) - max(low, other_low)
    apart = shared < 0.5 * min(high - low, other_high - other_low)
    if differs(widths, np.log(WIDER)) or (apart and differs(middles, 0.1)):
        return (
            f"levels span {other_low:.2f}-{other_high:.2f} of the full scale, "
            f"in training {low:.2f}-{high:.2f}"
        )
    return None


def judge_depth(reference: Numbers, domain: Numbers) -> str | None:
    """Whether images have fewer levels, from (G, 4) of `measure_levels`.

    Sees another depth of the file, and levels lost on the way (`COARSER`). Does not see one lost
    bit, which a change of contrast takes as well.
    """
    (bits, step), (other_bits, other_step) = (np.median(s[:, 2:], 0) for s in (reference, domain))
    if bits != other_bits:
        return f"files hold {other_bits:.0f} bits a channel, in training {bits:.0f}"
    steps = [np.log(side[:, 3]) for side in (reference, domain)]
    if differs(steps, np.log(COARSER)):
        return f"about {256 / other_step:.0f} levels of 256 are used, in training {256 / step:.0f}"
    return None


def differs(sides: Sequence[Numbers], least: float) -> bool:
    """Whether the medians of (G,) and (G',) are ``least`` apart, and the groups too.

    All of one side must lie above all of the other, which takes enough groups to be no chance
    (`SEPARATE`), or most of them beyond `CHANCE`. NaN is left out.
    """
    reference, domain = (side[~np.isnan(side)] for side in sides)
    if abs(np.median(domain) - np.median(reference)) <= least:
        return False
    if domain.min() > reference.max() or domain.max() < reference.min():
        return 2 / comb(len(reference) + len(domain), len(domain)) <= SEPARATE
    return bool(mannwhitneyu(reference, domain).pvalue < CHANCE)
