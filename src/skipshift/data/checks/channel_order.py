"""Whether red and blue have changed places.

A scanner's own colours can make red and blue change their order, too: the same tissue is pink on
one scanner and violet on the next. So several properties that a swap reverses are looked at, most
of which the gain of a channel does not move, and all of them together must fit better reversed.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

MARGIN = 0.5
"""Reversed, a domain must be nearer to the training by this factor.

Real scanners of the same tissue, in all pairs of three of 50 patches each, come to 0.93 or more,
although one of them has red and blue in the other order; a swap comes to 0.0 within a scanner, to
0.36 between two that are alike, to 0.9 (unseen) between two that are not.
"""

_USUAL = np.array([0.03, 0.01, 0.1, 0.015, 0.4, 0.04])
"""Spread of each property between patches of one scanner, where the training shows less."""

_FAR = 1.5
_NEAR = 2.0
_SIDE = 64


def measure_tint(image: npt.NDArray[Any]) -> Numbers:
    """Six properties of (H, W, C) that change sign when red and blue do; 0 for grey images.

    Of absorbances against the image's own 95th percentile (Beer-Lambert): contrast of the means of
    red and blue, log ratio of their spreads, difference of their correlations with green, of their
    skewness, and of their shares in the first principal axis; and the contrast of the plain means,
    the only one that a channel's gain moves.
    """
    if image.shape[2] == 1 or np.array_equal(image[..., 0], image[..., 2]):
        return np.zeros(len(_USUAL))
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    small = small / np.iinfo(image.dtype).max + 1 / 255
    absorbed = np.log(np.percentile(small, 95, axis=0) / small).clip(0)
    mean, spread = absorbed.mean(0), absorbed.std(0) + 1e-3
    scaled = (absorbed - mean) / spread
    related = scaled.T @ scaled / len(scaled)
    skew = (scaled**3).mean(0)
    axis = np.abs(np.linalg.eigh(np.cov(absorbed.T))[1][:, -1])
    plain = small.mean(0)
    return np.array(
        [
            (mean[0] - mean[2]) / (mean.sum() + 0.02),
            (plain[0] - plain[2]) / plain.sum(),
            np.log(spread[0] / spread[2]),
            related[0, 1] - related[1, 2],
            skew[0] - skew[2],
            axis[0] - axis[2],
        ]
    )


def judge_tint(reference: Numbers, domain: Numbers) -> str | None:
    """Whether red and blue have changed places, from (G, 6) and (G', 6) of `measure_tint`.

    Told if the domain as it is lies far from the training (in spreads of its groups), if reversed
    it lies near and nearer by `MARGIN`, and if that holds for nine of ten groups. Cannot see a swap
    where red and blue are alike, as in grey images, nor in a domain of one group, nor beneath a
    scanner's shift of the same size; can take another stain for a swap.
    """
    centre, scale = reference.mean(0), np.maximum(reference.std(0), _USUAL)

    def distance(properties: Numbers) -> Numbers:
        off = (properties - centre) / scale
        return np.asarray(np.sqrt((off**2).mean(-1)))

    as_is, reversed_ = float(distance(domain.mean(0))), float(distance(-domain.mean(0)))
    each = (distance(-domain) < distance(domain)).mean()
    nearer = reversed_ < min(_NEAR, MARGIN * as_is) and each >= 0.9
    if len(domain) > 1 and as_is > _FAR and nearer:
        return "red and blue look exchanged: colours fit those of training far better as BGR"
    return None
