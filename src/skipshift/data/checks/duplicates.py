"""The same picture under two names: resized, cropped, turned, flipped or compressed again.

Keypoints of every picture (SIFT, Lowe 2004, as RootSIFT, Arandjelovic and Zisserman 2012) look for
their nearest among all other pictures; where several of one picture agree on another, both are laid
upon each other and compared pixel by pixel. Only that comparison decides.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.checks.thumbnails import Field, shrink, to_grey

SIDE = 192
"""Longest side, in pixels, at which pictures are compared."""

KEYPOINTS = 64
"""Keypoints of a picture; with 32 half of the crops to a quarter of the area were missed."""

ALIKE = 0.75
"""Correlation of fine detail from which two pictures are one.

Of 881 real and synthetic pictures, copies (crops to half the side, resized by 0.5 to 1.5, JPEG
quality 30, flips, turns) reach 0.91 or more, one that was cropped, flipped and compressed 0.78;
neighbouring slices of one heart at most 0.69, other pairs at most 0.55. The same slice at another
phase reaches 0.98: it is the same picture.
"""

OVERLAP = 0.2
"""Least share of the smaller picture that must lie on the other."""

SPREAD = 7.0
"""Least number of blocks of 16 x 16 pixels, in effect, that the detail in the overlap fills.

Two or three objects of one shape can lie alike by chance: among 1,000 synthetic smears, which share
their cells, they did twice and filled 5.8 blocks. Copies fill 7.4 or more, but for a crop of three
nuclei.
"""

_BLOCK = 16
_SIMILAR = 0.8
_VOTES = 3
_DETAIL = 4.0
"""Standard deviation in pixels of the blur that is taken away: what is left is detail."""


@dataclass(frozen=True)
class Descriptor:
    """What is kept of a picture to find its copies, about 70 kB."""

    digest: bytes
    """Hash of the decoded pixels."""
    small: npt.NDArray[np.uint8]
    """(H, W) grey, stretched to the full scale, sides at most `SIDE`."""
    points: Field
    """(K, 2) x and y of keypoints in ``small``."""
    descriptors: Field
    """(K, 128) of unit length, mirrored where that makes them canonical."""
    mirrored: npt.NDArray[np.bool_]
    """(K,) whether the descriptor was mirrored."""


@dataclass(frozen=True)
class Copy:
    """Two pictures that are one, by their place in the sequence."""

    first: int
    second: int
    exact: bool
    """Whether all pixels are the same."""


def fingerprint(image: npt.NDArray[Any]) -> Descriptor:
    """Describe an image (H, W, C), uint8 or uint16."""
    small = shrink(to_grey(image), SIDE)
    low, high = np.percentile(small[::4, ::4], [1, 99])
    # flat pictures stay flat: eight levels are the least that is stretched
    stretched = np.clip((small - low) * (255 / max(high - low, 8)), 0, 255).astype(np.uint8)
    sift = cv2.SIFT.create(KEYPOINTS, contrastThreshold=0.02)
    found, raw = sift.detectAndCompute(stretched, None)
    descriptors = np.zeros((0, 128), np.float32) if raw is None else raw[:KEYPOINTS]
    descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-6))
    mirrored = descriptors @ _HANDEDNESS < 0
    descriptors[mirrored] = descriptors[mirrored][:, _MIRROR]
    return Descriptor(
        blake2b(repr(image.shape).encode() + image.tobytes()).digest(),
        stretched,
        np.array([point.pt for point in found[:KEYPOINTS]], np.float32).reshape(-1, 2),
        descriptors,
        mirrored,
    )


def find_copies(prints: Sequence[Descriptor]) -> list[Copy]:
    """Find the pairs of pictures that are one.

    Sees copies after resizing (to a half or twofold), flips, turns, changes of contrast and
    compression, and nine of ten after cropping to a quarter of the area. Does not see: copies with
    fewer than three keypoints in common, such as crops of empty or of very repetitive pictures;
    those that were sheared or bent; every pair of many copies of one picture (each copy has at
    least one partner). Two pictures that overlap by `OVERLAP` or more count as copies, too.
    """
    first: dict[bytes, int] = {}
    pairs = []
    for index, one in enumerate(prints):
        origin = first.setdefault(one.digest, index)
        if origin != index:
            pairs.append(Copy(origin, index, exact=True))
    distinct = sorted(first.values())
    alike = {
        (distinct[a], distinct[b])
        for a, b, pairing in _candidates([prints[index] for index in distinct])
        if _is_copy(prints[distinct[a]], prints[distinct[b]], pairing)
    }
    return pairs + [Copy(a, b, exact=False) for a, b in sorted(alike)]


def _candidates(
    prints: Sequence[Descriptor],
) -> Iterator[tuple[int, int, npt.NDArray[np.int64]]]:
    """Pairs of pictures, and (V, 2) their keypoints that found each other."""
    counts = np.array([len(one.points) for one in prints], np.int64)
    if np.count_nonzero(counts) < 2:
        return
    owner = np.repeat(np.arange(len(prints)), counts)
    place = np.concatenate([np.arange(count) for count in counts])
    mirrored = np.concatenate([one.mirrored for one in prints])
    nearest = _nearest(np.concatenate([one.descriptors for one in prints]), owner)
    votes: defaultdict[tuple[int, int, bool], set[tuple[int, int]]] = defaultdict(set)
    for own in np.flatnonzero(nearest >= 0):
        other = nearest[own]
        pair = (own, other) if owner[own] < owner[other] else (other, own)
        key = (owner[pair[0]], owner[pair[1]], mirrored[own] != mirrored[other])
        votes[key].add((place[pair[0]], place[pair[1]]))
    for (a, b, _), pairing in votes.items():
        if len(pairing) >= _VOTES:
            yield int(a), int(b), np.array(sorted(pairing))


def _nearest(descriptors: Field, owner: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(M,) the most similar descriptor of another picture; -1 where none is similar."""
    neighbours = min(6, len(descriptors))
    # the forest of k-d trees is drawn from OpenCV's own generator
    cv2.setRNGSeed(0)
    index = cv2.flann.Index(descriptors, {"algorithm": 1, "trees": 4})
    found, squares = index.knnSearch(descriptors, neighbours, params={"checks": 64})
    usable = (owner[found] != owner[:, None]) & (squares <= 2 - 2 * _SIMILAR) & (found >= 0)
    best = found[np.arange(len(found)), usable.argmax(1)]
    return np.where(usable.any(1), best, -1).astype(np.int64)


def _is_copy(a: Descriptor, b: Descriptor, pairing: npt.NDArray[np.int64]) -> bool:
    points, others = a.points[pairing[:, 0]], b.points[pairing[:, 1]]
    mirrored = a.mirrored[pairing[0, 0]] != b.mirrored[pairing[0, 1]]
    sign = np.array([-1 if mirrored else 1, 1], np.float32)
    matrix, _ = cv2.estimateAffinePartial2D(
        points * sign, others, ransacReprojThreshold=3, maxIters=500
    )
    if matrix is None:
        return False
    matrix = matrix * [*sign, 1]
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if not 0.2 < scale < 5:
        return False
    small = a.small.astype(np.float32), b.small.astype(np.float32)
    overlap, correlation, spread = compare(*small, matrix, scale)
    return overlap >= OVERLAP and correlation >= ALIKE and spread >= SPREAD


def compare(
    a: Field, b: Field, matrix: npt.NDArray[np.float64], scale: float
) -> tuple[float, float, float]:
    """Lay ``a`` upon ``b``, at the coarser of their two resolutions.

    Returns
    -------
    Share of the smaller that overlaps, correlation of detail there, and the number of blocks that
    the detail fills in effect: (sum e)^2 / sum e^2 of the energies e of blocks.
    """
    size = b.shape[::-1]
    ratio = max(scale, 1 / scale)
    blur = max(0.5 * float(np.sqrt(ratio**2 - 1)), 0.1)
    if scale < 1:
        a = np.asarray(cv2.GaussianBlur(a, (0, 0), blur), np.float32)
    else:
        b = np.asarray(cv2.GaussianBlur(b, (0, 0), blur), np.float32)
    inside = (cv2.warpAffine(np.ones_like(a), matrix, size) > 0.999).astype(np.float32)
    area = float(inside.sum())
    overlap = area / min(a.size * scale**2, b.size)
    weight = np.maximum(cv2.GaussianBlur(inside, (0, 0), _DETAIL), 1e-3)
    detail = []
    for picture in (cv2.warpAffine(a, matrix, size), b):
        ground = cv2.GaussianBlur(picture * inside, (0, 0), _DETAIL) / weight
        fine = (picture - ground) * inside
        detail.append(fine - inside * (fine.sum() / max(area, 1)))
    energies = [float((fine**2).sum()) for fine in detail]
    if min(energies) < 1:
        return overlap, 0.0, 0.0
    correlation = float((detail[0] * detail[1]).sum() / np.sqrt(energies[0] * energies[1]))
    return overlap, correlation, min(_blocks(fine) for fine in detail)


def _blocks(detail: Field) -> float:
    size = [max(1, side // _BLOCK) for side in detail.shape[::-1]]
    energy = np.asarray(cv2.resize(detail**2, size, interpolation=cv2.INTER_AREA), np.float64)
    return float(energy.sum() ** 2 / (energy**2).sum())


def _mirror_order() -> npt.NDArray[np.int64]:
    """Where the entries of a SIFT descriptor go when its picture is mirrored.

    A descriptor holds 4 x 4 cells (rows across the keypoint's direction) of 8 directions: the rows
    change places, and a direction becomes its negative.
    """
    cells = np.arange(128).reshape(4, 4, 8)
    return cells[::-1][:, :, -np.arange(8) % 8].ravel()


_MIRROR = _mirror_order()
_RANDOM = np.random.default_rng(0).normal(size=128).astype(np.float32)
_HANDEDNESS = _RANDOM - _RANDOM[_MIRROR]
"""Changes sign with the mirror image: a descriptor and its mirror image are made one by it."""
