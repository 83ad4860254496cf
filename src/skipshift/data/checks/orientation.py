"""Whether images are turned or flipped, or their objects larger, than in training."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from skipshift.data.checks.thumbnails import Field
from skipshift.data.checks.value_range import differs

Numbers = npt.NDArray[np.float64]

SIDE = 16
"""Side of the small pictures whose mean over a group is its pose."""

KNOWN = 0.05
"""Largest p-value, against each other position, of the training's own: by t-tests over groups."""

CHANCE = 2e-3
"""Largest p-value of another position in a domain.

Halves of real sets (hearts, nuclei, tissue) against each other: none told in 100 draws each. Ten
Sunnybrook patients against ten others, turned or flipped: told in five of five positions.
"""

LARGER = 1.6
"""Ratio of objects' diameters that is told where spacings are not known."""

SPACING = 1.25
"""Ratio of pixel spacings that is told."""

_LEAST_GROUPS = 4
_SMALLEST = 16

TURNS = {
    "as they are": (0, False),
    "turned by 90 degrees": (1, False),
    "turned by 180 degrees": (2, False),
    "turned by 270 degrees": (3, False),
    "flipped left to right": (0, True),
    "transposed": (1, True),
    "flipped upside down": (2, True),
    "transposed across the second diagonal": (3, True),
}
"""Quarter turns anticlockwise, after a flip left to right where True."""


def measure_pose(grey: Field) -> Numbers:
    """Shrink (H, W) to what tells its position: (16, 16) of norm 1.

    The mean over all eight positions, which tells nothing, is taken away.
    """
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    small -= np.mean([turn(small, name) for name in TURNS], axis=0)
    norm = np.sqrt((small**2).sum())
    return small / norm if norm > 1e-6 else small * 0


def measure_size(mask: npt.NDArray[np.uint8]) -> float:
    """Median diameter in pixels of the connected objects of a mask (H, W); NaN without any.

    That of a disc of the same area. Objects below 16 pixels are left out, and those that the
    image's border cuts, unless it cuts all.
    """
    _, _, stats, _ = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8))
    left, top, width, height, area = stats[1:].T
    large = area >= _SMALLEST
    right, bottom = left + width, top + height
    whole = large & (left > 0) & (top > 0) & (right < mask.shape[1]) & (bottom < mask.shape[0])
    areas = area[whole if whole.any() else large]
    return float(np.median(np.sqrt(4 * areas / np.pi))) if len(areas) else float("nan")


def judge_pose(reference: Numbers, domain: Numbers) -> str | None:
    """Whether images are turned or flipped, from (G, 16, 16) means of `measure_pose`.

    Each group of the training is compared with the mean of the others in all eight positions. Only
    where they fit best as they are (`KNOWN`) is anything said: of cells and tissue, which have no
    way up, nothing. Told if the domain fits better in one other position beyond `CHANCE`,
    and by half as much as the training prefers its own. Needs four groups on both sides; is blind
    where scanners or readers left patients in several orientations.
    """
    if min(len(reference), len(domain)) < _LEAST_GROUPS:
        return None
    others = (reference.sum(0) - reference) / (len(reference) - 1)
    lead = -_gains(reference, others)[:, 1:]
    if not all(_sure(gain, KNOWN) for gain in lead.T):
        return None
    gains = _gains(domain, reference.mean(0))
    best = int(gains.mean(0).argmax())
    enough = 0.5 * lead[:, best - 1].mean()
    if best and _sure(gains[:, best], CHANCE) and gains[:, best].mean() > enough:
        return f"images would fit those of training better {list(TURNS)[best]}"
    return None


def judge_size(reference: Numbers, domain: Numbers) -> str | None:
    """Whether objects are larger or smaller in pixels, from (G,) means of `measure_size`.

    Stands in for the spacing of pixels where a manifest has none. Cannot tell another magnification
    from objects that are truly larger.
    """
    if np.isnan(reference).all() or np.isnan(domain).all():
        return None
    if not differs((np.log(reference), np.log(domain)), np.log(LARGER)):
        return None
    theirs, ours = np.nanmedian(domain), np.nanmedian(reference)
    return f"objects are {theirs:.0f} pixels wide, in training {ours:.0f}"


def judge_spacing(reference: Numbers, domain: Numbers) -> str | None:
    """Whether pixels are wider or narrower, from (G,) of the manifest's column ``spacing``."""
    if np.isnan(reference).all() or np.isnan(domain).all():
        return None
    theirs, ours = np.nanmedian(domain), np.nanmedian(reference)
    if abs(np.log(theirs / ours)) <= np.log(SPACING):
        return None
    return f"pixels are {theirs:.3g} apart, in training {ours:.3g}"


def _gains(poses: Numbers, templates: Numbers) -> Numbers:
    """How much better poses (G, 16, 16) fit templates in each position than as they are."""
    fits = [(turn(poses, name) * templates).mean((1, 2)) for name in TURNS]
    return np.asarray(np.stack(fits, axis=1) - fits[0][:, None])


def _sure(gains: Numbers, chance: float) -> bool:
    """Whether the mean of (G,) is above 0, by a one-sided t-test."""
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    return bool(gains.mean() > stdtrit(len(gains) - 1, 1 - chance) * error)


def turn(fields: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Bring (..., H, W) into one of the positions of `TURNS`."""
    quarters, flipped = TURNS[name]
    fields = fields[..., ::-1] if flipped else fields
    return np.rot90(fields, quarters, axes=(-2, -1))
