"""Whether pixels or objects differ in size from those of training."""

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.checks.group_tests import Numbers, groups_differ

LARGER = 1.6
"""Ratio of object diameters from which they are reported."""

SPACING = 1.25
"""Ratio of pixel spacings from which they are reported."""

_SMALLEST = 16


def measure_object_size(mask: npt.NDArray[np.uint8]) -> float:
    """Median equivalent diameter in pixels of the objects of a mask (H, W); NaN without any.

    Objects are connected components of at least 16 pixels. Those that touch the border are left
    out, unless all do.
    """
    _, _, stats, _ = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8))
    left, top, width, height, area = stats[1:].T
    large = area >= _SMALLEST
    right, bottom = left + width, top + height
    whole = large & (left > 0) & (top > 0) & (right < mask.shape[1]) & (bottom < mask.shape[0])
    areas = area[whole if whole.any() else large]
    return float(np.median(np.sqrt(4 * areas / np.pi))) if len(areas) else float("nan")


def judge_object_size(reference: Numbers, domain: Numbers) -> str | None:
    """Judge whether objects differ in size, from (G,) and (G',) of `measure_object_size`.

    Stands in for the pixel spacing where a manifest has none. Another magnification and objects
    that are really larger look the same.
    """
    if np.isnan(reference).all() or np.isnan(domain).all():
        return None
    if not groups_differ((np.log(reference), np.log(domain)), np.log(LARGER)):
        return None
    other, own = np.nanmedian(domain), np.nanmedian(reference)
    return f"objects are {other:.0f} pixels wide, in training {own:.0f}"


def judge_spacing(reference: Numbers, domain: Numbers) -> str | None:
    """Judge whether pixel spacings differ, from (G,) and (G',) of the column ``spacing``."""
    if np.isnan(reference).all() or np.isnan(domain).all():
        return None
    other, own = np.nanmedian(domain), np.nanmedian(reference)
    if abs(np.log(other / own)) <= np.log(SPACING):
        return None
    return f"the pixel spacing is {other:.3g}, in training {own:.3g}"
