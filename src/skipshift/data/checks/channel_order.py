"""Whether red and blue are swapped (BGR instead of RGB).

A scanner's colours alone can reverse the order of red and blue: the same tissue is pink on one
scanner and violet on the next. Hence several properties that a swap negates are compared, most of
them invariant to the gain of a channel, and together they must fit better negated.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.checks.group_tests import Numbers

MARGIN = 0.5
"""Largest ratio of the distances to training, swapped over unswapped, that is reported.

All pairs of three real scanners of the same tissue, 50 patches each, have 0.93 or more, although
one of them has red and blue in reverse order. A real swap has 0.0 within a scanner, 0.36 between
two similar scanners, and 0.9 (not detected) between two dissimilar ones.
"""

_USUAL = np.array([0.03, 0.01, 0.1, 0.015, 0.4, 0.04])
"""Least standard deviation of each property: that between patches of one scanner."""

_FAR = 1.5
_NEAR = 2.0
_SIDE = 64


def measure_red_blue(image: npt.NDArray[Any]) -> Numbers:
    """Six properties of (H, W, C) that a swap of red and blue negates: (6,); 0 for grey images.

    Of the absorbances relative to the image's 95th percentile (Beer-Lambert): contrast of the means
    of red and blue, log ratio of their standard deviations, and differences of their correlations
    with green, of their skewness and of their loadings on the first principal axis. And the
    contrast of the plain means, the only one that depends on the gain of a channel.
    """
    if image.shape[2] == 1 or np.array_equal(image[..., 0], image[..., 2]):
        return np.zeros(len(_USUAL))
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    small = small / np.iinfo(image.dtype).max + 1 / 255
    absorbed = np.log(np.percentile(small, 95, axis=0) / small).clip(0)
    mean, spread = absorbed.mean(0), absorbed.std(0) + 1e-3
    scaled = (absorbed - mean) / spread
    correlations = scaled.T @ scaled / len(scaled)
    skew = (scaled**3).mean(0)
    axis = np.abs(np.linalg.eigh(np.cov(absorbed.T))[1][:, -1])
    plain = small.mean(0)
    return np.array(
        [
            (mean[0] - mean[2]) / (mean.sum() + 0.02),
            (plain[0] - plain[2]) / plain.sum(),
            np.log(spread[0] / spread[2]),
            correlations[0, 1] - correlations[1, 2],
            skew[0] - skew[2],
            axis[0] - axis[2],
        ]
    )


def judge_channel_order(reference: Numbers, domain: Numbers) -> str | None:
    """Judge whether red and blue are swapped, from (G, 6) and (G', 6) of `measure_red_blue`.

    Reported if the domain is far from training (in standard deviations between groups), if swapping
    brings it near and closer by the factor `MARGIN`, and if swapping helps nine of ten groups. Does
    not detect a swap where red and blue are alike, as in grey images, in a domain of one group, or
    where it is no larger than the difference of the scanners. May mistake another stain for a swap.
    """
    centre, scale = reference.mean(0), np.maximum(reference.std(0), _USUAL)

    def distance(properties: Numbers) -> Numbers:
        off = (properties - centre) / scale
        return np.asarray(np.sqrt((off**2).mean(-1)))

    unswapped, swapped = float(distance(domain.mean(0))), float(distance(-domain.mean(0)))
    each = (distance(-domain) < distance(domain)).mean()
    closer = swapped < min(_NEAR, MARGIN * unswapped) and each >= 0.9
    if len(domain) > 1 and unswapped > _FAR and closer:
        return "red and blue seem to be swapped: colours fit those of training far better as BGR"
    return None
