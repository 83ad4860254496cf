"""The M&Ms cardiac MR challenge (Campello et al. 2021) as the paper's MV-MR set (section III-D)."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.data.images import square_crop, stretch_to_16_bit
from skipshift.data.prepare.options import MmsSpec
from skipshift.data.prepare.writing import (
    Made,
    Plan,
    Remarks,
    Sample,
    describe_file,
    fingerprint,
    read_csv,
    write_set,
)
from skipshift.data.volumes import Values, Volume, open_volume, spacing_text
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.progress import Progress, silent
from skipshift.specs import to_plain

CLASSES = ("background", "LV", "MYO", "RV")
"""Names of the challenge's labels 0..3; masks keep the numbers."""

CHALLENGE = ("External code", "Vendor", "Centre", "ED", "ES")
INDEX = ("patient", "vendor", "centre", "phase", "image", "label")

PARTS = {
    "training": "training",
    "validation": "validation",
    "testing": "testing",
    # the two folders of the phase-split form
    "crop192": "training",
    "native": "testing",
}
"""Part of the challenge by the name of a folder above its files."""

_RECIPE_VERSION = 1
"""To be raised by any change of this module that changes the bytes of a set."""

_BYTES_DEPEND_ON = (
    "centres",
    "train",
    "train_subjects",
    "test_subjects",
    "leave_out",
    "keep_empty",
    "seed",
)


@dataclass(frozen=True)
class Scan:
    """The files of a subject: all phases in one, or one phase."""

    subject: str
    vendor: str
    centre: str
    part: str
    image: Path | None
    mask: Path | None
    phases: tuple[tuple[str, int], ...]
    """Name and frame of each phase that should be labelled."""


Unit = tuple[Scan, str]
"""A scan and its split."""


def prepare_mms(spec: MmsSpec, progress: Progress = silent) -> Path:
    """Write the set and return the path of its manifest.

    Cases are all labelled slices over z and time, named SUBJECT-PHASE-zNN; groups are patients.
    Each is cut to the centred square of `square_crop` and stretched to the full range of 16 bits.
    `SkipshiftError` if files contradict each other or the information CSV, or hold other labels.
    """
    scans, remarks = find_scans(spec.src)
    units, notes, left_out = select(scans, spec)
    lines = [_describe(unit, spec.src) for unit in units]
    plan = Plan(
        recipe={
            "recipe": _RECIPE_VERSION,
            "reader": "mms",
            **{name: to_plain(getattr(spec, name)) for name in _BYTES_DEPEND_ON},
            "classes": list(CLASSES),
            "files": fingerprint(lines),
        },
        units=units,
        notes=notes,
        remarks={**remarks, **left_out},
    )
    make = partial(cut_slices, keep_empty=spec.keep_empty)
    return write_set(spec.out, plan, make, spec.workers, progress)


def find_scans(src: Path) -> tuple[list[Scan], Remarks]:
    """Find the files of every subject, and what is there in part only."""
    for path in sorted(Path(src).glob("*.csv")):
        table = read_csv(path)
        for columns, find in ((CHALLENGE, _find_challenge), (INDEX, _find_phases)):
            if set(columns) <= set(table.columns):
                return find(path, table)
    raise SkipshiftError(
        f"{src}: holds no information CSV ({', '.join(CHALLENGE)}) and no index.csv "
        f"({', '.join(INDEX)}); give the folder that holds one"
    )


def select(scans: Sequence[Scan], spec: MmsSpec) -> tuple[list[Unit], list[str], Remarks]:
    """Choose the subjects of each vendor.

    Returns
    -------
    Scans with their splits, sentences on what falls short, and the names of what is left out.
    """
    if unknown := sorted(set(spec.leave_out) - {scan.subject for scan in scans}):
        raise SkipshiftError(f"{spec.src}: has no subject {unknown[0]} to leave out; correct it")
    asked = [scan for scan in scans if scan.subject not in spec.leave_out]
    usable = [scan for scan in asked if scan.image and scan.mask]
    splits: dict[str, str] = {}
    notes: list[str] = []
    for index, (vendor, centre) in enumerate(text.split(":", 1) for text in spec.centres):
        own = [scan for scan in usable if (scan.vendor, scan.centre) == (vendor, centre)]
        rng = np.random.default_rng((spec.seed, index))
        chosen, told = _draw({scan.subject: scan.part for scan in own}, vendor, spec, rng)
        splits |= chosen
        notes += told
    if "train" not in splits.values():
        raise SkipshiftError(f"{spec.src}: has no training subject of vendor {spec.train}")
    homes = set(spec.centres)
    rest = [scan for scan in usable if scan.subject not in splits]
    left_out = {
        "subjects left out by name": sorted(spec.leave_out),
        "subjects without mask, left out": _names(s for s in asked if not s.mask),
        "subjects without image, left out": _names(s for s in asked if not s.image),
        "subjects of other vendors or centres, left out": _names(
            scan for scan in rest if f"{scan.vendor}:{scan.centre}" not in homes
        ),
        "subjects beyond the number asked for, left out": _names(
            scan for scan in rest if f"{scan.vendor}:{scan.centre}" in homes
        ),
    }
    units = [(scan, splits[scan.subject]) for scan in usable if scan.subject in splits]
    return sorted(units, key=lambda unit: (unit[0].vendor, unit[1] == "test")), notes, left_out


def cut_slices(unit: Unit, keep_empty: bool) -> Made:
    """Cut one scan into cases; see `prepare_mms`."""
    scan, split = unit
    image, mask = _open(scan)
    remarks: Remarks = defaultdict(list)
    if image.spacing is None:
        remarks["volumes without geometry in their header, kept as stored"].append(image.path.name)
    elif not image.same_grid(mask):
        remarks["masks placed unlike their image, taken as it lies"].append(mask.path.name)
    fixed = {"domain": scan.vendor, "group": scan.subject, "split": split}
    fixed |= {"spacing": spacing_text(image), "centre": scan.centre}
    samples: list[Sample] = []
    for time, phase, labels in _labelled(scan, replace(mask, plane=image.plane), remarks):
        for z, (pixels, label) in enumerate(zip(image.frame(time), labels, strict=True)):
            name = f"{scan.subject}-{phase}-z{z:02d}"
            levels = _cut(pixels, image.path)
            classes = square_crop(label).astype(np.uint8)
            if np.count_nonzero(classes) < np.count_nonzero(label):
                remarks["slices with labels beyond the square, which are cut off"].append(name)
            if not classes.any() and not keep_empty:
                remarks["slices without a label, left out"].append(name)
            elif levels is None:
                remarks["slices of one grey level, left out"].append(name)
            else:
                row = {"case": name, "stratum": phase, **fixed}
                samples.append(Sample(row, levels[..., None], classes))
    return Made(samples, remarks)


def _labelled(scan: Scan, mask: Volume, remarks: Remarks) -> Iterator[tuple[int, str, Values]]:
    """Yield each frame that holds a label, with its number and the name of its phase."""
    phases = {frame: name for name, frame in scan.phases}
    for time in range(mask.shape[3]):
        labels = mask.frame(time)
        _check_labels(labels, mask.path, time)
        phase = phases.get(time, f"t{time:02d}")
        if labels.any():
            if time not in phases:
                other = "labelled frames that are neither ED nor ES, kept"
                remarks[other].append(f"{scan.subject}-{phase}")
            yield time, phase, labels
        elif time in phases:
            remarks["phases without a label, left out"].append(f"{scan.subject}-{phase}")


def _find_challenge(csv: Path, table: pd.DataFrame) -> tuple[list[Scan], Remarks]:
    files: dict[str, dict[str, Path]] = {}
    for path in sorted(csv.parent.rglob("*_sa*.nii*")):
        if match := re.fullmatch(r"(.+)_sa(_gt)?\.nii(\.gz)?", path.name):
            kinds = files.setdefault(match[1], {})
            kind = "mask" if match[2] else "image"
            if kind in kinds:
                raise SkipshiftError(f"{path}: is there twice, also {kinds[kind]}; remove one")
            kinds[kind] = path
    rows = dict(zip(table["External code"], table.to_dict("records"), strict=True))
    if len(rows) < len(table):
        twice = table.loc[table["External code"].duplicated(), "External code"].iloc[0]
        raise SkipshiftError(f"{csv}: has {twice} in two rows; remove one")
    scans = []
    for subject in sorted(set(files) & set(rows)):
        row, paths = rows[subject], files[subject]
        phases = tuple((name, _number(row, name, csv)) for name in ("ED", "ES") if row[name])
        part = _part(next(iter(paths.values())), csv.parent)
        place = (row["Vendor"], row["Centre"], part)
        scans.append(Scan(subject, *place, paths.get("image"), paths.get("mask"), phases))
    return scans, {
        "subjects without a row in the CSV, left out": sorted(set(files) - set(rows)),
        "subjects of the CSV without files": sorted(set(rows) - set(files)),
    }


def _find_phases(csv: Path, table: pd.DataFrame) -> tuple[list[Scan], Remarks]:
    scans = []
    for line, row in enumerate(table.to_dict("records"), 2):
        image, mask = (csv.parent / row[name] if row[name] else None for name in INDEX[4:])
        for path in (image, mask):
            if path is not None and not path.is_file():
                raise SkipshiftError(f"{csv}: line {line}: {path} does not exist; restore the file")
        part = _part(image or mask or csv, csv.parent)
        place = (row["vendor"], row["centre"], part)
        scans.append(Scan(row["patient"], *place, image, mask, ((row["phase"], 0),)))
    return sorted(scans, key=lambda scan: (scan.subject, scan.phases)), {}


def _number(row: Mapping[str, str], column: str, csv: Path) -> int:
    if not row[column].isdecimal():
        raise SkipshiftError(
            f"{csv}: {row['External code']} has {column} {row[column]!r}; it must be a frame"
        )
    return int(row[column])


def _part(path: Path, root: Path) -> str:
    for folder in path.relative_to(root).parts[:-1]:
        if folder.lower() in PARTS:
            return PARTS[folder.lower()]
    raise SkipshiftError(
        f"{path}: lies in no folder Training, Validation or Testing; lay the files out as the "
        f"challenge does, for the paper trains on its training part"
    )


def _draw(
    parts: Mapping[str, str], vendor: str, spec: MmsSpec, rng: np.random.Generator
) -> tuple[dict[str, str], list[str]]:
    """Draw the splits of one vendor's subjects, given the part of the challenge of each."""
    drawn = [str(subject) for subject in rng.permutation(sorted(parts))]
    of = {part: [s for s in drawn if parts[s] == part] for part in ("training", "testing")}
    others = [s for s in drawn if parts[s] == "validation"]
    notes = []
    train: list[str] = []
    if vendor == spec.train:
        train = of["training"][: spec.train_subjects]
        if len(train) < spec.train_subjects:
            notes.append(
                f"vendor {vendor}: {len(train)} training subjects, {spec.train_subjects} asked for"
            )
    else:
        others += of["training"]
    test = [*of["testing"], *others][: spec.test_subjects]
    if len(test) < spec.test_subjects:
        notes.append(f"vendor {vendor}: {len(test)} test subjects, {spec.test_subjects} asked for")
    if added := sorted(set(test) & set(others)):
        notes.append(
            f"vendor {vendor}: {len(added)} test subjects are from the challenge's training or "
            f"validation part; none of them is trained on"
        )
    return {**dict.fromkeys(train, "train"), **dict.fromkeys(test, "test")}, notes


def _open(scan: Scan) -> tuple[Volume, Volume]:
    assert scan.image
    assert scan.mask
    image, mask = open_volume(scan.image), open_volume(scan.mask)
    if image.shape != mask.shape:
        sizes = [" x ".join(map(str, volume.data.shape)) for volume in (mask, image)]
        raise SkipshiftError(
            f"{scan.mask}: is {sizes[0]}, but its image is {sizes[1]}; correct it or add "
            f"--leave-out {scan.subject}"
        )
    for name, frame in scan.phases:
        if frame >= image.shape[3]:
            raise SkipshiftError(
                f"{scan.image}: has {image.shape[3]} frames, but {name} is frame {frame}; correct "
                f"the CSV or add --leave-out {scan.subject}"
            )
    return image, mask


def _check_labels(labels: Values, path: Path, time: int) -> None:
    wrong = ~np.isin(labels, range(len(CLASSES)))
    if wrong.any():
        z, row, column = np.argwhere(wrong)[0]
        raise SkipshiftError(
            f"{path}: has label {labels[z, row, column]:g} at row {row}, column {column} of slice "
            f"{z}, frame {time} (turned upright), {wrong.sum()} such voxels; labels are 0..3 for "
            f"{', '.join(CLASSES)}"
        )


def _cut(pixels: Values, path: Path) -> npt.NDArray[np.uint16] | None:
    try:
        return stretch_to_16_bit(square_crop(pixels))
    except ArgumentError as error:
        raise SkipshiftError(f"{path}: {error}") from None


def _names(scans: Iterator[Scan]) -> list[str]:
    return list(dict.fromkeys(scan.subject for scan in scans))


def _describe(unit: Unit, root: Path) -> str:
    scan, split = unit
    files = [describe_file(path, root) for path in (scan.image, scan.mask) if path]
    return " ".join([scan.subject, scan.vendor, scan.centre, split, *files, str(scan.phases)])
