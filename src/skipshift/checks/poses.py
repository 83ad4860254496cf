"""Whether images are turned or flipped, or their objects larger, than in training."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.checks.shrunk import Field
from skipshift.checks.values import differs

Numbers = npt.NDArray[np.float64]

SIDE = 16
"""Side of the small pictures whose mean over a group is its pose."""

STEADY = 0.9
"""Share of the training's groups that must know their own way up; real heart slices reach 1."""

LARGER = 1.6
"""Ratio of objects' diameters that is told where spacings are not known."""

SPACING = 1.25
"""Ratio of pixel spacings that is told."""

_LEAST_GROUPS = 3
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


def measure_pose(grey: Field, mask: npt.NDArray[np.uint8]) -> Numbers:
    """Shrink (H, W) and its mask to small pictures of mean 0 and norm 1: (2, 16, 16)."""
    small = [
        cv2.resize(field.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        for field in (grey, mask)
    ]
    return np.stack([_scaled(field.astype(np.float64)) for field in small])


def measure_size(mask: npt.NDArray[np.uint8]) -> float:
    """Median diameter in pixels of the connected objects of a mask (H, W); NaN without any.

    That of a disc of the same area; objects below 16 pixels are left out.
    """
    count, _, stats, _ = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8))
    areas = stats[1:count, cv2.CC_STAT_AREA]
    areas = areas[areas >= _SMALLEST]
    return float(np.median(np.sqrt(4 * areas / np.pi))) if len(areas) else float("nan")


def judge_pose(reference: Numbers, domain: Numbers) -> str | None:
    """Whether images are turned or flipped, from (G, 2, 16, 16) means of `measure_pose`.

    Each group of the training is compared with the mean of the others in all eight positions. Only
    where nine of ten groups then know their own way up is anything said: of cells and tissue,
    which have none, nothing. Told if nine of ten groups of the domain fit better in one other
    position, by half as much as the training's groups prefer theirs. Needs three groups in
    training and two in the domain.
    """
    if len(reference) < _LEAST_GROUPS or len(domain) < 2:
        return None
    others = (reference.sum(0) - reference) / (len(reference) - 1)
    own = np.stack([_fits(*pair) for pair in zip(reference, others, strict=True)])
    lead = own[:, 0] - own[:, 1:].max(1)
    if (lead > 0).mean() < STEADY:
        return None
    fits = np.stack([_fits(pose, reference.mean(0)) for pose in domain])
    best = int(fits.mean(0).argmax())
    gain = fits[:, best] - fits[:, 0]
    if best and (gain > 0).mean() >= STEADY and gain.mean() > 0.5 * lead.mean():
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


def _fits(pose: Numbers, template: Numbers) -> Numbers:
    """Correlation of a pose with a template, mean of image and mask, in all eight positions."""
    return np.array([(turn(pose, name) * template).sum() for name in TURNS]) / len(pose)


def turn(fields: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Bring (..., H, W) into one of the positions of `TURNS`."""
    quarters, flipped = TURNS[name]
    fields = fields[..., ::-1] if flipped else fields
    return np.rot90(fields, quarters, axes=(-2, -1))


def _scaled(field: Numbers) -> Numbers:
    field = field - field.mean()
    norm = np.sqrt((field**2).sum())
    return field / norm if norm > 1e-6 else field * 0
