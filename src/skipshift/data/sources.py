"""Image sets as named on the command line: a folder, a manifest, one domain of it, or a shift."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift import shifts
from skipshift.data.images import centre_crop, image_size, is_picture, read_array
from skipshift.data.manifest import Case, read_cases, read_manifest
from skipshift.data.slices import ARRAYS, ENDINGS, PICTURES, is_volume, read_slices
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import PAPER_SHIFTS, parse_shift, shown

MOST_PIXELS = 1 << 25
"""Most pixels of a whole picture, 5,792 x 5,792: a U-net's first features of one take 2 GiB."""

_SETS = "a folder of images, a manifest or MANIFEST#domain"


@dataclass(frozen=True)
class ImageSet:
    """Images of one size, with the values as stored, and the group of each."""

    images: npt.NDArray[Any]
    """(N, H, W, C), or volumes (N, D, H, W, C)."""

    groups: tuple[str, ...]
    """(N,) groups of a manifest, or the file names of a folder."""


def read_set(source: str, crop: int | None = None, volumes: bool = False) -> ImageSet:
    """Read the images of a folder, or of the test cases of a manifest or of one of its domains.

    Each slice of a NIfTI file is an image, all in one group. With ``volumes`` each file is one
    image instead: NIfTI, or an array (D, H, W) or (D, H, W, C). `SkipshiftError` if the source is
    not a set, there are no images, a file is broken, the domain is unknown, or sizes differ or are
    below the crop.
    """
    files, groups, images = [], [], []
    found = _files(source)
    _check_areas(found[0], crop)
    for file, group in zip(*found, strict=True):
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
    """Apply a synthetic shift to a set of images; each keeps its group.

    `SkipshiftError` unless they are 8-bit images.
    """
    images = reference.images
    if images.dtype != np.uint8 or images.ndim != 4:
        kind = "volumes" if images.ndim == 5 else str(images.dtype)
        raise SkipshiftError(f"{shift}: shifts apply to 8-bit images, but the reference has {kind}")
    return ImageSet(shifts.apply(images, shift), reference.groups)


def read_pair(
    reference: str, shifted: str, crop: int | None = None, volumes: bool = False
) -> tuple[ImageSet, ImageSet]:
    """Read two sets; the second may be a shift of the first, e.g. ``brightness:0.75``.

    `SkipshiftError` as in `read_set`, and if the image sizes of the two sets differ.
    """
    first = read_set(reference, crop, volumes)
    if parse_shift(shifted):
        return first, shift_set(first, shifted)
    _check_shifted(shifted)
    second = read_set(shifted, crop, volumes)
    one, other = (images.images.shape[1:] for images in (first, second))
    if one != other:
        raise SkipshiftError(
            f"{shifted}: images are {_sides(other)}, but those of the reference are {_sides(one)} "
            f"({_AXES[len(one)]}); {_remedy(one, other, 'both')}"
        )
    return first, second


def read_labelled(
    source: str, classes: int, crop: int | None = None, ignore: int | None = None
) -> list[Case]:
    """Read the test cases of a manifest, or of one of its domains, with their masks.

    `SkipshiftError` if the source is a folder, has no test cases, or sizes differ.
    """
    rows = read_test_rows(source)
    _check_areas([Path(file) for file in rows["image"]], crop)
    cases = list(read_cases(rows, classes, crop, ignore=ignore))
    _check_shapes([Path(file) for file in rows["image"]], [case.image for case in cases])
    return cases


def read_labelled_pair(
    reference: str,
    shifted: str,
    classes: int,
    crop: int | None = None,
    paired: bool = True,
    ignore: int | None = None,
) -> tuple[list[Case], list[Case]]:
    """Read two sets of cases; the second may be a shift of the first, e.g. ``brightness:0.75``.

    ``paired`` sorts the second like the first, by case name. `SkipshiftError` as in
    `read_labelled`, and if a paired case is not in both sets exactly once.
    """
    first = read_labelled(reference, classes, crop, ignore)
    if parse_shift(shifted):
        return first, [replace(c, image=shifts.apply(c.image, shifted)) for c in first]
    _check_shifted(shifted)
    second = read_labelled(shifted, classes, crop, ignore)
    if not paired:
        return first, second
    names, others = ([case.case for case in cases] for cases in (first, second))
    if odd := [n for n in [*names, *others] if (names.count(n), others.count(n)) != (1, 1)]:
        raise SkipshiftError(
            f"{shifted}: case {odd[0]!r} must occur exactly once in both sets; name one domain of "
            f"each, or use mode quantile, zero or mean for unpaired cases"
        )
    return first, [second[others.index(name)] for name in names]


def _read(file: Path, volumes: bool) -> list[npt.NDArray[Any]]:
    """Read the images of a file, each (H, W, C), or with ``volumes`` one (D, H, W, C)."""
    if not volumes:
        return list(read_slices(file).pixels)
    if is_volume(file):
        return [read_slices(file).pixels]
    if not file.name.lower().endswith(ARRAYS):
        raise SkipshiftError(f"{file}: is an image, but --volumes takes NIfTI or NPY files")
    volume = read_array(file)
    volume = volume[..., None] if volume.ndim == 3 else volume
    if volume.ndim != 4:
        raise SkipshiftError(f"{file}: must be (D, H, W) or (D, H, W, C), got {volume.shape}")
    return [volume]


def _cropped(image: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    if image.ndim == 4:
        return np.stack([centre_crop(part, side) for part in image])
    return centre_crop(image, side)


def _files(source: str) -> tuple[list[Path], list[str]]:
    _check_set(source, _SETS)
    path, _, domain = source.partition("#")
    if Path(path).is_dir():
        if domain:
            raise SkipshiftError(f"{source}: is a folder, which has no domains; give {path}")
        files = sorted(f for f in Path(path).iterdir() if f.name.lower().endswith(ENDINGS))
        if not files:
            raise SkipshiftError(f"{path}: contains no images ({' '.join(ENDINGS)})")
        return files, [file.stem for file in files]
    cases = read_test_rows(source)
    return [Path(file) for file in cases["image"]], list(cases["group"])


def read_test_rows(source: str) -> pd.DataFrame:
    """Read the rows of a manifest's test cases, or of one domain of them (``MANIFEST#domain``).

    `SkipshiftError` if there are none, or the source is not a manifest.
    """
    path, _, domain = source.partition("#")
    _check_set(source, "a manifest or MANIFEST#domain")
    if Path(path).is_dir():
        raise SkipshiftError(f"{path}: is a folder without masks; give a manifest of cases")
    cases = read_manifest(Path(path))
    cases = cases[cases["split"] == "test"]
    if domain:
        known = list(cases["domain"].unique())
        cases = cases[cases["domain"] == domain]
        if cases.empty:
            raise SkipshiftError(
                f"{path}: has no test cases of domain {domain!r}, only {shown(known)}"
            )
    if cases.empty:
        raise SkipshiftError(f"{path}: has no test cases; set the split of some to test")
    return cases


def _check_shapes(files: Sequence[Path], images: Sequence[npt.NDArray[Any]]) -> None:
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            first = images[0].shape
            raise SkipshiftError(
                f"{file}: is {_sides(image.shape)}, but {files[0].name} is {_sides(first)} "
                f"({_AXES[len(first)]}); {_remedy(image.shape, first, 'all images')}"
            )


def _check_areas(files: Sequence[Path], crop: int | None) -> None:
    """Raise a `SkipshiftError` for a picture that is too large, before any is decoded."""
    for file in files if crop is None else ():
        if file.suffix.lower() in PICTURES and is_picture(file):
            width, height = image_size(file)
            if width * height > MOST_PIXELS:
                raise SkipshiftError(
                    f"{file}: is {height} x {width} (height x width), more than {MOST_PIXELS} "
                    f"pixels, for whose features memory is short; cut it into tiles, or crop it"
                )


_AXES = {3: "height x width x channels", 4: "depth x height x width x channels"}


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _remedy(one: tuple[int, ...], other: tuple[int, ...], which: str) -> str:
    """Say how images of two shapes, channels last, can be made equal."""
    ways = [f"convert {which} to the same channels"] if one[-1] != other[-1] else []
    ways += [f"crop {which} to one size"] if one[:-1] != other[:-1] else []
    return " and ".join(ways)


def _check_set(source: str, wanted: str) -> None:
    """Raise a `SkipshiftError` for a shift, an image or nothing in place of a set."""
    path = Path(source.partition("#")[0])
    if parse_shift(source):
        raise SkipshiftError(f"{source}: a shift can only be SHIFTED; give {wanted}")
    if not path.exists():
        raise SkipshiftError(f"{path}: does not exist; give {wanted}")
    if path.is_file() and path.name.lower().endswith(ENDINGS):
        instead = "its folder" if wanted == _SETS else wanted
        raise SkipshiftError(f"{path}: is an image; give {instead}")


def _check_shifted(name: str) -> None:
    """Raise a `SkipshiftError` for what is neither a file nor a folder and may be a shift."""
    kind, colon, _ = name.partition(":")
    if not Path(name.partition("#")[0]).exists() and (
        colon or get_close_matches(kind, PAPER_SHIFTS, cutoff=0.8)
    ):
        raise SkipshiftError(
            f"{name}: is not a file, folder or shift; shifts are {', '.join(PAPER_SHIFTS)}:FACTOR"
        )
