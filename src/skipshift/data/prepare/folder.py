"""Any folders of images and masks as a set: split by group, cut, and written without loss."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from skipshift.data.images import NativePixels, convert_channels, square_crop, stretch_to_16_bit
from skipshift.data.manifest import SPLITS
from skipshift.data.prepare.labels import Legend, legend_of, paint
from skipshift.data.prepare.options import FolderSpec
from skipshift.data.prepare.patterns import Item, find_items
from skipshift.data.prepare.writing import (
    Made,
    Plan,
    Remarks,
    Sample,
    describe_file,
    fingerprint,
    write_set,
)
from skipshift.data.slices import read_slices
from skipshift.data.splits import draw_holdout
from skipshift.data.volumes import Values
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.progress import Progress, silent
from skipshift.specs import to_plain

_RECIPE_VERSION = 1
"""To be raised by any change of the readers that changes the bytes of a set."""

_BYTES_DEPEND_ON = (
    "masks",
    "colours",
    "instances",
    "border",
    "channels",
    "rescale",
    "square",
    "train",
    "holdout",
    "seed",
)


def prepare_folder(spec: FolderSpec, progress: Progress = silent) -> Path:
    """Write the set and return the path of its manifest.

    Images of 8 and of 16 bits keep their levels; masks become class indices. `ArgumentError` for
    options that do not fit each other, `SkipshiftError` names the file at fault.
    """
    legend = legend_of(spec)
    found, remarks = find_items(spec)
    items, notes, left_out = split_items(found, spec)
    plan = Plan(
        recipe={
            "recipe": _RECIPE_VERSION,
            "reader": "folder",
            **{name: to_plain(getattr(spec, name)) for name in _BYTES_DEPEND_ON},
            "classes": list(legend.classes),
            "files": fingerprint(_describe(item, spec) for item in items),
        },
        units=items,
        notes=notes,
        remarks={**remarks, **left_out},
    )
    return write_set(spec.out, plan, partial(make_cases, spec, legend), spec.workers, progress)


def split_items(items: Sequence[Item], spec: FolderSpec) -> tuple[list[Item], list[str], Remarks]:
    """Give every item its split: the table's, or a hold-out of groups of the training domains.

    Cases of other domains are for testing; those whose group is trained on are left out, because
    a patient or specimen that was seen in training is no test.
    """
    if any(item.split for item in items):
        return _check_splits(items, spec), [], {}
    domains = sorted({item.domain for item in items})
    train = spec.train or tuple(domains)
    if not set(train) <= set(domains) or (not spec.train and len(domains) > 1):
        raise ArgumentError(
            f"train must name domains to train on, of {', '.join(domains)}; got {list(spec.train)}"
        )
    strata = {item.group: item.stratum for item in items if item.domain in train}
    held = draw_holdout(list(strata.values()), spec.holdout, spec.seed)
    trained = {group for group, out in zip(strata, held, strict=True) if not out}
    kept, left_out = [], []
    for item in items:
        if item.domain not in train and item.group in trained:
            left_out.append(f"{item.domain}/{item.case}")
        else:
            kept.append(replace(item, split="train" if item.group in trained else "test"))
    notes = [] if any(held) else ["no group of the training domains is held out for testing"]
    if left_out:
        notes.append(
            "groups of the same name in several domains are taken as the same specimen; tell them "
            "apart with {group} in the pattern or a table"
        )
    return kept, notes, {"cases of other domains whose group is trained on, left out": left_out}


def make_cases(spec: FolderSpec, legend: Legend, item: Item) -> Made:
    """Decode one image with its masks into cases, one for each slice."""
    slices = read_slices(item.image)
    masks = paint(item.masks, legend, slices.plane)
    if masks.shape != slices.pixels.shape[:3]:
        sizes = [" x ".join(map(str, shape)) for shape in (masks.shape, slices.pixels.shape[:3])]
        raise SkipshiftError(
            f"{item.image}: its mask is {sizes[0]}, the image {sizes[1]} (slices x height x width)"
        )
    samples: list[Sample] = []
    remarks: Remarks = defaultdict(list)
    for z, (pixels, mask) in enumerate(zip(slices.pixels, masks, strict=True)):
        name = item.case if len(masks) == 1 else f"{item.case}-z{z:02d}"
        levels = _levels(pixels, spec, item)
        classes = square_crop(mask) if spec.square else mask
        if levels is None:
            remarks["images of one level, left out"].append(name)
            continue
        if not classes.any():
            remarks["cases without any object, kept"].append(name)
        row = {"case": name, "domain": item.domain, "group": item.group}
        row |= {"split": item.split, "stratum": item.stratum}
        row |= {"spacing": slices.spacing} if slices.plane else {}
        levels = levels if spec.channels is None else convert_channels(levels, spec.channels)
        samples.append(Sample(row, levels, np.ascontiguousarray(classes)))
    return Made(samples, remarks)


def _levels(pixels: Values, spec: FolderSpec, item: Item) -> NativePixels | None:
    """Levels of 8 or 16 bits of (H, W, C) numbers; None where there is nothing to stretch."""
    try:
        pixels = square_crop(pixels) if spec.square else pixels
        if spec.rescale:
            return stretch_to_16_bit(pixels)
    except ArgumentError as error:
        raise SkipshiftError(f"{item.image}: {error}") from None
    if pixels.dtype not in (np.uint8, np.uint16):
        raise SkipshiftError(
            f"{item.image}: holds numbers of type {pixels.dtype}, which have no range; add "
            f"--rescale to stretch each image to its own"
        )
    return np.ascontiguousarray(pixels)


def _check_splits(items: Sequence[Item], spec: FolderSpec) -> list[Item]:
    sides: dict[str, str] = {}
    for item in items:
        if item.split not in SPLITS:
            raise SkipshiftError(
                f"{spec.table}: case {item.case!r} has split {item.split!r}; it must be one of "
                f"{', '.join(SPLITS)}"
            )
        if sides.setdefault(item.group, item.split) != item.split:
            raise SkipshiftError(
                f"{spec.table}: group {item.group!r} is both in train and in test; put all its "
                f"cases on one side"
            )
    return list(items)


def _describe(item: Item, spec: FolderSpec) -> str:
    files = [item.image, *(path for paths in item.masks for path in paths)]
    words = (item.case, item.domain, item.group, item.split, item.stratum)
    return " ".join([*words, *(describe_file(path, spec.src) for path in files)])
