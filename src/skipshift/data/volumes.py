"""NIfTI volumes, read frame by frame, their slices turned the same way for every scanner.

Scanners store the plane of a slice turned by quarters and mirrored against each other. Here the
columns of every slice run towards the patient's left and its rows towards posterior and inferior,
as nearly as the volume's own axes allow. The closest canonical volume would not do: a short-axis
plane lies about as near to one axis of the body as to the next, so the axis of the slices would be
another one from patient to patient.
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
    """How a stored slice (X, Y) becomes rows and columns."""

    rows: int = 1
    """Stored axis that runs along the rows' index, 0 or 1; the other one runs along columns."""

    flips: tuple[bool, bool] = (False, False)
    """Whether rows and columns are reversed."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A NIfTI file whose frames are read when they are asked for."""

    path: Path
    data: Any
    """Array proxy, (X, Y), (X, Y, Z) or (X, Y, Z, T)."""

    plane: Plane

    affine: Values
    """(4, 4), from stored indices to millimetres in RAS."""

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Millimetres between rows and between columns; None where the header says nothing."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        if np.array_equal(self.affine[:3, :3], np.eye(3)):
            return None
        return float(sizes[self.plane.rows]), float(sizes[1 - self.plane.rows])

    def same_grid(self, other: "Volume") -> bool:
        """Whether two headers put the voxels at the same places, to a tenth of a millimetre."""
        return np.allclose(self.affine, other.affine, rtol=0, atol=0.1)

    @property
    def shape(self) -> tuple[int, ...]:
        """(X, Y, Z, T) as stored."""
        return (*self.data.shape, 1, 1)[: max(4, self.data.ndim)]

    def frame(self, time: int) -> Values:
        """Read one frame, (Z, H, W), and nothing else of the file into memory."""
        part = (..., time) if self.data.ndim == 4 else ...
        try:
            stored = np.asarray(self.data[part])
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise _unreadable(self.path, error) from None
        slices = np.atleast_3d(stored).transpose(2, self.plane.rows, 1 - self.plane.rows)
        down, right = (slice(None, None, -1 if flip else None) for flip in self.plane.flips)
        return slices[:, down, right]


def open_volume(path: Path) -> Volume:
    """Read a NIfTI file's header; `SkipshiftError` if it is absent, broken or beyond 4-D."""
    nibabel = load_extra("nibabel", "nifti")
    faults = (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError)
    try:
        # frames of a compressed file are read in order: an open file need not start again
        image = nibabel.load(path, keep_file_open=True)
    except (OSError, EOFError, ValueError, zlib.error, *faults) as error:
        raise _unreadable(path, error) from None
    if not 2 <= len(image.shape) <= 4:
        raise SkipshiftError(f"{path}: a volume has 2 to 4 dimensions, got {len(image.shape)}")
    affine = np.asarray(image.affine, dtype=np.float64)
    volume = Volume(path, image.dataobj, Plane(), affine)
    return replace(volume, plane=plane_of(affine)) if volume.spacing else volume


def plane_of(affine: Values) -> Plane:
    """Find how the plane of the first two axes is turned.

    >>> plane_of(np.diag([-1.5, -1.5, 10, 1]))
    Plane(rows=1, flips=(False, False))
    """
    axes = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    rows = int(abs(axes[0, 0]) >= abs(axes[0, 1]))
    down, right = axes[:, rows], axes[:, 1 - rows]
    return Plane(rows, (bool(down[1] + down[2] > 0), bool(right[0] > 0)))


def spacing_text(volume: Volume) -> str:
    """Write the spacing as the manifest does, rows x columns in millimetres, or nothing."""
    return "" if volume.spacing is None else "x".join(f"{side:.5g}" for side in volume.spacing)


def _unreadable(path: Path, error: Exception) -> SkipshiftError:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    return SkipshiftError(f"{path}: cannot be read as a NIfTI volume: {reason}")
