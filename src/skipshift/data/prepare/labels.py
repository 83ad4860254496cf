"""Class indices from masks of indices, colours, instances, or one file per class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from skipshift.data.images import Pixels, read_labels, read_mask_codes
from skipshift.data.prepare.options import FolderSpec
from skipshift.data.slices import Decode, read_label_slices
from skipshift.data.volumes import Plane
from skipshift.errors import ArgumentError, SkipshiftError

Numbers = npt.NDArray[np.int64]
"""(Z, H, W)."""


@dataclass(frozen=True)
class Legend:
    """Mapping from mask values to classes."""

    classes: tuple[str, ...]

    pattern_classes: tuple[int, ...] = ()
    """Class of each mask pattern, if each class has its own files."""

    values: Mapping[int, int] | None = None
    """Class of each value, if the values are not class indices themselves."""

    decode: Decode = read_labels
    """Reads the values of an image file."""

    instances: bool = False
    border: bool = False


def legend_of(spec: FolderSpec) -> Legend:
    """Derive the classes and their mask values; `ArgumentError` if the options are inconsistent."""
    if spec.colours:
        pairs = [text.rpartition("=")[::2] for text in spec.colours]
        names = [name for name, _ in pairs]
        classes = _check_covers(spec.classes or tuple(dict.fromkeys(names)), names)
        in_colour = pairs[0][1].startswith("#")
        values = {_number(value, in_colour): classes.index(name) for name, value in pairs}
        decode = partial(read_mask_codes, in_colour=True) if in_colour else read_labels
        return Legend(classes, values=values, decode=decode)
    if any("=" in mask for mask in spec.masks):
        names = [mask.split("=", 1)[0] for mask in spec.masks]
        classes = _check_covers(spec.classes or ("background", *dict.fromkeys(names)), names)
        return Legend(classes, tuple(map(classes.index, names)), decode=read_mask_codes)
    if spec.instances:
        default = ("background", "object", *(["border"] if spec.border else []))
        classes = spec.classes or default
        if len(classes) != len(default):
            raise ArgumentError(f"classes must name {', '.join(default)}, got {list(classes)}")
        return Legend(classes, decode=read_mask_codes, instances=True, border=spec.border)
    return Legend(spec.classes or ("background", "object"))


def merge_masks(files: Sequence[Sequence[Path]], legend: Legend, plane: Plane | None) -> Pixels:
    """Merge the mask files of one image into class indices (Z, H, W).

    Parameters
    ----------
    files
        Mask files for each pattern.
    plane
        Orientation of the image, if it is a NIfTI volume.

    `SkipshiftError` for a value without a class, with its file and first pixel, and for files of
    different sizes.
    """
    if not legend.pattern_classes and not legend.instances:
        [path] = files[0]
        numbers = read_label_slices(path, legend.decode, plane)
        return _look_up(numbers, legend, path)
    flat = [(path, pattern) for pattern, paths in enumerate(files) for path in paths]
    layers = [read_label_slices(path, legend.decode, plane) for path, _ in flat]
    for layer, (path, _) in zip(layers, flat, strict=True):
        if layer.shape != layers[0].shape:
            raise SkipshiftError(
                f"{path}: differs in size from {flat[0][0].name}; resize one of them"
            )
    objects = np.zeros_like(layers[0])
    for index, (layer, (_, pattern)) in enumerate(zip(layers, flat, strict=True)):
        value = legend.pattern_classes[pattern] if legend.pattern_classes else layer + (index << 32)
        objects = np.where(layer > 0, value, objects)
    if legend.pattern_classes:
        return objects.astype(np.uint8)
    return _with_border(objects) if legend.border else (objects > 0).astype(np.uint8)


def _with_border(objects: Numbers) -> Pixels:
    """1 inside objects, 2 on pixels that touch anything else (8-neighbourhood)."""
    size = (1, 3, 3)
    edge = ndimage.maximum_filter(objects, size) != ndimage.minimum_filter(objects, size)
    return np.where(objects > 0, 1 + edge, 0).astype(np.uint8)


def _look_up(numbers: Numbers, legend: Legend, path: Path) -> Pixels:
    values = legend.values
    if values is None:
        values = {index: index for index in range(len(legend.classes))}
    labels = np.zeros(numbers.shape, np.uint8)
    known = np.zeros(numbers.shape, np.bool_)
    for number, index in values.items():
        here = numbers == number
        labels[here] = index
        known |= here
    if not known.all():
        raise SkipshiftError(_unknown_value(numbers, known, legend, path))
    return labels


def _unknown_value(
    numbers: Numbers, known: npt.NDArray[np.bool_], legend: Legend, path: Path
) -> str:
    z, row, column = np.argwhere(~known)[0]
    number = numbers[z, row, column]
    what = f"label {number}" if legend.decode is read_labels else f"colour #{number:06x}"
    where = f"row {row}, column {column}" + (f" of slice {z}" if len(numbers) > 1 else "")
    remedy = "name it with --colours"
    if legend.values is None:
        remedy = "name it with --classes, or declare the values with --colours or --instances"
    return (
        f"{path}: {what} at {where} ({(~known).sum()} pixels) has no class among "
        f"{', '.join(legend.classes)}; {remedy}"
    )


def _check_covers(classes: tuple[str, ...], names: Sequence[str]) -> tuple[str, ...]:
    if missing := [name for name in names if name not in classes]:
        raise ArgumentError(f"classes must include {missing[0]!r}, got {list(classes)}")
    return classes


def _number(value: str, in_colour: bool) -> int:
    digits = value.removeprefix("#")
    try:
        if in_colour == value.startswith("#") and (not in_colour or len(digits) == 6):
            return int(digits, 16 if in_colour else 10)
    except ValueError:
        pass
    raise ArgumentError(f"colours must be all NAME=#RRGGBB or all NAME=VALUE, got {value!r}")
