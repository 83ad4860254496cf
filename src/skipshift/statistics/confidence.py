"""Confidence of a network's predictions, as histograms of log-odds by group and class."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
    """How sure a network is of a set of images: what every estimate of its IoU is made from."""

    counts: Histograms
    """(G, C, 2, 2, BINS), of each group; of images without masks none of a mask."""

    labelled: bool
    """Whether there were masks."""

    def of(self, groups: npt.NDArray[np.integer] | slice) -> "Confidence":
        """Those of some groups, in the order and as often as they are named."""
        return Confidence(self.counts[groups], self.labelled)


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


def true_counts(counts: Histograms) -> npt.NDArray[np.int64]:
    """Count true and false positives and false negatives (..., C, 3) of sets with masks."""
    pixels = counts.sum(-1)
    return np.stack([pixels[..., 1, 1], pixels[..., 1, 0], pixels[..., 0, 1]], -1)
