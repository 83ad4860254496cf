"""Whether masks lie on their images.

The outline of a mask should lie where its image is steepest. Where the same move would bring the
outlines of a whole domain to steeper places, its masks were moved.
"""

import itertools

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from skipshift.data.checks.orientation import TURNS
from skipshift.data.checks.thumbnails import Field, shrink

Numbers = npt.NDArray[np.float64]

SIDE = 256
"""Longest side, in pixels, at which outlines are compared with gradients."""

GAIN = 0.2
"""Share of the steepness under the outlines that a move must add."""

STEADY = 0.8
"""Share of the groups in which the move must add any."""

CHANCE = 2e-3
"""Largest p-value of the best move.

It is chosen among 180: in 4,200 draws of 4 to 12 groups of clean real and synthetic domains one was
told. Shifts of 1 to 4 % and scales of 0.9 and 1.2 are nearly all told with 8 groups of sharp
outlines (nuclei, blood cells, M&Ms hearts), mostly with 12 of faint ones (Sunnybrook).
"""

_STEPS = (-16, -12, -8, -6, -4, -2, 0, 2, 4, 6, 8, 12, 16)
_SCALES = (0.75, 0.8, 0.85, 0.9, 1.1, 1.15, 1.2, 1.3)
_POINTS = 500
_FEWEST = 16
_LEAST_GROUPS = 5
_FAINT = 0.3


def measure_fit(grey: Field, mask: npt.NDArray[np.uint8]) -> Numbers:
    """Mean steepness of an image (H, W) under its mask's outline after each of `MOVES`: (K,).

    In standard deviations over the image, so that 0 is what any place has; NaN where the mask has
    hardly an outline.
    """
    small = shrink(mask, SIDE, cv2.INTER_NEAREST)
    edges = np.zeros(small.shape, bool)
    edges[:, :-1] |= small[:, :-1] != small[:, 1:]
    edges[:-1] |= small[:-1] != small[1:]
    outline = np.argwhere(edges)[:, ::-1].astype(np.float32)
    soft = cv2.GaussianBlur(shrink(grey, SIDE), (0, 0), 1)
    slopes = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    steep = np.asarray(cv2.magnitude(*slopes), np.float32)
    steep = np.minimum(steep, np.percentile(steep, 99))
    if len(outline) < _FEWEST or steep.std() < 1e-6:
        return np.full(len(MOVES), np.nan)
    steep = (steep - steep.mean()) / steep.std()
    centre = (np.array(small.shape[::-1], np.float32) - 1) / 2
    points = outline[:: -(-len(outline) // _POINTS)] - centre
    places = points @ _LINEAR.transpose(0, 2, 1) + (_SHIFTS[:, None] + centre)
    x, y = np.ascontiguousarray(np.moveaxis(places, -1, 0))
    # outside of the image lies the mean, which is 0
    under = cv2.remap(steep, x, y, cv2.INTER_LINEAR)
    return np.asarray(np.asarray(under, np.float64).mean(1))


def judge_fit(domain: Numbers) -> str | None:
    """Whether masks were shifted, scaled, turned or flipped, from (G, K) of `measure_fit`.

    A domain is judged by itself: told if one move adds `GAIN` of the steepness that it reaches, in
    `STEADY` of the groups and beyond `CHANCE` (t-test over groups, each as a share of the most that
    it reaches). Sees shifts from 1 to 6 % of the longest side and scales by 10 to 20 % about the
    centre. Needs five groups. Does not see a change of one mask among many, nor anything where
    outlines follow no edge; takes outlines that are all drawn a tenth too wide around one centred
    object for scaled ones.
    """
    domain = domain[~np.isnan(domain).any(1)]
    if len(domain) < _LEAST_GROUPS:
        return None
    shares = domain / np.maximum(domain.max(1, keepdims=True), _FAINT)
    best = int(shares.mean(0).argmax())
    gain = shares[:, best] - shares[:, 0]
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    enough = max(GAIN * shares[:, best].mean(), stdtrit(len(gain) - 1, 1 - CHANCE) * error)
    if best and gain.mean() > enough and (gain > 0).mean() >= STEADY:
        return f"masks would fit their images better {MOVES[best]}"
    return None


def _moves() -> tuple[tuple[str, ...], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Names, (K, 2, 2) matrices and (K, 2) shifts in pixels of moves about the centre."""
    moves = [("as they are", np.eye(2), (0, 0))]
    for down, right in itertools.product(_STEPS, _STEPS):
        if right or down:
            shares = f"{100 * right / SIDE:+.1f} % and down by {100 * down / SIDE:+.1f} %"
            moves.append((f"shifted right by {shares} of the side", np.eye(2), (right, down)))
    moves += [(f"scaled by {scale:g}", np.eye(2) * scale, (0, 0)) for scale in _SCALES]
    for name, (quarters, flipped) in list(TURNS.items())[1:]:
        turned = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), quarters)
        moves.append((name, turned @ np.diag([-1 if flipped else 1, 1]), (0, 0)))
    names, linear, shifts = zip(*moves, strict=True)
    return names, np.array(linear, np.float32), np.array(shifts, np.float32)


MOVES, _LINEAR, _SHIFTS = _moves()
