"""Converter of any folders of images and masks: split by group, bit depth kept."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from skipshift.data.images import (
    NativePixels,
    convert_channels,
    exif_turn,
    square_crop,
    stretch_to_16_bit,
)
from skipshift.data.manifest import SPLITS
from skipshift.data.prepare.labels import Legend, legend_of, merge_masks, read_view
from skipshift.data.prepare.options import FolderSpec
from skipshift.data.prepare.patterns import CaseFiles, find_cases
from skipshift.data.prepare.writing import (
    IGNORED,
    JobOutput,
    Plan,
    Remarks,
    Sample,
    describe_file,
    merge_remarks,
    source_digest,
    write_set,
)
from skipshift.data.slices import Slices, read_slices
from skipshift.data.splits import draw_holdout
from skipshift.data.volumes import Values
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import shown
from skipshift.progress import Progress, silent
from skipshift.spec_files import to_plain

_RECIPE_VERSION = 2
"""Increase this with every change that alters the output."""

_BYTES_DEPEND_ON = (
    "masks",
    "colours",
    "instances",
    "border",
    "threshold",
    "ignore",
    "valid",
    "pages",
    "channels",
    "rescale",
    "square",
    "train",
    "holdout",
    "seed",
)


def prepare_folder(spec: FolderSpec, progress: Progress = silent) -> Path:
    """Write the set and return the path of its manifest.

    Images of 8 and 16 bits keep their values; masks become class indices. `ArgumentError` for
    inconsistent options; `SkipshiftError` names the file that cannot be used.
    """
    legend = legend_of(spec)
    candidates, remarks = find_cases(spec)
    cases, notes, left_out = split_cases(candidates, spec)
    if spec.ignore is not None or spec.valid is not None:
        notes = [*notes, f"pixels not to be counted are {IGNORED}: set ignore to {IGNORED} later"]
    plan = Plan(
        recipe={
            "recipe": _RECIPE_VERSION,
            "reader": "folder",
            **{name: to_plain(getattr(spec, name)) for name in _BYTES_DEPEND_ON},
            "classes": list(legend.classes),
            "files": source_digest(_describe(case, spec) for case in cases),
        },
        jobs=cases,
        notes=notes,
        remarks={**remarks, **left_out},
    )
    return write_set(spec.out, plan, partial(make_cases, spec, legend), spec.workers, progress)


def split_cases(
    cases: Sequence[CaseFiles], spec: FolderSpec
) -> tuple[list[CaseFiles], list[str], Remarks]:
    """Assign the splits: those of the table, or a hold-out by group in the training domains.

    Other domains are test domains. Their cases from training groups are left out: testing on a
    patient or specimen seen in training would be a leak.

    Returns
    -------
    Cases with their splits, notes, and the names of cases left out.

    `ArgumentError` if the training domains are unknown or not given; `SkipshiftError` for a table
    with a wrong split or a group on both sides.
    """
    if any(case.split for case in cases):
        return _check_splits(cases, spec), [], {}
    domains = sorted({case.domain for case in cases})
    train = spec.train or tuple(domains)
    if not set(train) <= set(domains) or (not spec.train and len(domains) > 1):
        raise ArgumentError(
            f"train must be one or more of the domains {shown(domains)}; got {shown(spec.train)}"
        )
    strata = {case.group: case.stratum for case in cases if case.domain in train}
    held_out = draw_holdout(list(strata.values()), spec.holdout, spec.seed)
    trained = {group for group, out in zip(strata, held_out, strict=True) if not out}
    kept, left_out = [], []
    for case in cases:
        if case.domain not in train and case.group in trained:
            left_out.append(f"{case.domain}/{case.name}")
        else:
            kept.append(replace(case, split="train" if case.group in trained else "test"))
    notes = [] if any(held_out) else ["no group of the training domains is held out for testing"]
    if left_out:
        notes.append(
            "groups with the same name in several domains are treated as one specimen; if they are "
            "not, give distinct names with {group} in the pattern or a table"
        )
    return kept, notes, {"cases of other domains from training groups, left out": left_out}


def make_cases(spec: FolderSpec, legend: Legend, case: CaseFiles) -> JobOutput:
    """Decode one image with its masks into samples, one per slice.

    `SkipshiftError` if sizes differ, a mask value has no class, or the image cannot be used.
    """
    slices = read_slices(case.image, spec.pages)
    masks, remarks = merge_masks(case.masks, legend, slices.volume)
    _check_sizes(case.image, "mask", masks, slices)
    if case.valid is not None:
        view, more = read_view(case.valid, slices.volume)
        _check_sizes(case.image, "field-of-view mask", view, slices)
        masks[~view] = IGNORED
        remarks = merge_remarks([remarks, more])
    turn = exif_turn(case.image)
    if turn != 1 and any(exif_turn(mask) != turn for files in case.masks for mask in files):
        remarks["images that EXIF turns and their masks not; see whether they fit"].append(
            case.name
        )
    samples: list[Sample] = []
    for z, (pixels, mask) in enumerate(zip(slices.pixels, masks, strict=True)):
        name = case.name if len(masks) == 1 else f"{case.name}-z{z:02d}"
        levels = _levels(pixels, spec, case)
        classes = square_crop(mask) if spec.square else mask
        if levels is None:
            remarks["images of constant intensity, left out"].append(name)
            continue
        if not ((classes > 0) & (classes != IGNORED)).any():
            remarks["cases without foreground, kept"].append(name)
        row = {"case": name, "domain": case.domain, "group": case.group}
        row |= {"split": case.split, "stratum": case.stratum}
        row |= {"spacing": slices.spacing} if slices.volume else {}
        levels = levels if spec.channels is None else convert_channels(levels, spec.channels)
        samples.append(Sample(row, levels, np.ascontiguousarray(classes)))
    return JobOutput(samples, remarks)


def _check_sizes(image: Path, what: str, mask: Values, slices: Slices) -> None:
    if mask.shape != slices.pixels.shape[:3]:
        sizes = [" x ".join(map(str, shape)) for shape in (mask.shape, slices.pixels.shape[:3])]
        raise SkipshiftError(
            f"{image}: its {what} is {sizes[0]}, the image {sizes[1]} (slices x height x width)"
        )


def _levels(pixels: Values, spec: FolderSpec, case: CaseFiles) -> NativePixels | None:
    """8 or 16 bit values of (H, W, C); None for constant intensity, which cannot be rescaled."""
    if pixels.shape[2] not in (1, 3):
        raise SkipshiftError(
            f"{case.image}: has {pixels.shape[2]} channels, but images have 1 or 3; save the ones "
            f"that count, channels last"
        )
    try:
        pixels = square_crop(pixels) if spec.square else pixels
        if spec.rescale:
            return stretch_to_16_bit(pixels)
    except ArgumentError as error:
        raise SkipshiftError(f"{case.image}: {error}") from None
    if pixels.dtype not in (np.uint8, np.uint16):
        raise SkipshiftError(
            f"{case.image}: has values of type {pixels.dtype}, not 8 or 16 bit; add --rescale to "
            f"rescale each image to its own range"
        )
    return np.ascontiguousarray(pixels)


def _check_splits(cases: Sequence[CaseFiles], spec: FolderSpec) -> list[CaseFiles]:
    sides: dict[str, str] = {}
    for case in cases:
        if case.split not in SPLITS:
            raise SkipshiftError(
                f"{spec.table}: case {case.name!r} has split {case.split!r}; it must be one of "
                f"{', '.join(SPLITS)}"
            )
        if sides.setdefault(case.group, case.split) != case.split:
            raise SkipshiftError(
                f"{spec.table}: group {case.group!r} is in both train and test; put all its "
                f"cases on one side"
            )
    return list(cases)


def _describe(case: CaseFiles, spec: FolderSpec) -> str:
    files = [case.image, *(path for paths in case.masks for path in paths)]
    files += [case.valid] if case.valid is not None else []
    words = (case.name, case.domain, case.group, case.split, case.stratum)
    return " ".join([*words, *(describe_file(path, spec.src) for path in files)])
