"""The slices of a file of any format: an image or array is one slice, a NIfTI volume many."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skipshift.data import volumes
from skipshift.data.images import read_native
from skipshift.data.volumes import Plane, Values, Volume, open_volume, spacing_text
from skipshift.errors import SkipshiftError

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy", *volumes.ENDINGS)

Decode = Callable[[Path], Values]


@dataclass(frozen=True, eq=False)
class Slices:
    """What one file of images holds."""

    pixels: Values
    """(Z, H, W, C), numbers as stored."""

    spacing: str
    """Of a NIfTI volume, as in the manifest."""

    plane: Plane | None
    """How a NIfTI volume was turned."""


def read_slices(path: Path) -> Slices:
    """Read a file of images; `SkipshiftError` if it is broken or of other dimensions."""
    if path.name.lower().endswith(volumes.ENDINGS):
        volume = _open_still(path)
        return Slices(volume.frame(0)[..., None], spacing_text(volume), volume.plane)
    if path.suffix.lower() == ".npy":
        pixels = _load_array(path)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            raise SkipshiftError(
                f"{path}: an image is (H, W), (H, W, 1) or (H, W, 3), got {pixels.shape}"
            )
        return Slices(pixels[None], "", None)
    return Slices(read_native(path, floats=True)[None], "", None)


def read_label_slices(path: Path, decode: Decode, plane: Plane | None) -> npt.NDArray[np.int64]:
    """Read a file of masks as (Z, H, W) whole numbers.

    Parameters
    ----------
    decode
        What reads a PNG, TIFF, JPEG or BMP.
    plane
        How the image was turned, for a NIfTI volume to be turned alike.
    """
    if path.name.lower().endswith(volumes.ENDINGS):
        volume = _open_still(path)
        labels = replace(volume, plane=plane or volume.plane).frame(0)
    elif path.suffix.lower() == ".npy":
        labels = _load_array(path)[None]
        if labels.ndim != 3:
            raise SkipshiftError(f"{path}: a mask is (H, W), got {labels.shape[1:]}")
    else:
        labels = decode(path)[None]
    whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels):
        raise SkipshiftError(f"{path}: a mask holds whole numbers; correct the file")
    return whole


def _open_still(path: Path) -> Volume:
    volume = open_volume(path)
    if volume.shape[3] != 1:
        raise SkipshiftError(f"{path}: has {volume.shape[3]} frames; write each as a volume")
    return volume


def _load_array(path: Path) -> Values:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise SkipshiftError(f"{path}: cannot be read as an array: {reason}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif" or not array.size:
        raise SkipshiftError(f"{path}: is no array of numbers; save one with numpy.save")
    return array
