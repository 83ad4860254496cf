"""What all pictures of a domain have in common at a place: frames, rims and burnt-in overlays.

It is no evidence that two of them are copies. Among 216 pictures with rims or overlays (drawn eyes,
hearts, smears, tissue), 40 of 4,740 pairs were called copies; without what they share, none. Of 140
copies of them (half the size, compressed, flipped, turned, cropped, brighter, all at once) 1 was
missed before and 2 are now.
"""

from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.checks.thumbnails import Grey

Shown = npt.NDArray[np.bool_]
"""(H, W): where a picture is evidence."""

FEWEST = 5
"""Pictures of one domain and size from which something can be common to them."""

SHARE = 0.8
"""Fraction of them that must have a detail in common."""

_MOST = 64
"""Pictures that are asked what is common; more would say the same."""

_DETAIL = 4.0
"""Standard deviation in pixels of the Gaussian blur that is subtracted to leave the detail, and of
the window in which it is compared."""

_ALIKE = 0.5
"""Least correlation of a picture's detail with the common one, within the window."""

_FAINT = 2.0
"""Least root mean square of common detail, in levels of 255."""

_REACH = 3
"""Width in pixels of what is hidden around a place."""


def evidence(pictures: Sequence[npt.NDArray[np.uint8]], domains: Sequence[str]) -> list[Shown]:
    """Find where each picture (H, W) is not what most others of its domain and size show there.

    True everywhere if there are fewer than `FEWEST` of them, or if more than half of the place
    would be hidden: that is a fixed scene, not a frame.
    """
    shown = [np.ones(picture.shape, np.bool_) for picture in pictures]
    alike: defaultdict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    for index, (picture, domain) in enumerate(zip(pictures, domains, strict=True)):
        alike[domain, picture.shape].append(index)
    for members in alike.values():
        if len(members) < FEWEST:
            continue
        asked = members[:: -(-len(members) // _MOST)]
        common = np.median([fine_detail(pictures[index]) for index in asked], axis=0)
        votes = np.mean([_has(pictures[index], common) for index in asked], axis=0)
        place = votes >= SHARE
        if not 0 < place.mean() < 0.5:
            continue
        for index in members:
            hidden = (place & _has(pictures[index], common)).astype(np.uint8)
            shown[index] = cv2.dilate(hidden, np.ones((_REACH, _REACH), np.uint8)) == 0
    return shown


def fine_detail(picture: npt.NDArray[np.uint8]) -> Grey:
    """Subtract the blurred picture (H, W)."""
    levels = picture.astype(np.float32)
    return levels - _blur(levels)


def _has(picture: npt.NDArray[np.uint8], common: Grey) -> Shown:
    """Where a picture has the common detail."""
    detail = fine_detail(picture)
    own, other = _blur(detail**2), _blur(common**2)
    correlation = _blur(detail * common) / np.sqrt(np.maximum(own * other, 1e-6))
    return np.asarray((correlation > _ALIKE) & (other > _FAINT**2))


def _blur(levels: npt.NDArray[np.float32]) -> Grey:
    return np.asarray(cv2.GaussianBlur(levels, (0, 0), _DETAIL), np.float32)
