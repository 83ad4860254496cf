"""Metrics of one segmented case beside its IoU, as sums that add up over cases.

Each metric of a case is a numerator and a denominator, so that pooling, a bootstrap and a
permutation test need no more than sums. Boundaries and surfaces are those of two-dimensional
images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from skipshift.errors import ArgumentError
from skipshift.names import SEGMENTATION_METRICS
from skipshift.statistics.counts import count

ALL = "all"
"""Class name of metrics of the whole image: of the most probable class, or of all of them."""

BINS = 15
"""Bins of equal width of the confidence, for the calibration error (Guo et al. 2017)."""

BOUNDARY = 0.02
"""Width of the band of the boundary IoU, as a fraction of the image's diagonal (Cheng 2021)."""

OVERLAP = 0.5
"""Least IoU of an object and its match (Kirillov et al. 2019, who ask for more than 0.5)."""

Mask = npt.NDArray[np.bool_]
Sums = npt.NDArray[np.float64]
"""(rows, parts, 2): numerator and denominator; a row a class, or one row of the whole image."""


@dataclass(frozen=True)
class Segmented:
    """One case with its prediction."""

    mask: npt.NDArray[np.uint8]
    """(H, W) class indices."""

    labels: npt.NDArray[np.uint8]
    """(H, W) predicted class indices."""

    classes: int

    probabilities: npt.NDArray[np.float32] | None = None
    """(C, H, W), adding up to 1 over the classes; needed by brier, ece and entropy."""

    tolerance: float = 2.0
    """Largest distance at which a point of a surface counts as found, in the unit of spacing."""

    spacing: tuple[float, float] = (1.0, 1.0)
    """Height and width of a pixel."""

    ignore: int | None = None
    """Value of pixels of the mask that are not counted. They are as if outside of the image, whose
    border is a boundary."""

    @cached_property
    def kept(self) -> Mask:
        """(H, W): False where a pixel is not counted."""
        kept: Mask = np.not_equal(self.mask, -1 if self.ignore is None else self.ignore)
        return kept

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """(C, 3): tp, fp, fn."""
        masks, labels = self.mask[None], self.labels[None]
        counts: npt.NDArray[np.int64] = count(masks, labels, self.classes, self.ignore)[0]
        return counts

    @property
    def pairs(self) -> list[tuple[Mask, Mask]]:
        """(H, W) mask and prediction of each class; both empty for a class that is ignored."""
        parts = [self.kept & (index != self.ignore) for index in range(self.classes)]
        return [
            ((self.mask == index) & part, (self.labels == index) & part)
            for index, part in enumerate(parts)
        ]


def iou(case: Segmented) -> Sums:
    """TP / (TP + FP + FN), in pixels: (C, 1, 2)."""
    tp, fp, fn = case.counts.T
    return _columns(tp, tp + fp + fn)


def dice(case: Segmented) -> Sums:
    """2 TP / (2 TP + FP + FN), in pixels: (C, 1, 2)."""
    tp, fp, fn = case.counts.T
    return _columns(2 * tp, 2 * tp + fp + fn)


def volume_bias(case: Segmented) -> Sums:
    """(FP - FN) / (TP + FN), in pixels: above 0 where too much is called the class. (C, 1, 2)."""
    tp, fp, fn = case.counts.T
    return _columns(fp - fn, tp + fn)


def boundary_iou(case: Segmented) -> Sums:
    """IoU of the bands along the inside of both boundaries (Cheng et al. 2021): (C, 1, 2).

    A band holds the pixels of a class nearer than 2 % of the image's diagonal to a pixel of another
    class or to the image's border, by chessboard distance as in the authors' code.
    """
    width = max(1, round(BOUNDARY * float(np.hypot(*case.mask.shape))))
    bands = [(inner_band(mask, width), inner_band(found, width)) for mask, found in case.pairs]
    return _columns([(a & b).sum() for a, b in bands], [(a | b).sum() for a, b in bands])


def inner_band(mask: Mask, width: int) -> Mask:
    """Pixels of a mask (H, W) at most ``width`` steps of a king's move from outside it."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    core = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    band: Mask = mask & (core == 0)
    return band


def surface_dice(case: Segmented) -> Sums:
    """Normalised surface distance at a tolerance (Nikolov et al. 2021): (C, 1, 2).

    Points of either surface within the tolerance of the other, over all points of both. A point is
    a pixel of the class with a neighbour of another class above, below, left or right of it, or
    outside the image; the distance is Euclidean, between centres of pixels.
    """
    near, points = [], []
    for pair in case.pairs:
        edges = [edge(mask) for mask in pair]
        near.append(sum(_near(a, b, case) for a, b in (edges, edges[::-1])))
        points.append(sum(int(each.sum()) for each in edges))
    return _columns(near, points)


def edge(mask: Mask) -> Mask:
    """Pixels of a mask (H, W) with one of their four neighbours outside it or the image."""
    edges: Mask = mask & ~ndimage.binary_erosion(mask)
    return edges


def _near(points: Mask, others: Mask, case: Segmented) -> int:
    """Count the points within the tolerance of the nearest of the others; 0 if there is none."""
    if not points.any() or not others.any():
        return 0
    far = ndimage.distance_transform_edt(~others, sampling=case.spacing)
    return int((far[points] <= case.tolerance).sum())


def object_f1(case: Segmented) -> Sums:
    """2 TP / (2 TP + FP + FN) of objects, matched one to one at an IoU of at least 0.5: (C, 1, 2).

    Objects are the connected parts of a class, diagonal neighbours included: cells that touch are
    one object. The matches are as many as can be made.
    """
    found = [match_objects(mask, labels) for mask, labels in case.pairs]
    return _columns([2 * hits for hits, _, _ in found], [a + b for _, a, b in found])


def match_objects(mask: Mask, labels: Mask) -> tuple[int, int, int]:
    """Match the objects of a mask (H, W) with those predicted: matches, objects of each."""
    (own, many), (found, others) = (ndimage.label(m, np.ones((3, 3))) for m in (mask, labels))
    if not many or not others:
        return 0, many, others
    cells = np.bincount((own * (others + 1) + found).ravel(), minlength=(many + 1) * (others + 1))
    areas = cells.reshape(many + 1, others + 1)
    shared = areas[1:, 1:]
    union = areas.sum(1)[1:, None] + areas.sum(0)[None, 1:] - shared
    fits = shared >= OVERLAP * union
    rows, columns = linear_sum_assignment(fits, maximize=True)
    return int(fits[rows, columns].sum()), many, others


def brier(case: Segmented) -> Sums:
    """Mean squared error of the probability of each class, in [0, 1] (Brier 1950): (C, 1, 2).

    Brier's own score is the sum over the classes.
    """
    truth = np.arange(case.classes)[:, None] == case.mask[case.kept]
    errors = (_soft(case) - truth) ** 2
    return _columns(errors.sum(1, dtype=np.float64), np.full(case.classes, truth.shape[1]))


def ece(case: Segmented) -> Sums:
    """Calibration error of the most probable class, expected (Guo et al. 2017): (1, 15, 2).

    A part is a bin [b, b + 1) / 15 of the confidence: confidence minus accuracy, summed over its
    pixels, and their number. The error is the sum of the absolute sums over that of the numbers.
    """
    confidence = _soft(case).max(0)
    right = (case.labels == case.mask)[case.kept]
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, confidence.astype(np.float64) - right, BINS)
    return np.stack([gaps, np.bincount(bins, minlength=BINS)], -1)[None].astype(np.float64)


def entropy(case: Segmented) -> Sums:
    """Mean entropy of a pixel's probabilities, in nats, at most log C: (1, 1, 2)."""
    p = _soft(case)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return _columns([-(p * logs).sum(dtype=np.float64)], [p.shape[1]])


def _soft(case: Segmented) -> npt.NDArray[np.float32]:
    """(C, pixels): probabilities where a pixel counts."""
    assert case.probabilities is not None
    soft: npt.NDArray[np.float32] = case.probabilities[:, case.kept]
    return soft


def _columns(above: Sequence[int] | Sums, below: Sequence[int] | Sums) -> Sums:
    return np.stack([above, below], -1).astype(np.float64)[:, None]


@dataclass(frozen=True)
class Metric:
    """How a metric is measured on a case, and how its cases are put together."""

    measure: Callable[[Segmented], Sums]

    worse: Literal["low", "high", "far"] = "low"
    """Whether low or high values are the worse, or those far from 0."""

    by_class: bool = True
    """Whether each class has a value, or the image as a whole."""

    soft: bool = False
    """Whether probabilities are needed."""

    binned: bool = False
    """Whether the sum of each part is made absolute before the parts are added up."""

    mean_of_groups: bool = False
    """Whether it is the mean over groups of the ratio of each group's sums."""

    range: Literal["share", "amount", "signed"] = "share"
    """Whether values lie in [0, 1], above 0, or on both sides of 0."""

    @property
    def compared(self) -> bool:
        """Whether networks are compared by it: a ratio of sums in [0, 1], better at one end."""
        return self.by_class and self.range == "share" and not self.binned


METRICS: Mapping[str, Metric] = {
    "iou": Metric(iou),
    "dice": Metric(dice),
    "group_dice": Metric(dice, mean_of_groups=True),
    "volume_bias": Metric(volume_bias, worse="far", range="signed"),
    "boundary_iou": Metric(boundary_iou),
    "surface_dice": Metric(surface_dice),
    "object_f1": Metric(object_f1),
    "brier": Metric(brier, worse="high", soft=True),
    "ece": Metric(ece, worse="high", by_class=False, soft=True, binned=True),
    "entropy": Metric(entropy, worse="high", by_class=False, soft=True, range="amount"),
}
"""Every metric by its name, in the order of `skipshift.names.SEGMENTATION_METRICS`."""


def measure_case(
    case: Segmented, metrics: Sequence[str], classes: Sequence[str]
) -> list[tuple[str, str, bool, int, float, float]]:
    """Measure one case: ``class, metric, present, part, numerator, denominator``.

    ``present`` says whether the class is in the case's mask. `ArgumentError` if a metric is unknown
    or needs probabilities that are not there.
    """
    rows = []
    held = np.bincount(case.mask[case.kept], minlength=len(classes)) > 0
    for name in metrics:
        if name not in METRICS:
            known = ", ".join(SEGMENTATION_METRICS)
            raise ArgumentError(f"metrics must be of {known}, got {name}")
        metric = METRICS[name]
        if metric.soft and case.probabilities is None:
            raise ArgumentError(f"{name} needs the probabilities of the classes")
        names = classes if metric.by_class else (ALL,)
        for index, (about, parts) in enumerate(zip(names, metric.measure(case), strict=True)):
            present = bool(held[index]) if metric.by_class else True
            rows += [
                (about, name, present, part, float(above), float(below))
                for part, (above, below) in enumerate(parts)
            ]
    return rows
