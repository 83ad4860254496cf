"""Sets of images as the command line names them: a folder, a manifest, or a manifest's domain."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skipshift import shifts
from skipshift.data.images import Pixels, read_image
from skipshift.data.manifest import centre_crop, read_manifest
from skipshift.names import parse_shift
from skipshift.specs import SkipshiftError

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class ImageSet:
    """Images of one size with the group of each."""

    images: npt.NDArray[np.uint8]
    """(N, H, W, C)."""

    groups: tuple[str, ...]
    """(N,); the file's name where nothing says otherwise."""


def read_set(source: str, crop: int | None = None) -> ImageSet:
    """Read the images of a folder, of a manifest's test cases, or of one domain of them.

    `SkipshiftError` if there are none, if a domain is unknown, or if the sizes differ.
    """
    files, groups = _files(source)
    images = [read_image(file) for file in files]
    if crop is not None:
        try:
            images = [centre_crop(image, crop) for image in images]
        except ValueError as error:
            raise SkipshiftError(f"{source}: {error}; choose a smaller crop") from None
    _check_shapes(files, images)
    return ImageSet(np.stack(images), tuple(groups))


def shift_set(reference: ImageSet, shift: str) -> ImageSet:
    """Apply a synthetic shift to a set; each image keeps its group."""
    return ImageSet(shifts.apply(reference.images, shift), reference.groups)


def read_pair(reference: str, shifted: str, crop: int | None = None) -> tuple[ImageSet, ImageSet]:
    """Read two sets; the second may be a shift of the first, e.g. ``brightness:0.75``."""
    first = read_set(reference, crop)
    if parse_shift(shifted):
        return first, shift_set(first, shifted)
    second = read_set(shifted, crop)
    if first.images.shape[1:] != second.images.shape[1:]:
        shapes = [" x ".join(map(str, s.images.shape[1:])) for s in (first, second)]
        raise SkipshiftError(
            f"{shifted}: images are {shapes[1]}, those of the reference {shapes[0]} "
            f"(height x width x channels); crop both to one size"
        )
    return first, second


def _files(source: str) -> tuple[list[Path], list[str]]:
    path, _, domain = source.partition("#")
    if Path(path).is_dir():
        files = sorted(f for f in Path(path).iterdir() if f.suffix.lower() in ENDINGS)
        if not files:
            raise SkipshiftError(f"{path}: holds no image ({' '.join(ENDINGS)})")
        return files, [file.stem for file in files]
    cases = read_manifest(Path(path))
    cases = cases[cases["split"] == "test"]
    if domain:
        known = list(cases["domain"].unique())
        cases = cases[cases["domain"] == domain]
        if cases.empty:
            raise SkipshiftError(f"{path}: has no test cases of domain {domain!r}, only {known}")
    if cases.empty:
        raise SkipshiftError(f"{path}: has no test cases; give some the split test")
    return [Path(file) for file in cases["image"]], list(cases["group"])


def _check_shapes(files: Sequence[Path], images: Sequence[Pixels]) -> None:
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise SkipshiftError(
                f"{file}: is {image.shape[1]} x {image.shape[0]} with {image.shape[2]} channels, "
                f"unlike {files[0].name}; crop the images to one size"
            )
