"""Files of any image format as stacks of slices: one of an image, many of a NIfTI volume."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skipshift.data import volumes
from skipshift.data.images import read_array, read_native
from skipshift.data.volumes import Plane, Values, open_single_frame, spacing_text
from skipshift.errors import SkipshiftError

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy", *volumes.ENDINGS)

Decode = Callable[[Path], Values]


@dataclass(frozen=True, eq=False)
class Slices:
    """The slices of one file."""

    pixels: Values
    """(Z, H, W, C) as stored."""

    spacing: str
    """Pixel spacing of a NIfTI volume, as in the manifest."""

    plane: Plane | None
    """In-plane orientation that was given to a NIfTI volume."""


def read_slices(path: Path) -> Slices:
    """Read a file as slices; `SkipshiftError` if it is broken or its dimensions do not fit."""
    if path.name.lower().endswith(volumes.ENDINGS):
        volume = open_single_frame(path)
        return Slices(volume.frame(0)[..., None], spacing_text(volume), volume.plane)
    if path.suffix.lower() == ".npy":
        pixels = read_array(path)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            raise SkipshiftError(
                f"{path}: an image must be (H, W), (H, W, 1) or (H, W, 3), got {pixels.shape}"
            )
        return Slices(pixels[None], "", None)
    return Slices(read_native(path, floats=True)[None], "", None)


def read_label_slices(path: Path, decode: Decode, plane: Plane | None) -> npt.NDArray[np.int64]:
    """Read a mask file as slices (Z, H, W) of whole numbers.

    `SkipshiftError` if it is broken, its dimensions do not fit or a value is not whole.

    Parameters
    ----------
    decode
        Reader of PNG, TIFF, JPEG and BMP.
    plane
        Orientation of the image, to which a NIfTI mask is brought.
    """
    if path.name.lower().endswith(volumes.ENDINGS):
        volume = open_single_frame(path)
        labels = replace(volume, plane=plane or volume.plane).frame(0)
    elif path.suffix.lower() == ".npy":
        labels = read_array(path)[None]
        if labels.ndim != 3:
            raise SkipshiftError(f"{path}: a mask must be (H, W), got {labels.shape[1:]}")
    else:
        labels = decode(path)[None]
    whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels):
        raise SkipshiftError(f"{path}: a mask must contain whole numbers; correct the file")
    return whole
