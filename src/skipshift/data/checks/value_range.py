"""Value range and bit depth of images."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.checks.group_tests import Numbers, groups_differ

WIDER = 1.8
"""Ratio of range widths from which they are reported; scanners' brightness seldom reaches it."""

COARSER = 3.0
"""Ratio of the steps between used levels from which they are reported: a loss of 1.6 bits."""


def measure_levels(image: npt.NDArray[Any]) -> Numbers:
    """Low and high level, bits per channel, and step between used levels of (H, W, C): (4,).

    Low and high are the 1st and 99th percentile as fractions of full scale, 0..1. The step is in
    units of 1/255 and at least 1, so that all images of more than eight bits are alike.
    """
    full = int(np.iinfo(image.dtype).max)
    counts = cv2.calcHist([image.reshape(-1, 1)], [0], None, [full + 1], [0, full + 1]).ravel()
    marks = [0.01 * image.size, 0.99 * image.size]
    low, high = np.searchsorted(np.cumsum(counts, dtype=np.float64), marks)
    used = np.count_nonzero(counts[low : high + 1])
    step = (high - low) / max(used - 1, 1) * 255 / full
    return np.array([low / full, high / full, 8 * image.itemsize, max(step, 1.0)])


def judge_range(reference: Numbers, domain: Numbers) -> str | None:
    """Judge whether levels span another range, from (G, 4) and (G', 4) of `measure_levels`.

    Reported if the widths differ by `WIDER`, or if less than half of the narrower range is shared,
    and if the groups differ significantly (`groups_differ`). A missing rescaling and a scanner of
    half the brightness look the same.
    """
    ranges = reference[:, :2], domain[:, :2]
    widths = [np.log(np.maximum(np.ptp(side, axis=1), 1e-4)) for side in ranges]
    middles = [side.mean(1) for side in ranges]
    (low, high), (other_low, other_high) = (np.median(side, 0) for side in ranges)
    shared = min(high, other_high) - max(low, other_low)
    apart = shared < 0.5 * min(high - low, other_high - other_low)
    if groups_differ(widths, np.log(WIDER)) or (apart and groups_differ(middles, 0.1)):
        return (
            f"levels span {other_low:.2f}-{other_high:.2f} of full scale, "
            f"in training {low:.2f}-{high:.2f}"
        )
    return None


def judge_depth(reference: Numbers, domain: Numbers) -> str | None:
    """Judge whether images have fewer levels, from (G, 4) and (G', 4) of `measure_levels`.

    Detects another bit depth of the files, and levels lost in a conversion (`COARSER`). Does not
    detect the loss of one bit, which a change of contrast causes too.
    """
    (bits, step), (other_bits, other_step) = (np.median(s[:, 2:], 0) for s in (reference, domain))
    if bits != other_bits:
        return f"files have {other_bits:.0f} bits per channel, in training {bits:.0f}"
    steps = [np.log(side[:, 3]) for side in (reference, domain)]
    if groups_differ(steps, np.log(COARSER)):
        return f"about {256 / other_step:.0f} of 256 levels are used, in training {256 / step:.0f}"
    return None
