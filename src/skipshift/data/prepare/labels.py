"""Class indices from masks of indices, colours, instances, or one file per class."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from skipshift.data.images import Pixels, is_lossy, read_labels, read_mask_codes
from skipshift.data.pages import OBJECTS
from skipshift.data.prepare.options import FolderSpec
from skipshift.data.prepare.writing import IGNORED, Remarks
from skipshift.data.slices import PICTURES, Decode, Numbers, read_label_slices
from skipshift.data.volumes import Volume
from skipshift.errors import ArgumentError, SkipshiftError

Found = npt.NDArray[np.bool_]

_LOSSY_REACH = 1 / 8
"""Fraction of the range of a lossy mask within which a value belongs to a level: JPEG of quality
75 moves values by up to a tenth of it."""

_LEAST_RANGE = 128
"""Least distance of two levels; instances are numbered from 1 on and mostly end below."""

_MANY_VALUES = 8
"""Values from which a mask is no longer one of a few exact numbers."""


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

    threshold: int | None = None
    """Values above it are objects, if this is not left to the mask."""

    ignore: int | None = None
    """Value of pixels that are not to be counted."""

    pages: tuple[str, ...] = ()
    """What the pages of a file are."""


@dataclass(frozen=True, eq=False)
class Layer:
    """The values of one mask file, or of one page of it."""

    path: Path
    pattern: int
    """Index of its mask pattern."""
    numbers: Numbers
    """(Z, H, W)."""


def legend_of(spec: FolderSpec) -> Legend:
    """Derive the classes and their mask values; `ArgumentError` if the options are inconsistent."""
    legend = _legend_of(spec)
    number = len(legend.classes)
    objects = legend.instances or legend.pattern_classes
    if spec.threshold is not None and not objects and number != 2:
        raise ArgumentError(f"threshold parts background and one class, got {number} classes")
    if number > IGNORED:
        raise ArgumentError(f"classes must be at most {IGNORED}, got {number}")
    return replace(legend, threshold=spec.threshold, ignore=spec.ignore, pages=spec.pages)


def _legend_of(spec: FolderSpec) -> Legend:
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
    if spec.instances or OBJECTS in spec.pages:
        default = ("background", "object", *(["border"] if spec.border else []))
        classes = spec.classes or default
        if len(classes) != len(default):
            raise ArgumentError(f"classes must name {', '.join(default)}, got {list(classes)}")
        return Legend(classes, decode=read_mask_codes, instances=True, border=spec.border)
    return Legend(spec.classes or ("background", "object"))


def merge_masks(
    files: Sequence[Sequence[Path]], legend: Legend, image: Volume | None
) -> tuple[Pixels, Remarks]:
    """Merge the mask files of one image into class indices (Z, H, W), `IGNORED` where ignored.

    Parameters
    ----------
    files
        Mask files for each pattern.
    image
        Volume of the image, if it is one.

    Returns
    -------
    The indices, and the files that were read with an assumption.

    `SkipshiftError` for a value without a class, with its file and first pixel, for a lossy mask
    of more than two levels, and for files of different sizes.
    """
    remarks: Remarks = defaultdict(list)
    layers = [
        layer
        for pattern, paths in enumerate(files)
        for path in paths
        for layer in _read_layers(path, pattern, legend, image, remarks)
    ]
    first = layers[0]
    for layer in layers:
        if layer.numbers.shape != first.numbers.shape:
            raise SkipshiftError(
                f"{layer.path}: differs in size from {first.path.name}; resize one of them"
            )
    ignored = np.zeros(first.numbers.shape, np.bool_)
    if legend.ignore is not None:
        ignored = np.any([layer.numbers == legend.ignore for layer in layers], axis=0)
    if legend.pattern_classes or legend.instances:
        labels = _merged(layers, legend, ignored, remarks)
    else:
        labels = _look_up(first, legend, ignored, remarks)
    labels[ignored] = IGNORED
    return labels, remarks


def read_view(path: Path, image: Volume | None) -> tuple[Found, Remarks]:
    """Read a field-of-view mask as (Z, H, W): true where pixels count; and remarks as above."""
    legend = Legend((), instances=True, decode=read_mask_codes)
    remarks: Remarks = defaultdict(list)
    [layer] = _read_layers(path, 0, legend, image, remarks)
    return _find_objects(layer, legend, np.zeros(layer.numbers.shape, np.bool_), remarks), remarks


def _read_layers(
    path: Path, pattern: int, legend: Legend, image: Volume | None, remarks: Remarks
) -> list[Layer]:
    labels = read_label_slices(path, legend.decode, image, legend.pages)
    if not labels.placed:
        remarks["masks taken as stored like their image, since one has no geometry"].append(
            path.name
        )
    return [Layer(path, pattern, numbers) for numbers in labels.layers]


def _merged(layers: Sequence[Layer], legend: Legend, ignored: Found, remarks: Remarks) -> Pixels:
    """Merge layers of objects, later ones on top."""
    objects = np.zeros_like(layers[0].numbers)
    for index, layer in enumerate(layers):
        found = _find_objects(layer, legend, ignored, remarks)
        number = layer.numbers + (index << 32)
        value = legend.pattern_classes[layer.pattern] if legend.pattern_classes else number
        objects = np.where(found, value, objects)
    if legend.pattern_classes:
        return objects.astype(np.uint8)
    return _with_border(objects) if legend.border else (objects > 0).astype(np.uint8)


def _find_objects(layer: Layer, legend: Legend, ignored: Found, remarks: Remarks) -> Found:
    """Where a layer has objects: above the threshold, else above 0 or nearer to the upper level."""
    numbers = np.where(ignored, 0, layer.numbers)
    if legend.threshold is not None:
        return _above(legend.threshold, numbers, layer.path, remarks)
    low, high = int(numbers.min()), int(numbers.max())
    if high - low < _LEAST_RANGE or len(np.unique(numbers)) < _MANY_VALUES:
        return np.asarray(numbers > 0)
    lossy = _is_lossy(layer.path)
    reach = (high - low) * _LOSSY_REACH if lossy else 0
    upper = np.count_nonzero(numbers >= high - reach)
    middle = (numbers > low + reach) & (numbers < high - reach)
    if 2 * np.count_nonzero(middle) <= upper or (not lossy and _is_scattered(numbers, middle)):
        _remark_between(layer, (numbers != low) & (numbers != high), remarks)
        return np.asarray(2 * numbers > low + high)
    if lossy:
        raise SkipshiftError(
            f"{layer.path}: has many levels, which its lossy format may have changed; save masks "
            f"as PNG, or say with --threshold above which value objects are"
        )
    return np.asarray(numbers > 0)


def _is_scattered(numbers: Numbers, part: Found) -> bool:
    """Whether most pixels of a part differ from their neighbours: rims of resizing, no objects."""
    beside = numbers[:, :-1, :-1] == numbers[:, :-1, 1:]
    below = numbers[:, :-1, :-1] == numbers[:, 1:, :-1]
    alike = np.count_nonzero(part[:, :-1, :-1] & (beside | below))
    return bool(2 * alike < np.count_nonzero(part))


def _above(threshold: int, numbers: Numbers, path: Path, remarks: Remarks) -> Found:
    found = np.asarray(numbers > threshold)
    if numbers.any() and not found.any():
        remarks["masks with values above 0, but none above the threshold"].append(path.name)
    return found


def _remark_between(layer: Layer, between: Found, remarks: Remarks) -> None:
    if count := np.count_nonzero(between):
        remark = "masks with values between two levels, read as the nearer one"
        remarks[remark].append(f"{layer.path.name} ({count} pixels)")


def _with_border(objects: Numbers) -> Pixels:
    """1 inside objects, 2 on pixels that touch anything else (8-neighbourhood)."""
    size = (1, 3, 3)
    edge = ndimage.maximum_filter(objects, size) != ndimage.minimum_filter(objects, size)
    return np.where(objects > 0, 1 + edge, 0).astype(np.uint8)


def _look_up(layer: Layer, legend: Legend, ignored: Found, remarks: Remarks) -> Pixels:
    numbers = layer.numbers
    if legend.threshold is not None:
        numbers = np.where(ignored, 0, numbers)
        return _above(legend.threshold, numbers, layer.path, remarks).astype(np.uint8)
    values = legend.values
    if values is None:
        values = {index: index for index in range(len(legend.classes))}
    elif len(values) == 2 and legend.decode is read_labels and _is_lossy(layer.path):
        levels = np.array(sorted(values))
        nearest = levels[(2 * numbers > levels.sum()).astype(int)]
        _remark_between(layer, nearest != numbers, remarks)
        numbers = nearest
    labels = np.zeros(numbers.shape, np.uint8)
    known = ignored.copy()
    for number, index in values.items():
        here = numbers == number
        labels[here] = index
        known |= here
    if not known.all():
        raise SkipshiftError(_unknown_value(numbers, known, legend, layer.path))
    return labels


def _unknown_value(numbers: Numbers, known: Found, legend: Legend, path: Path) -> str:
    z, row, column = np.argwhere(~known)[0]
    number = numbers[z, row, column]
    what = f"label {number}" if legend.decode is read_labels else f"colour #{number:06x}"
    where = f"row {row}, column {column}" + (f" of slice {z}" if len(numbers) > 1 else "")
    remedy = "name it with --colours"
    if legend.values is None:
        remedy = "name it with --classes, or declare the values with --colours or --instances"
        # of a mask of 0 and 255 alone, nothing would be left
        if numbers[known].any():
            remedy += ", or leave it out with --ignore"
    if _is_lossy(path):
        remedy = (
            "its lossy format may have changed its values: save masks as PNG, or say with "
            "--threshold above which value objects are"
        )
    return (
        f"{path}: {what} at {where} ({(~known).sum()} pixels) has no class among "
        f"{', '.join(legend.classes)}; {remedy}"
    )


def _is_lossy(path: Path) -> bool:
    return path.name.lower().endswith(PICTURES) and is_lossy(path)


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
