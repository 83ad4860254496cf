"""Confusion counts, which add up over cases and processes, and what is computed from them."""

import numpy as np
import numpy.typing as npt

from skipshift.errors import ArgumentError
from skipshift.names import MOST_CLASSES
from skipshift.validation import check_ignore

Counts = npt.NDArray[np.int64]
"""(..., C, 3): true positives, false positives, false negatives of each class, in pixels."""

Parts = npt.NDArray[np.float64]
"""(..., 2): what is divided, and by what; both add up over cases."""

_STEP = 2.0**-30
"""Scores of cases are rounded to multiples of this, so that sums are exact in any order."""


def count(
    masks: npt.NDArray[np.uint8],
    predictions: npt.NDArray[np.uint8],
    classes: int,
    ignore: int | None = None,
) -> Counts:
    """Count the true positive, false positive and false negative pixels of each case and class.

    Parameters
    ----------
    masks, predictions
        (N, H, W) uint8 class indices below ``classes``, of which there are at most 255.
    ignore
        Value of pixels of the masks that are not counted. If it is 0, background is no class, and
        its counts are 0.

    Returns
    -------
    (N, C, 3) int64: tp, fp, fn.
    `ArgumentError` if the shapes differ, or a class index, ``classes`` or ``ignore`` is out of
    range.
    """
    if masks.shape != predictions.shape or masks.ndim != 3:
        raise ArgumentError(
            f"masks and predictions must have the same shape (N, H, W), "
            f"got {masks.shape} and {predictions.shape}"
        )
    if not 2 <= classes <= MOST_CLASSES:
        raise ArgumentError(f"classes must be 2..{MOST_CLASSES}, got {classes}")
    check_ignore(ignore, classes)
    kept = True if ignore is None else masks != ignore
    if max(masks.max(initial=0, where=kept), predictions.max(initial=0)) >= classes:
        raise ArgumentError(
            f"masks and predictions must hold class indices below {classes}; set ignore to the "
            f"value of pixels that are not to be counted"
        )
    cells = masks * np.min_scalar_type(classes**2 - 1).type(classes) + predictions
    parts = zip(cells, np.broadcast_to(kept, cells.shape), strict=True)
    confusion = np.stack([np.bincount(cell[part], minlength=classes**2) for cell, part in parts])
    confusion = confusion.reshape(-1, classes, classes)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    counts = np.stack([hits, confusion.sum(1) - hits, confusion.sum(2) - hits], -1)
    if ignore == 0:
        counts[:, 0] = 0
    return counts.astype(np.int64)


def iou(counts: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """Intersection over union TP / (TP + FP + FN) of (..., 3) counts; NaN where all are 0."""
    return ratio(counts[..., 0], counts.sum(-1))


def dice(counts: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """Dice 2 TP / (2 TP + FP + FN) of (..., 3) counts; NaN where all are 0."""
    return ratio(2 * counts[..., 0], counts.sum(-1) + counts[..., 0])


def case_parts(counts: npt.NDArray[np.int64]) -> tuple[Parts, Parts]:
    """Numerators and denominators of the scores of cases, and of empty cases: (..., 3) counts.

    A case counts for the mean over cases if its *reference* has the class, whatever is predicted:
    a class that is missed scores 0. A case whose reference lacks the class is *empty* and is
    reported apart.

    Returns
    -------
    scores
        (..., 3, 2): of IoU of all cases together, mean IoU and mean Dice of single cases.
    empty
        (..., 2, 2): of the share of empty cases with any false positive, and of the mean area of
        false positives in an empty case, in pixels.
    """
    tp, fp, fn = np.moveaxis(counts.astype(np.float64), -1, 0)
    there, union = tp + fn > 0, tp + fp + fn
    each = [tp / np.maximum(union, 1), 2 * tp / np.maximum(union + tp, 1)]
    rounded = [np.round(np.where(there, score, 0) / _STEP) * _STEP for score in each]
    scores = np.stack([tp, *rounded], -1), np.stack([union, there, there], -1)
    empty = np.stack([~there & (fp > 0), np.where(there, 0, fp)], -1), np.stack([~there] * 2, -1)
    return np.stack(scores, -1).astype(np.float64), np.stack(empty, -1).astype(np.float64)


def constant_counts(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Count the constant predictions: (..., C, 3) of one case -> (..., C, C, 3).

    Row k calls every pixel class k: tp = reference, fp = pixels - reference, fn = 0, and misses all
    other classes. The pixels of a case are the sum of tp + fn over all classes, background too, so
    that ignored pixels do not count.
    """
    reference = counts[..., 0] + counts[..., 2]
    pixels = reference.sum(-1)
    same = np.eye(reference.shape[-1], dtype=bool)
    hit = np.where(same, reference[..., None, :], 0)
    false = np.where(same, (pixels[..., None] - reference)[..., None, :], 0)
    missed = np.where(same, 0, reference[..., None, :])
    return np.stack([hit, false, missed], -1)


def ratio(part: npt.NDArray[np.number], whole: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """Divide sums of the same shape; NaN where the whole is 0."""
    empty = np.full(np.shape(whole), np.nan)
    quotient: npt.NDArray[np.float64] = np.divide(
        part, whole, out=empty, where=np.asarray(whole) > 0, dtype=np.float64
    )
    return quotient
