"""Files of any image format as stacks of slices: one of a picture, many of a volume."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skipshift.data import pages, volumes, zarrs
from skipshift.data.images import (
    image_shape,
    is_picture,
    read_array,
    read_native,
)
from skipshift.data.pages import CHANNELS, OBJECTS
from skipshift.data.volumes import Values, Volume, on_grid_of, open_single_frame, spacing_text
from skipshift.errors import SkipshiftError

PICTURES = (
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".pgm", ".ppm"
)  # fmt: skip
"""Endings that Pillow reads."""

ARRAYS = (".npy", ".npz")

ENDINGS = (*PICTURES, *ARRAYS, *volumes.ENDINGS, *zarrs.ENDINGS)

DOUBLE = (".nii.gz", ".ome.tif", ".ome.tiff", ".ome.zarr")
"""Endings of two parts, both of which a case's name lacks."""

WHOLE = 1e-3
"""Difference from a whole number that a mask may have: the rounding of floats."""

Numbers = npt.NDArray[np.int64]
Decode = Callable[[Path], Values]


@dataclass(frozen=True, eq=False)
class Slices:
    """The slices of one file."""

    pixels: Values
    """(Z, H, W, C) as stored."""

    volume: Volume | None = None
    """The volume that they are of."""

    @property
    def spacing(self) -> str:
        """Pixel spacing of a volume, as in the manifest."""
        return "" if self.volume is None else spacing_text(self.volume)


@dataclass(frozen=True, eq=False)
class LabelSlices:
    """The slices of one mask file."""

    layers: tuple[Numbers, ...]
    """(Z, H, W) each: one array, or one per page of objects."""

    placed: bool = True
    """Whether mask and image both say where they lie, where both are volumes."""


def is_volume(path: Path) -> bool:
    """Whether a path is that of a volume: a file, or a folder with a DICOM series."""
    return path.name.lower().endswith(volumes.ENDINGS) or (path.is_dir() and not is_zarr(path))


def is_zarr(path: Path) -> bool:
    """Whether a path is that of an OME-Zarr image, which is a folder."""
    return path.name.lower().endswith(zarrs.ENDINGS)


def read_slices(path: Path, kinds: Collection[str] = ()) -> Slices:
    """Read an image file as slices.

    ``kinds`` says what the pages of a TIFF file are. `SkipshiftError` if it is broken, if its
    dimensions do not fit, or if it has several pages and ``kinds`` does not say what they are.
    """
    if is_volume(path):
        volume = open_single_frame(path)
        return Slices(volume.frame(0)[..., None], volume)
    if path.suffix.lower() in ARRAYS:
        pixels = read_array(path)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.ndim != 3:
            raise SkipshiftError(f"{path}: must be (H, W) or (H, W, C), got {pixels.shape}")
        return Slices(pixels[None])
    stack = _read_stack(path, [kind for kind in kinds if kind != OBJECTS])
    return Slices(read_native(path, any_depth=True)[None] if stack is None else stack)


def shape_of(path: Path) -> tuple[int, int, int, int]:
    """Shape (Z, H, W, C) that `read_slices` gives; from the header alone, where there is one.

    `SkipshiftError` if the file cannot be read.
    """
    if is_volume(path):
        volume = open_single_frame(path)
        rows = volume.plane.rows
        return volume.shape[2], volume.shape[rows], volume.shape[1 - rows], 1
    if path.suffix.lower() in PICTURES and is_picture(path):
        return 1, *image_shape(path)
    depth, height, width, channels = read_slices(path).pixels.shape
    return depth, height, width, channels


def read_label_slices(
    path: Path, decode: Decode, image: Volume | None = None, kinds: Collection[str] = ()
) -> LabelSlices:
    """Read a mask file as slices of whole numbers.

    `SkipshiftError` as in `read_slices`, if a volume does not lie on its image, or if a value is
    more than `WHOLE` from a whole number.

    Parameters
    ----------
    decode
        Reader of pictures.
    image
        Volume of the image, to which a mask's volume is brought.
    """
    if is_volume(path):
        volume = open_single_frame(path)
        if image is None:
            return LabelSlices((_whole(volume.frame(0), path),))
        numbers = _whole(on_grid_of(volume, image).frame(0), path)
        return LabelSlices((numbers,), volume.placed and image.placed)
    if path.suffix.lower() in ARRAYS:
        array = read_array(path)
        if array.ndim != 2:
            raise SkipshiftError(f"{path}: a mask must be (H, W), got {array.shape}")
        return LabelSlices((_whole(array[None], path),))
    stack = _read_stack(path, [kind for kind in kinds if kind != CHANNELS])
    if stack is None:
        return LabelSlices((_whole(decode(path)[None], path),))
    if stack.shape[3] != 1:
        raise SkipshiftError(f"{path}: a mask must have one channel, got {stack.shape[3]}")
    whole = _whole(stack[..., 0], path)
    return LabelSlices(tuple(page[None] for page in whole) if OBJECTS in kinds else (whole,))


def _read_stack(path: Path, kinds: Collection[str]) -> Values | None:
    """Read what is more than one picture, (Z, H, W, C); None for a picture."""
    if is_zarr(path):
        return zarrs.read_zarr(path)
    if path.suffix.lower() not in pages.ENDINGS:
        return None
    foreign = not is_picture(path)
    return pages.read_pages(path, kinds, single=foreign) if kinds or foreign else None


def _whole(labels: Values, path: Path) -> Numbers:
    if labels.dtype.kind in "bui":
        return labels.astype(np.int64)
    whole = np.rint(labels)
    apart = np.abs(labels - whole)
    if not (apart <= WHOLE).all():
        value = labels.flat[int(np.argmax(~(apart <= WHOLE)))]
        raise SkipshiftError(
            f"{path}: a mask must contain whole numbers, got {value:.6g}; correct the file"
        )
    return whole.astype(np.int64)
