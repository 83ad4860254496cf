"""Confusion counts, which add up over cases and processes, and IoU and Dice from them."""

import numpy as np
import numpy.typing as npt

from skipshift.errors import ArgumentError

Counts = npt.NDArray[np.int64]
"""(..., C, 3): true positives, false positives, false negatives of each class, in pixels."""


def count(masks: npt.NDArray[np.uint8], predictions: npt.NDArray[np.uint8], classes: int) -> Counts:
    """Count the true positive, false positive and false negative pixels of each case and class.

    Parameters
    ----------
    masks, predictions
        (N, H, W) uint8 class indices below ``classes`` (at most 16 classes).

    Returns
    -------
    (N, C, 3) int64: tp, fp, fn.
    `ArgumentError` if the shapes differ, or a class index or ``classes`` is out of range.
    """
    if masks.shape != predictions.shape or masks.ndim != 3:
        raise ArgumentError(
            f"masks and predictions must have the same shape (N, H, W), "
            f"got {masks.shape} and {predictions.shape}"
        )
    if not 2 <= classes <= 16:
        raise ArgumentError(f"classes must be 2..16, got {classes}")
    if max(masks.max(initial=0), predictions.max(initial=0)) >= classes:
        raise ArgumentError(f"masks and predictions must hold class indices below {classes}")
    cells = masks * np.uint8(classes) + predictions
    confusion = np.stack([np.bincount(c.ravel(), minlength=classes**2) for c in cells])
    confusion = confusion.reshape(-1, classes, classes)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    return np.stack([hits, confusion.sum(1) - hits, confusion.sum(2) - hits], -1).astype(np.int64)


def iou(counts: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """Intersection over union TP / (TP + FP + FN) of (..., 3) counts; NaN where all are 0."""
    return ratio(counts[..., 0], counts.sum(-1))


def dice(counts: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """Dice 2 TP / (2 TP + FP + FN) of (..., 3) counts; NaN where all are 0."""
    return ratio(2 * counts[..., 0], counts.sum(-1) + counts[..., 0])


def ratio(part: npt.NDArray[np.number], whole: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """Divide sums of the same shape; NaN where the whole is 0."""
    empty = np.full(np.shape(whole), np.nan)
    quotient: npt.NDArray[np.float64] = np.divide(
        part, whole, out=empty, where=np.asarray(whole) > 0, dtype=np.float64
    )
    return quotient
