"""Volumes, read frame by frame, with one in-plane orientation for all scanners.

Scanners store slices rotated by quarter turns and mirrored against each other. Here the columns of
every slice run towards the patient's left and the rows towards posterior and inferior, as closely
as the stored axes allow. nibabel's closest canonical orientation would not do: a short-axis plane
is about equally close to several axes of the body, so the slice axis would vary between patients.
"""

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skipshift.data.itk import read_itk
from skipshift.errors import SkipshiftError, unreadable
from skipshift.extras import load_extra

NIFTI = (".nii", ".nii.gz", ".img")
ITK = (".mha", ".mhd", ".nrrd", ".nhdr", ".dcm")
"""Endings that SimpleITK reads; it reads the DICOM files of a folder too."""

ENDINGS = (*NIFTI, *ITK)

ALIKE = 1e-3
"""Voxels by which the grids of a mask and its image may differ: the rounding of their headers."""

Values = npt.NDArray[Any]

_RESAMPLE = "resample the mask to the grid of its image, or correct its affine"


@dataclass(frozen=True)
class Plane:
    """In-plane orientation: how a stored slice (X, Y) becomes rows and columns."""

    rows: int = 1
    """Stored axis, 0 or 1, that the row index follows; the column index follows the other one."""

    flips: tuple[bool, bool] = (False, False)
    """Whether rows and columns are reversed."""


@dataclass(frozen=True)
class Turn:
    """How the stored axes of a volume become those of another one."""

    axes: tuple[int, ...] = (0, 1, 2)
    """Stored axis that becomes the first, second and third one."""

    flips: tuple[bool, ...] = (False, False, False)
    """Whether each of them is then reversed."""

    def apply(self, stored: Values) -> Values:
        """Turn an array (X, Y, Z)."""
        turned = stored.transpose(self.axes)
        return turned[tuple(slice(None, None, -1 if flip else None) for flip in self.flips)]

    def matrix(self, shape: Sequence[int]) -> Values:
        """(4, 4): indices after the turn to those of the stored array, whose shape is given."""
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for new, (old, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            matrix[old, new] = -1 if flip else 1
            matrix[old, 3] = shape[old] - 1 if flip else 0
        return matrix


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume whose frames are read lazily."""

    path: Path
    data: Any
    """Array or array proxy, (X, Y), (X, Y, Z) or (X, Y, Z, T)."""

    affine: Values
    """(4, 4): stored indices to millimetres in RAS."""

    placed: bool
    """Whether the header says where the volume lies."""

    plane: Plane = Plane()
    turn: Turn = Turn()

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Spacing of rows and of columns in millimetres; None if the header has no affine."""
        if np.array_equal(self.affine[:3, :3], np.eye(3)):
            return None
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(sizes[self.plane.rows]), float(sizes[1 - self.plane.rows])

    @property
    def shape(self) -> tuple[int, ...]:
        """(X, Y, Z, T) after the turn; missing dimensions are 1."""
        stored = (*self.data.shape, 1, 1)[: max(4, self.data.ndim)]
        return (*(stored[axis] for axis in self.turn.axes), *stored[3:])

    def frame(self, time: int) -> Values:
        """Read one frame (Z, H, W), and only this; `SkipshiftError` if it is broken."""
        part = (..., time) if self.data.ndim == 4 else ...
        try:
            stored = np.asarray(self.data[part])
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise unreadable(self.path, "a NIfTI volume", error) from None
        turned = self.turn.apply(np.atleast_3d(stored))
        slices = turned.transpose(2, self.plane.rows, 1 - self.plane.rows)
        down, right = (slice(None, None, -1 if flip else None) for flip in self.plane.flips)
        return slices[:, down, right]


def open_volume(path: Path) -> Volume:
    """Open a volume; `SkipshiftError` if it is missing, broken or not 2-D to 4-D real numbers."""
    itk = path.is_dir() or path.name.lower().endswith(ITK)
    volume = Volume(path, *read_itk(path)) if itk else _open_nifti(path)
    if not 2 <= volume.data.ndim <= 4:
        raise SkipshiftError(
            f"{path}: a volume must have 2 to 4 dimensions, got {volume.data.ndim}"
        )
    if np.dtype(volume.data.dtype).kind not in "buif":
        raise SkipshiftError(
            f"{path}: has voxels of type {volume.data.dtype}; save one real number per voxel"
        )
    return replace(volume, plane=plane_of(volume.affine)) if volume.spacing else volume


def _open_nifti(path: Path) -> Volume:
    nibabel = load_extra("nibabel", "nifti")
    faults = (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError)
    try:
        # kept open, because a compressed file would be decompressed from its start for every frame
        image = nibabel.load(path, keep_file_open=True)
    except (OSError, EOFError, ValueError, zlib.error, *faults) as error:
        raise unreadable(path, "a NIfTI volume", error) from None
    affine = np.asarray(image.affine, dtype=np.float64)
    codes = [image.header.get(name, 1) for name in ("sform_code", "qform_code")]
    placed = any(codes) and not np.array_equal(affine, np.eye(4))
    return Volume(path, image.dataobj, affine, placed)


def on_grid_of(mask: Volume, image: Volume) -> Volume:
    """Bring a mask to the axes of its image by the affines of both.

    A volume without a place is taken to be stored like the other one. `SkipshiftError` if the
    corners of both grids of one shape are more than `ALIKE` voxels apart.
    """
    if not (mask.placed and image.placed):
        return replace(mask, plane=image.plane)
    steps = np.linalg.solve(image.affine, mask.affine)[:3, :3]
    order = np.abs(steps).argmax(1)
    if sorted(order) != [0, 1, 2]:
        raise SkipshiftError(f"{mask.path}: lies askew to its image; {_RESAMPLE}")
    flips = steps[np.arange(3), order] < 0
    turn = Turn(tuple(map(int, order)), tuple(map(bool, flips)))
    turned = replace(mask, turn=turn, plane=image.plane)
    if turned.shape[:3] == image.shape[:3]:
        ends = itertools.product(*((0, side - 1) for side in image.shape[:3]))
        corners = np.array([(*corner, 1) for corner in ends], float).T
        matrix = mask.affine @ turn.matrix((*mask.data.shape, 1)[:3])
        apart = float(np.abs(np.linalg.solve(image.affine, matrix) @ corners - corners).max())
        if not apart <= ALIKE:
            raise SkipshiftError(
                f"{mask.path}: lies up to {apart:.3g} voxels from its image by the affines in both "
                f"headers; {_RESAMPLE}"
            )
    return turned


def plane_of(affine: Values) -> Plane:
    """Find the orientation of the plane of the first two axes.

    >>> plane_of(np.diag([-1.5, -1.5, 10, 1]))
    Plane(rows=1, flips=(False, False))
    """
    axes = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    rows = int(abs(axes[0, 0]) >= abs(axes[0, 1]))
    down, right = axes[:, rows], axes[:, 1 - rows]
    return Plane(rows, (bool(down[1] + down[2] > 0), bool(right[0] > 0)))


def spacing_text(volume: Volume) -> str:
    """Format the spacing for the manifest: rows x columns in millimetres, empty if unknown."""
    return "" if volume.spacing is None else "x".join(f"{side:.5g}" for side in volume.spacing)


def open_single_frame(path: Path) -> Volume:
    """Open a volume of one frame; `SkipshiftError` as `open_volume`, and if it has several."""
    volume = open_volume(path)
    if volume.shape[3] != 1:
        raise SkipshiftError(
            f"{path}: has {volume.shape[3]} frames; save each as a volume of its own"
        )
    return volume
