"""Whether masks are aligned with their images.

Outlines of masks should follow edges of the image. If one transformation brings the outlines of a
whole domain to stronger edges, its masks are misaligned.
"""

import itertools

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.checks.group_tests import Numbers, mean_is_positive
from skipshift.data.checks.orientation import ORIENTATIONS
from skipshift.data.checks.thumbnails import Grey
from skipshift.data.images import shrink

SIDE = 256
"""Longest side in pixels at which outlines are compared with gradients."""

GAIN = 0.2
"""Least gain of a transformation, as a fraction of the gradient under the outlines."""

STEADY = 0.8
"""Fraction of the groups in which the transformation must gain anything."""

CHANCE = 2e-3
"""Largest p-value of the best transformation.

It is the best of 180: 4,200 draws of 4 to 12 groups of clean real and synthetic domains gave one
false alarm. Shifts of 1 to 4 % and scales of 0.9 and 1.2 are nearly always detected with 8 groups
of sharp outlines (nuclei, blood cells, M&Ms hearts), mostly with 12 of faint ones (Sunnybrook).
"""

_STEPS = (-16, -12, -8, -6, -4, -2, 0, 2, 4, 6, 8, 12, 16)
_SCALES = (0.75, 0.8, 0.85, 0.9, 1.1, 1.15, 1.2, 1.3)
_POINTS = 500
_FEWEST = 16
_LEAST_GROUPS = 5
_FAINT = 0.3


def measure_alignment(grey: Grey, mask: npt.NDArray[np.uint8]) -> Numbers:
    """Mean gradient of an image (H, W) under the mask's outline after each of `TRANSFORMS`: (K,).

    Standardised over the image, so that 0 is the average pixel; NaN if the mask has almost no
    outline.
    """
    small = shrink(mask, SIDE, cv2.INTER_NEAREST)
    edges = np.zeros(small.shape, bool)
    edges[:, :-1] |= small[:, :-1] != small[:, 1:]
    edges[:-1] |= small[:-1] != small[1:]
    outline = np.argwhere(edges)[:, ::-1].astype(np.float32)
    soft = cv2.GaussianBlur(shrink(grey, SIDE), (0, 0), 1)
    gradients = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    strength = np.asarray(cv2.magnitude(*gradients), np.float32)
    strength = np.minimum(strength, np.percentile(strength, 99))
    if len(outline) < _FEWEST or strength.std() < 1e-6:
        return np.full(len(TRANSFORMS), np.nan)
    strength = (strength - strength.mean()) / strength.std()
    centre = (np.array(small.shape[::-1], np.float32) - 1) / 2
    points = outline[:: -(-len(outline) // _POINTS)] - centre
    moved = points @ _LINEAR.transpose(0, 2, 1) + (_SHIFTS[:, None] + centre)
    x, y = np.ascontiguousarray(np.moveaxis(moved, -1, 0))
    # points outside of the image count as the mean, which is 0
    under = cv2.remap(strength, x, y, cv2.INTER_LINEAR)
    return np.asarray(np.asarray(under, np.float64).mean(1))


def judge_alignment(domain: Numbers) -> str | None:
    """Judge whether masks are shifted, scaled, rotated or flipped, from (G, K).

    ``domain`` holds the means of `measure_alignment` over groups; each is divided by its maximum. A
    domain is judged by itself: reported if one transformation gains the fraction `GAIN`, in
    `STEADY` of the groups and beyond `CHANCE` (t-test over groups). Detects shifts of 1 to 6 % of
    the longest side and scales of 10 to 20 % about the centre. Needs five groups. Does not detect
    one misaligned mask among many, nor anything where outlines follow no edges. Mistakes outlines
    drawn a tenth too wide around a single centred object for scaled ones.
    """
    domain = domain[~np.isnan(domain).any(1)]
    if len(domain) < _LEAST_GROUPS:
        return None
    relative = domain / np.maximum(domain.max(1, keepdims=True), _FAINT)
    best = int(relative.mean(0).argmax())
    gain = relative[:, best] - relative[:, 0]
    large = gain.mean() > GAIN * relative[:, best].mean() and (gain > 0).mean() >= STEADY
    if best and large and mean_is_positive(gain, CHANCE):
        return f"masks fit their images better {TRANSFORMS[best]}"
    return None


def _transforms() -> tuple[tuple[str, ...], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Names, (K, 2, 2) matrices about the centre and (K, 2) shifts in pixels."""
    transforms = [("as they are", np.eye(2), (0, 0))]
    for down, right in itertools.product(_STEPS, _STEPS):
        if right or down:
            percent = f"{100 * right / SIDE:+.1f} % and down by {100 * down / SIDE:+.1f} %"
            transforms.append((f"shifted right by {percent} of the side", np.eye(2), (right, down)))
    transforms += [(f"scaled by {scale:g}", np.eye(2) * scale, (0, 0)) for scale in _SCALES]
    for name, (quarters, flipped) in list(ORIENTATIONS.items())[1:]:
        rotation = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), quarters)
        transforms.append((name, rotation @ np.diag([-1 if flipped else 1, 1]), (0, 0)))
    names, linear, shifts = zip(*transforms, strict=True)
    return names, np.array(linear, np.float32), np.array(shifts, np.float32)


TRANSFORMS, _LINEAR, _SHIFTS = _transforms()
