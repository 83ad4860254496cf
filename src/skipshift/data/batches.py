"""Batches of stored images, preprocessed each time they are read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skipshift.data.images import Pixels
from skipshift.data.manifest import Case
from skipshift.data.preprocess import Preprocess, prepare
from skipshift.progress import Progress, silent


@dataclass(frozen=True)
class Batches:
    """Images as batches for a network; a set can be read again, as often as it is needed."""

    images: npt.NDArray[Any]
    """(N, H, W, C), or volumes (N, D, H, W, C), as they are stored."""

    preprocess: Preprocess

    size: int
    """Images per batch."""

    label: str = ""
    """What the progress bar calls them."""

    progress: Progress = silent

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield float32 batches (N, C, H, W), or (N, C, D, H, W) of volumes."""
        starts = range(0, len(self.images), self.size)
        parts = [self.images[start : start + self.size] for start in starts]
        return (prepare(part, self.preprocess) for part in self.progress(parts, self.label))


def stack_cases(cases: Sequence[Case]) -> tuple[Pixels, Pixels, list[str]]:
    """Stack cases of one size: images (N, H, W, C), masks (N, H, W), and the group of each."""
    images = np.stack([case.image for case in cases])
    masks = np.stack([case.mask for case in cases])
    return images, masks, [case.group for case in cases]
