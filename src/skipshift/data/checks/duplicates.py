"""Near-duplicate images: resized, cropped, rotated, flipped or recompressed copies.

SIFT keypoints (Lowe 2004) with RootSIFT descriptors (Arandjelovic and Zisserman 2012) are matched
between all images. Where several keypoints of two images match, the images are aligned and compared
pixel by pixel; only that comparison decides. What all pictures of a domain have in common at a
place does not take part.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.checks.common_detail import Shown, evidence
from skipshift.data.checks.thumbnails import Grey, to_grey
from skipshift.data.images import shrink

Floats = npt.NDArray[np.float32]

SIDE = 192
"""Longest side in pixels at which images are compared."""

KEYPOINTS = 64
"""Keypoints per image; 32 missed half of the crops to a quarter of the area."""

ALIKE = 0.75
"""Least correlation of fine detail between duplicates.

Over 881 real and synthetic images, copies (crops to half the side, resized by 0.5 to 1.5, JPEG
quality 30, flips, rotations) have 0.91 or more, and one that was cropped, flipped and compressed
0.78. Neighbouring slices of one heart have at most 0.69, other pairs at most 0.55. The same slice
at another phase has 0.98 and counts as a duplicate.
"""

OVERLAP = 0.2
"""Least overlap, as a fraction of the smaller image."""

SPREAD = 7.0
"""Least effective number of 16 x 16 blocks that the detail in the overlap fills.

Two or three objects of one shape can coincide by chance: this happened twice among 1,000 synthetic
smears, which share their cells, and filled 5.8 blocks. Copies fill 7.4 or more, except for one crop
of three nuclei.
"""

_BLOCK = 16
_SIMILAR = 0.8
_VOTES = 3
_DETAIL = 4.0
"""Standard deviation in pixels of the Gaussian blur that is subtracted to leave the detail."""


@dataclass(frozen=True)
class Signature:
    """What is kept of an image to find its duplicates, about 70 kB."""

    digest: bytes
    """Hash of the decoded pixels."""
    small: npt.NDArray[np.uint8]
    """(H, W) grey, stretched to full scale, sides of at most `SIDE`."""
    points: Floats
    """(K, 2) x and y of keypoints in ``small``."""
    descriptors: Floats
    """(K, 128) of unit length, mirrored where needed to be invariant to flips."""
    mirrored: npt.NDArray[np.bool_]
    """(K,) whether a descriptor was mirrored."""


@dataclass(frozen=True)
class DuplicatePair:
    """Two duplicate images, by their index."""

    first: int
    second: int
    exact: bool
    """Whether all pixels are equal."""


def compute_signature(image: npt.NDArray[Any]) -> Signature:
    """Compute the signature of an image (H, W, C), uint8 or uint16."""
    small = shrink(to_grey(image), SIDE)
    low, high = np.percentile(small[::4, ::4], [1, 99])
    # fewer than eight levels are not stretched, so that a flat image stays flat
    stretched = np.clip((small - low) * (255 / max(high - low, 8)), 0, 255).astype(np.uint8)
    digest = blake2b(repr(image.shape).encode() + image.tobytes()).digest()
    return Signature(digest, stretched, *_keypoints(stretched))


def _keypoints(
    small: npt.NDArray[np.uint8], shown: Shown | None = None
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Find points, descriptors and what is mirrored, as in `Signature`, where ``shown``."""
    sift = cv2.SIFT.create(KEYPOINTS, contrastThreshold=0.02)
    mask = None if shown is None else shown.astype(np.uint8)
    keypoints, raw = sift.detectAndCompute(small, mask)
    descriptors = np.zeros((0, 128), np.float32) if raw is None else raw[:KEYPOINTS]
    descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-6))
    mirrored = descriptors @ _HANDEDNESS < 0
    descriptors[mirrored] = descriptors[mirrored][:, _MIRROR]
    points = np.array([point.pt for point in keypoints[:KEYPOINTS]], np.float32).reshape(-1, 2)
    return points, descriptors, mirrored


def find_duplicates(
    signatures: Sequence[Signature], domains: Sequence[str] | None = None
) -> list[DuplicatePair]:
    """Find the pairs of images that are duplicates.

    ``domains`` names the domain of each; without it, all are of one. What most pictures of a domain
    have in common at a place is left out.

    Detects copies that were resized by 0.5 to 2, flipped, rotated, compressed or changed in
    contrast, and nine of ten that were cropped to a quarter of the area. Does not detect copies
    with fewer than three common keypoints, such as crops of empty or very repetitive images, nor
    sheared or deformed ones. Of many copies of one image, not every pair is listed, but every copy
    is in at least one. Two images that overlap by `OVERLAP` or more count as duplicates.
    """
    first: dict[bytes, int] = {}
    pairs = []
    for index, one in enumerate(signatures):
        origin = first.setdefault(one.digest, index)
        if origin != index:
            pairs.append(DuplicatePair(origin, index, exact=True))
    distinct = sorted(first.values())
    names = [domains[index] if domains is not None else "" for index in distinct]
    shown = evidence([signatures[index].small for index in distinct], names)
    kept = [_only(signatures[i], part) for i, part in zip(distinct, shown, strict=True)]
    alike = {
        (distinct[a], distinct[b])
        for a, b, pairing in _candidates(kept)
        if _is_duplicate((kept[a], shown[a]), (kept[b], shown[b]), pairing)
    }
    return pairs + [DuplicatePair(a, b, exact=False) for a, b in sorted(alike)]


def _only(signature: Signature, shown: Shown) -> Signature:
    """Find the keypoints of an image anew where it is evidence."""
    if shown.all():
        return signature
    points, descriptors, mirrored = _keypoints(signature.small, shown)
    return replace(signature, points=points, descriptors=descriptors, mirrored=mirrored)


def _candidates(
    signatures: Sequence[Signature],
) -> Iterator[tuple[int, int, npt.NDArray[np.int64]]]:
    """Pairs of images with enough matches, and the indices (V, 2) of the matched keypoints."""
    counts = np.array([len(one.points) for one in signatures], np.int64)
    if np.count_nonzero(counts) < 2:
        return
    owner = np.repeat(np.arange(len(signatures)), counts)
    rank = np.concatenate([np.arange(count) for count in counts])
    mirrored = np.concatenate([one.mirrored for one in signatures])
    nearest = _nearest(np.concatenate([one.descriptors for one in signatures]), owner)
    votes: defaultdict[tuple[int, int, bool], set[tuple[int, int]]] = defaultdict(set)
    for own in np.flatnonzero(nearest >= 0):
        other = nearest[own]
        pair = (own, other) if owner[own] < owner[other] else (other, own)
        key = (owner[pair[0]], owner[pair[1]], mirrored[own] != mirrored[other])
        votes[key].add((rank[pair[0]], rank[pair[1]]))
    for (a, b, _), pairing in votes.items():
        if len(pairing) >= _VOTES:
            yield int(a), int(b), np.array(sorted(pairing))


def _nearest(descriptors: Floats, owner: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Index (M,) of the most similar descriptor of another image; -1 where none is similar."""
    neighbours = min(6, len(descriptors))
    # the k-d trees are random, from OpenCV's global generator
    cv2.setRNGSeed(0)
    index = cv2.flann.Index(descriptors, {"algorithm": 1, "trees": 4})
    neighbour, squares = index.knnSearch(descriptors, neighbours, params={"checks": 64})
    foreign = owner[neighbour] != owner[:, None]
    usable = foreign & (squares <= 2 - 2 * _SIMILAR) & (neighbour >= 0)
    best = neighbour[np.arange(len(neighbour)), usable.argmax(1)]
    return np.where(usable.any(1), best, -1).astype(np.int64)


def _is_duplicate(
    one: tuple[Signature, Shown], other: tuple[Signature, Shown], pairing: npt.NDArray[np.int64]
) -> bool:
    (a, shown), (b, also_shown) = one, other
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
    overlap, correlation, spread = compare(*small, matrix, scale, (shown, also_shown))
    return overlap >= OVERLAP and correlation >= ALIKE and spread >= SPREAD


def compare(
    a: Grey,
    b: Grey,
    matrix: npt.NDArray[np.float64],
    scale: float,
    shown: tuple[Shown, Shown] | None = None,
) -> tuple[float, float, float]:
    """Warp ``a`` onto ``b`` by ``matrix`` and compare them at the coarser resolution of the two.

    ``shown`` is where each is evidence; without it, everywhere.

    Returns
    -------
    Overlap as a fraction of the smaller image, correlation of detail in it, and the effective
    number of blocks that the detail fills: (sum e)^2 / sum e^2 over the energies e of blocks.
    """
    size = b.shape[::-1]
    ratio = max(scale, 1 / scale)
    blur = max(0.5 * float(np.sqrt(ratio**2 - 1)), 0.1)
    if scale < 1:
        a = np.asarray(cv2.GaussianBlur(a, (0, 0), blur), np.float32)
    else:
        b = np.asarray(cv2.GaussianBlur(b, (0, 0), blur), np.float32)
    inside = (cv2.warpAffine(np.ones_like(a), matrix, size) > 0.999).astype(np.float32)
    overlap = float(inside.sum()) / min(a.size * scale**2, b.size)
    if shown is not None:
        inside *= cv2.warpAffine(shown[0].astype(np.float32), matrix, size) > 0.999
        inside *= shown[1]
    area = float(inside.sum())
    weight = np.maximum(cv2.GaussianBlur(inside, (0, 0), _DETAIL), 1e-3)
    detail = []
    for picture in (cv2.warpAffine(a, matrix, size), b):
        background = cv2.GaussianBlur(picture * inside, (0, 0), _DETAIL) / weight
        fine = (picture - background) * inside
        detail.append(fine - inside * (fine.sum() / max(area, 1)))
    energies = [float((fine**2).sum()) for fine in detail]
    if min(energies) < 1:
        return overlap, 0.0, 0.0
    correlation = float((detail[0] * detail[1]).sum() / np.sqrt(energies[0] * energies[1]))
    return overlap, correlation, min(_blocks(fine) for fine in detail)


def _blocks(detail: Grey) -> float:
    """Effective number of blocks with detail."""
    size = [max(1, side // _BLOCK) for side in detail.shape[::-1]]
    energy = np.asarray(cv2.resize(detail**2, size, interpolation=cv2.INTER_AREA), np.float64)
    return float(energy.sum() ** 2 / (energy**2).sum())


def _mirror_order() -> npt.NDArray[np.int64]:
    """Permutation of the entries of a SIFT descriptor when the image is mirrored.

    A descriptor has 4 x 4 cells (rows across the keypoint's direction) of 8 directions: mirroring
    reverses the rows and negates the directions.
    """
    cells = np.arange(128).reshape(4, 4, 8)
    return cells[::-1][:, :, -np.arange(8) % 8].ravel()


_MIRROR = _mirror_order()
_RANDOM = np.random.default_rng(0).normal(size=128).astype(np.float32)
_HANDEDNESS = _RANDOM - _RANDOM[_MIRROR]
"""A linear form that mirroring negates; its sign picks one of a descriptor and its mirror image."""
