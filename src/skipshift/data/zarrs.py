"""OME-Zarr images: the finest level of one image, by zarr."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skipshift.errors import SkipshiftError, unreadable
from skipshift.extras import load_extra

ENDINGS = (".zarr",)

_AXES = "tczyx"


def read_zarr(path: Path) -> npt.NDArray[Any]:
    """Read the finest level of an OME-Zarr image as (Z, H, W, C).

    `SkipshiftError` if it is broken, not an OME-Zarr image, or has several points of time.
    """
    zarr = load_extra("zarr", "formats")
    try:
        group = zarr.open_group(path, mode="r")
        about = group.attrs.get("ome", group.attrs)["multiscales"][0]
        level = group[about["datasets"][0]["path"]]
        # version 0.3 has the names alone, earlier ones have all five axes
        axes = [a if isinstance(a, str) else a["name"] for a in about.get("axes", _AXES)]
        pixels = np.asarray(level[...])
    except (OSError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise unreadable(path, "an OME-Zarr image", error) from None
    if sorted(axes) != sorted(set(axes) & set(_AXES)) or len(axes) != pixels.ndim:
        raise SkipshiftError(f"{path}: has the axes {' '.join(axes)}, not of t c z y x; convert it")
    pixels = pixels.transpose([axes.index(axis) for axis in _AXES if axis in axes])
    for place, axis in enumerate(_AXES):
        pixels = pixels if axis in axes else np.expand_dims(pixels, place)
    if len(pixels) != 1:
        raise SkipshiftError(f"{path}: has {len(pixels)} points of time; save each as an image")
    return np.moveaxis(pixels[0], 0, -1)
