"""Sets of images as the command line names them: a folder, a manifest, or a manifest's domain."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift import shifts
from skipshift.data import volumes as nifti
from skipshift.data.images import read_native
from skipshift.data.manifest import Case, centre_crop, read_cases, read_manifest
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import parse_shift

ARRAY = ".npy"
ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ARRAY, *nifti.ENDINGS)


@dataclass(frozen=True)
class ImageSet:
    """Images of one size, as they are stored, with the group of each."""

    images: npt.NDArray[Any]
    """(N, H, W, C), or of volumes (N, D, H, W, C)."""

    groups: tuple[str, ...]
    """(N,); the file's name where nothing says otherwise."""


def read_set(source: str, crop: int | None = None, volumes: bool = False) -> ImageSet:
    """Read the images of a folder, of a manifest's test cases, or of one domain of them.

    A NIfTI file of any number of slices is as many images of one group. With ``volumes`` each file
    is one image instead: NIfTI, or an array (D, H, W) or (D, H, W, C).
    `SkipshiftError` if there are none, if a domain is unknown, or if the sizes differ.
    """
    files, groups, images = [], [], []
    for file, group in zip(*_files(source), strict=True):
        for image in _read(file, volumes):
            try:
                images.append(image if crop is None else _cropped(image, crop))
            except ArgumentError as error:
                raise SkipshiftError(f"{source}: {error}; choose a smaller crop") from None
            files.append(file)
            groups.append(group)
    _check_shapes(files, images)
    return ImageSet(np.stack(images), tuple(groups))


def shift_set(reference: ImageSet, shift: str) -> ImageSet:
    """Apply a synthetic shift to a set of 8-bit images; each image keeps its group."""
    images = reference.images
    if images.dtype != np.uint8 or images.ndim != 4:
        kind = "volumes" if images.ndim == 5 else str(images.dtype)
        raise SkipshiftError(f"{shift}: shifts change 8-bit images, and the reference has {kind}")
    return ImageSet(shifts.apply(images, shift), reference.groups)


def read_pair(
    reference: str, shifted: str, crop: int | None = None, volumes: bool = False
) -> tuple[ImageSet, ImageSet]:
    """Read two sets; the second may be a shift of the first, e.g. ``brightness:0.75``."""
    first = read_set(reference, crop, volumes)
    if parse_shift(shifted):
        return first, shift_set(first, shifted)
    second = read_set(shifted, crop, volumes)
    if first.images.shape[1:] != second.images.shape[1:]:
        shapes = [" x ".join(map(str, s.images.shape[1:])) for s in (first, second)]
        raise SkipshiftError(
            f"{shifted}: images are {shapes[1]}, those of the reference {shapes[0]} "
            f"(height x width x channels); crop both to one size"
        )
    return first, second


def read_labelled(source: str, classes: int, crop: int | None = None) -> list[Case]:
    """Read a manifest's test cases, or those of one domain, with their masks; all of one size."""
    if Path(source).is_dir():
        raise SkipshiftError(f"{source}: is a folder: carry needs masks; give a manifest of cases")
    rows = _test_cases(source)
    cases = list(read_cases(rows, classes, crop))
    _check_shapes([Path(file) for file in rows["image"]], [case.image for case in cases])
    return cases


def read_labelled_pair(
    reference: str, shifted: str, classes: int, crop: int | None = None, paired: bool = True
) -> tuple[list[Case], list[Case]]:
    """Read two sets of cases; the second may be a shift of the first, e.g. ``brightness:0.75``.

    ``paired`` brings the second into the order of the first by the names of the cases;
    `SkipshiftError` if one is not there once in both.
    """
    first = read_labelled(reference, classes, crop)
    if parse_shift(shifted):
        return first, [replace(c, image=shifts.apply(c.image, shifted)) for c in first]
    second = read_labelled(shifted, classes, crop)
    if not paired:
        return first, second
    names, others = ([case.case for case in cases] for cases in (first, second))
    if odd := [n for n in [*names, *others] if (names.count(n), others.count(n)) != (1, 1)]:
        raise SkipshiftError(
            f"{shifted}: case {odd[0]!r} must be there once in both sets; name one domain of each, "
            f"or choose mode quantile, zero or mean for cases that are not paired"
        )
    return first, [second[others.index(name)] for name in names]


def _read(file: Path, volumes: bool) -> list[npt.NDArray[Any]]:
    """Images of a file, each (H, W, C), or with ``volumes`` one (D, H, W, C)."""
    if file.name.endswith(nifti.ENDINGS):
        slices = nifti.open_volume(file).frame(0)[..., None]
        return [slices] if volumes else list(slices)
    axes = 3 if volumes else 2
    if file.suffix != ARRAY:
        image = read_native(file, floats=True)
    else:
        try:
            image = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise SkipshiftError(f"{file}: cannot be read as an array: {error}") from None
        image = image[..., None] if image.ndim == axes else image
    if image.ndim != axes + 1:
        sides = "(D, H, W)" if volumes else "(H, W) or (H, W, C)"
        raise SkipshiftError(f"{file}: must be {sides}, got {image.shape}")
    return [image]


def _cropped(image: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    if image.ndim == 4:
        return np.stack([centre_crop(part, side) for part in image])
    return centre_crop(image, side)


def _files(source: str) -> tuple[list[Path], list[str]]:
    path = source.partition("#")[0]
    if Path(path).is_dir():
        files = sorted(f for f in Path(path).iterdir() if f.name.lower().endswith(ENDINGS))
        if not files:
            raise SkipshiftError(f"{path}: holds no image ({' '.join(ENDINGS)})")
        return files, [file.stem for file in files]
    cases = _test_cases(source)
    return [Path(file) for file in cases["image"]], list(cases["group"])


def _test_cases(source: str) -> pd.DataFrame:
    path, _, domain = source.partition("#")
    cases = read_manifest(Path(path))
    cases = cases[cases["split"] == "test"]
    if domain:
        known = list(cases["domain"].unique())
        cases = cases[cases["domain"] == domain]
        if cases.empty:
            raise SkipshiftError(f"{path}: has no test cases of domain {domain!r}, only {known}")
    if cases.empty:
        raise SkipshiftError(f"{path}: has no test cases; give some the split test")
    return cases


def _check_shapes(files: Sequence[Path], images: Sequence[npt.NDArray[Any]]) -> None:
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise SkipshiftError(
                f"{file}: is {' x '.join(map(str, image.shape[-2:0:-1]))} with {image.shape[-1]} "
                f"channels, unlike {files[0].name}; crop the images to one size"
            )
