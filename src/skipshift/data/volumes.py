"""NIfTI volumes, read frame by frame, with one in-plane orientation for all scanners.

Scanners store slices rotated by quarter turns and mirrored against each other. Here the columns of
every slice run towards the patient's left and the rows towards posterior and inferior, as closely
as the stored axes allow. nibabel's closest canonical orientation would not do: a short-axis plane
is about equally close to several axes of the body, so the slice axis would vary between patients.
"""

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skipshift.errors import SkipshiftError
from skipshift.extras import load_extra

ENDINGS = (".nii", ".nii.gz")

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Plane:
    """In-plane orientation: how a stored slice (X, Y) becomes rows and columns."""

    rows: int = 1
    """Stored axis, 0 or 1, that the row index follows; the column index follows the other one."""

    flips: tuple[bool, bool] = (False, False)
    """Whether rows and columns are reversed."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A NIfTI file whose frames are read lazily."""

    path: Path
    data: Any
    """Array proxy, (X, Y), (X, Y, Z) or (X, Y, Z, T)."""

    plane: Plane

    affine: Values
    """(4, 4): stored indices to millimetres in RAS."""

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Spacing of rows and of columns in millimetres; None if the header has no affine."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        if np.array_equal(self.affine[:3, :3], np.eye(3)):
            return None
        return float(sizes[self.plane.rows]), float(sizes[1 - self.plane.rows])

    def same_grid(self, other: "Volume") -> bool:
        """Whether two volumes have the same voxel grid, to a tenth of a millimetre."""
        return np.allclose(self.affine, other.affine, rtol=0, atol=0.1)

    @property
    def shape(self) -> tuple[int, ...]:
        """(X, Y, Z, T) as stored; missing dimensions are 1."""
        return (*self.data.shape, 1, 1)[: max(4, self.data.ndim)]

    def frame(self, time: int) -> Values:
        """Read one frame (Z, H, W), and only this; `SkipshiftError` if it is broken."""
        part = (..., time) if self.data.ndim == 4 else ...
        try:
            stored = np.asarray(self.data[part])
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise _unreadable(self.path, error) from None
        slices = np.atleast_3d(stored).transpose(2, self.plane.rows, 1 - self.plane.rows)
        down, right = (slice(None, None, -1 if flip else None) for flip in self.plane.flips)
        return slices[:, down, right]


def open_volume(path: Path) -> Volume:
    """Open a NIfTI file; `SkipshiftError` if it is missing, broken or not 2-D to 4-D."""
    nibabel = load_extra("nibabel", "nifti")
    faults = (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError)
    try:
        # kept open, because a compressed file would be decompressed from its start for every frame
        image = nibabel.load(path, keep_file_open=True)
    except (OSError, EOFError, ValueError, zlib.error, *faults) as error:
        raise _unreadable(path, error) from None
    if not 2 <= len(image.shape) <= 4:
        raise SkipshiftError(
            f"{path}: a volume must have 2 to 4 dimensions, got {len(image.shape)}"
        )
    affine = np.asarray(image.affine, dtype=np.float64)
    volume = Volume(path, image.dataobj, Plane(), affine)
    return replace(volume, plane=plane_of(affine)) if volume.spacing else volume


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


def _unreadable(path: Path, error: Exception) -> SkipshiftError:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    return SkipshiftError(f"{path}: cannot be read as a NIfTI volume: {reason}")


def open_single_frame(path: Path) -> Volume:
    """Open a volume of one frame; `SkipshiftError` as `open_volume`, and if it has several."""
    volume = open_volume(path)
    if volume.shape[3] != 1:
        raise SkipshiftError(
            f"{path}: has {volume.shape[3]} frames; save each as a volume of its own"
        )
    return volume
