"""MetaImage, NRRD and DICOM by SimpleITK: one array with the affine of its header."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skipshift.errors import SkipshiftError, unreadable
from skipshift.extras import load_extra

Values = npt.NDArray[Any]

_PHOTOMETRIC = "0028|0004"
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def read_itk(path: Path) -> tuple[Values, Values, bool]:
    """Read a file, or the DICOM series of a folder.

    Returns
    -------
    Array (X, Y), (X, Y, Z) or (X, Y, Z, T); affine (4, 4) from its indices to millimetres in RAS;
    and whether the header says where the volume lies.

    `SkipshiftError` if the file is missing or broken, if it holds colours, or if the folder holds
    no series or several.
    """
    itk = load_extra("SimpleITK", "formats")
    if not path.exists():
        raise SkipshiftError(f"{path}: does not exist")
    source = _series(itk, path) if path.is_dir() else str(path)
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = itk.ReadImage(source)
    except RuntimeError as error:
        # the last line of many says what is wrong
        raise unreadable(path, "a volume", OSError(str(error).splitlines()[-1])) from None
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise SkipshiftError(f"{path}: has colours or vectors; save one number per voxel")
    if image.HasMetaDataKey(_PHOTOMETRIC) and "MONOCHROME1" in image.GetMetaData(_PHOTOMETRIC):
        raise SkipshiftError(f"{path}: is stored inverted (MONOCHROME1); convert it to MONOCHROME2")
    affine, placed = _affine(image)
    return itk.GetArrayFromImage(image).T, affine, placed


def _affine(image: Any) -> tuple[Values, bool]:
    """Affine of the first three axes, and whether it is more than ITK's defaults."""
    axes = min(image.GetDimension(), 3)
    steps, origin = np.eye(3), np.zeros(3)
    direction = np.array(image.GetDirection()).reshape((image.GetDimension(),) * 2)
    steps[:axes, :axes] = direction[:axes, :axes] * image.GetSpacing()[:axes]
    origin[:axes] = image.GetOrigin()[:axes]
    if np.array_equal(steps, np.eye(3)) and not origin.any():
        return np.eye(4), False
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = _LPS_TO_RAS @ steps, _LPS_TO_RAS @ origin
    return affine, True


def _series(itk: Any, folder: Path) -> tuple[str, ...]:
    series = itk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise SkipshiftError(
            f"{folder}: holds {len(series) or 'no'} DICOM series; give each one a folder of its own"
        )
    files: tuple[str, ...] = itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    return files
