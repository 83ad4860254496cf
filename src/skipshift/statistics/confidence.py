"""Confidence of a network, as histograms of log-odds by group and class, and others' agreement."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skipshift.names import LARGEST_LABEL
from skipshift.statistics.counts import Counts, count

BINS = 112
"""Bins of the log-odds; the first and the last also count all values beyond them."""

WIDTH = 0.25
"""Width of a bin. The log-odds of a probability of 0.5 are 0, those of 1 - 1e-6 are 13.8."""

CENTRES = (np.arange(BINS) - BINS / 2 + 0.5) * WIDTH
"""(BINS,): log-odds in the middle of each bin."""

Histograms = npt.NDArray[np.int64]
"""(..., C, 2, 2, BINS): pixels by class, whether it is predicted, whether the mask has it, bin."""


@dataclass(frozen=True)
class Confidence:
    """How sure a network is of images: what every estimate of its IoU is made from.

    The first axis is that of groups, or of sets; both fields are sums over pixels.
    """

    counts: Histograms
    """(G, C, 2, 2, BINS); of images without masks none of a mask."""

    agreed: Counts | None = None
    """(G, P, C, 3) against the predictions of each of P peers in place of masks; None of none."""

    def of(self, part: npt.NDArray[np.generic] | slice | int) -> "Confidence":
        """Select groups, in the order and as often as they are named, or a single one."""
        return self._each(lambda counts: counts[part])

    def total(self) -> "Confidence":
        """Sum over all groups."""
        return self._each(lambda counts: counts.sum(0))

    def _each(self, change: Callable[[Counts], Counts]) -> "Confidence":
        return Confidence(change(self.counts), None if self.agreed is None else change(self.agreed))


def stacked(parts: Sequence[Confidence]) -> Confidence:
    """Join several, all with as many peers, along a new first axis."""
    agreed = [part.agreed for part in parts if part.agreed is not None]
    return Confidence(
        np.stack([part.counts for part in parts]), np.stack(agreed) if agreed else None
    )


def histograms(
    bins: npt.NDArray[np.integer],
    predictions: npt.NDArray[np.uint8],
    masks: npt.NDArray[np.uint8] | None = None,
    ignore: int | None = None,
) -> Histograms:
    """Count the pixels of each image.

    Parameters
    ----------
    bins
        (N, C, P): bin of the log-odds of each class at each of P pixels.
    predictions, masks
        (N, P): class of each pixel.
    ignore
        Value of pixels of the masks that are not counted.

    Returns
    -------
    (N, C, 2, 2, BINS) int64.
    """
    images, classes, _ = bins.shape
    found = np.zeros((images, classes, 4 * BINS), np.int64)
    for image in range(images):
        kept = slice(None) if masks is None or ignore is None else masks[image] != ignore
        for c in range(classes):
            cells = bins[image, c].astype(np.int64) + 2 * BINS * (predictions[image] == c)
            if masks is not None:
                cells += BINS * (masks[image] == c)
            found[image, c] = np.bincount(cells[kept], minlength=4 * BINS)
    return found.reshape(images, classes, 2, 2, BINS)


def agreement(
    predictions: npt.NDArray[np.uint8],
    others: npt.NDArray[np.uint8],
    classes: int,
    masks: npt.NDArray[np.uint8] | None = None,
    ignore: int | None = None,
) -> Counts:
    """Count the pixels of each image as if the predictions of another network were its mask.

    Parameters
    ----------
    predictions, others, masks
        (N, ...): class of each pixel.
    classes
        Number of classes C.
    ignore
        Value of pixels of the masks that are not counted.

    Returns
    -------
    (N, C, 3) int64: pixels of a class in both predictions, in the first alone, and in the other.
    """
    if masks is not None and ignore is not None:
        others = np.where(masks == ignore, np.uint8(LARGEST_LABEL), others)
    rows = (len(predictions), 1, -1)
    return count(others.reshape(rows), predictions.reshape(rows), classes, LARGEST_LABEL)


def true_counts(counts: Histograms) -> npt.NDArray[np.int64]:
    """Count true and false positives and false negatives (..., C, 3) of sets with masks."""
    pixels = counts.sum(-1)
    return np.stack([pixels[..., 1, 1], pixels[..., 1, 0], pixels[..., 0, 1]], -1)
