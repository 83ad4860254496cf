"""Converter of the M&Ms cardiac MR challenge (Campello et al. 2021) to the paper's MV-MR set."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.data.images import square_crop, stretch_to_16_bit
from skipshift.data.prepare.options import MmsSpec
from skipshift.data.prepare.writing import (
    JobOutput,
    Plan,
    Remarks,
    Sample,
    describe_file,
    read_csv,
    source_digest,
    write_set,
)
from skipshift.data.volumes import Values, Volume, on_grid_of, open_volume, spacing_text
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.progress import Progress, silent
from skipshift.spec_files import to_plain

CLASSES = ("background", "LV", "MYO", "RV")
"""Names of the challenge's labels 0..3, which are the mask values."""

CHALLENGE = ("External code", "Vendor", "Centre", "ED", "ES")
INDEX = ("patient", "vendor", "centre", "phase", "image", "label")

PARTS = {
    "training": "training",
    "validation": "validation",
    "testing": "testing",
    # the two folders of the form with one volume per phase
    "crop192": "training",
    "native": "testing",
}
"""Part of the challenge by folder name, in lower case."""

_RECIPE_VERSION = 2
"""Increase this with every change that alters the output."""

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
class SubjectFiles:
    """Image and mask of a subject: one file each for all phases, or for one phase."""

    subject: str
    vendor: str
    centre: str
    part: str
    image: Path | None
    mask: Path | None
    phases: tuple[tuple[str, int], ...]
    """Name and frame of each phase that is expected to have labels."""


SubjectJob = tuple[SubjectFiles, str]
"""Files and their split."""


def prepare_mms(spec: MmsSpec, progress: Progress = silent) -> Path:
    """Write the set and return the path of its manifest.

    Cases are the labelled slices of all frames, named SUBJECT-PHASE-zNN; groups are patients.
    Each slice is cropped by `square_crop` and rescaled to the full 16-bit range. `SkipshiftError`
    if files are inconsistent with each other or with the CSV, or have other labels.
    """
    subjects, remarks = find_subjects(spec.src)
    jobs, notes, left_out = select_subjects(subjects, spec)
    lines = [_describe(job, spec.src) for job in jobs]
    plan = Plan(
        recipe={
            "recipe": _RECIPE_VERSION,
            "reader": "mms",
            **{name: to_plain(getattr(spec, name)) for name in _BYTES_DEPEND_ON},
            "classes": list(CLASSES),
            "files": source_digest(lines),
        },
        jobs=jobs,
        notes=notes,
        remarks={**remarks, **left_out},
    )
    make = partial(cut_slices, keep_empty=spec.keep_empty)
    return write_set(spec.out, plan, make, spec.workers, progress)


def find_subjects(src: Path) -> tuple[list[SubjectFiles], Remarks]:
    """Find the files of every subject, and remarks on incomplete subjects.

    `SkipshiftError` if there is no information CSV and no index.csv, or their content is wrong.
    """
    for path in sorted(Path(src).glob("*.csv")):
        table = read_csv(path)
        for columns, find in ((CHALLENGE, _find_challenge), (INDEX, _find_phases)):
            if set(columns) <= set(table.columns):
                return find(path, table)
    raise SkipshiftError(
        f"{src}: has no information CSV ({', '.join(CHALLENGE)}) and no index.csv "
        f"({', '.join(INDEX)}); give the folder that contains one"
    )


def select_subjects(
    subjects: Sequence[SubjectFiles], spec: MmsSpec
) -> tuple[list[SubjectJob], list[str], Remarks]:
    """Choose the subjects of each vendor.

    Returns
    -------
    Files with their splits, notes where there are fewer subjects than requested, and the names of
    subjects left out.

    `SkipshiftError` if a subject to leave out is unknown, or if none is left for training.
    """
    if unknown := sorted(set(spec.leave_out) - {files.subject for files in subjects}):
        raise SkipshiftError(f"{spec.src}: has no subject {unknown[0]}; correct --leave-out")
    wanted = [files for files in subjects if files.subject not in spec.leave_out]
    usable = [files for files in wanted if files.image and files.mask]
    splits: dict[str, str] = {}
    notes: list[str] = []
    for index, (vendor, centre) in enumerate(text.split(":", 1) for text in spec.centres):
        parts = {
            files.subject: files.part
            for files in usable
            if (files.vendor, files.centre) == (vendor, centre)
        }
        rng = np.random.default_rng((spec.seed, index))
        vendor_splits, vendor_notes = _draw_subjects(parts, vendor, spec, rng)
        splits |= vendor_splits
        notes += vendor_notes
    if "train" not in splits.values():
        raise SkipshiftError(f"{spec.src}: has no training subject of vendor {spec.train}")
    centres = set(spec.centres)
    rest = [files for files in usable if files.subject not in splits]
    left_out = {
        "subjects left out by name": sorted(spec.leave_out),
        "subjects without mask, left out": _names(s for s in wanted if not s.mask),
        "subjects without image, left out": _names(s for s in wanted if not s.image),
        "subjects of other vendors or centres, left out": _names(
            files for files in rest if f"{files.vendor}:{files.centre}" not in centres
        ),
        "subjects beyond the requested number, left out": _names(
            files for files in rest if f"{files.vendor}:{files.centre}" in centres
        ),
    }
    jobs = [(files, splits[files.subject]) for files in usable if files.subject in splits]
    return sorted(jobs, key=lambda job: (job[0].vendor, job[1] == "test")), notes, left_out


def cut_slices(job: SubjectJob, keep_empty: bool) -> JobOutput:
    """Cut the volumes of one subject into cases; see `prepare_mms`.

    `SkipshiftError` if image and mask differ in shape, or if a label or value is invalid.
    """
    files, split = job
    image, mask = _open(files)
    remarks: Remarks = defaultdict(list)
    if image.spacing is None:
        remarks["volumes without geometry in their header, kept as stored"].append(image.path.name)
    elif not mask.placed:
        remarks["masks without geometry, read in that of their image"].append(mask.path.name)
    fixed = {"domain": files.vendor, "group": files.subject, "split": split}
    fixed |= {"spacing": spacing_text(image), "centre": files.centre}
    samples: list[Sample] = []
    for time, phase, labels in _labelled(files, mask, remarks):
        for z, (pixels, label) in enumerate(zip(image.frame(time), labels, strict=True)):
            name = f"{files.subject}-{phase}-z{z:02d}"
            levels = _crop_and_rescale(pixels, image.path)
            classes = square_crop(label).astype(np.uint8)
            if np.count_nonzero(classes) < np.count_nonzero(label):
                remarks["slices with labels outside the square crop, which are lost"].append(name)
            if not classes.any() and not keep_empty:
                remarks["slices without a label, left out"].append(name)
            elif levels is None:
                remarks["slices of constant intensity, left out"].append(name)
            else:
                row = {"case": name, "stratum": phase, **fixed}
                samples.append(Sample(row, levels[..., None], classes))
    return JobOutput(samples, remarks)


def _labelled(
    files: SubjectFiles, mask: Volume, remarks: Remarks
) -> Iterator[tuple[int, str, Values]]:
    """Yield number, phase and labels of each labelled frame."""
    phases = {frame: name for name, frame in files.phases}
    for time in range(mask.shape[3]):
        labels = mask.frame(time)
        _check_labels(labels, mask.path, time)
        phase = phases.get(time, f"t{time:02d}")
        if labels.any():
            if time not in phases:
                remark = "labelled frames that are neither ED nor ES, kept"
                remarks[remark].append(f"{files.subject}-{phase}")
            yield time, phase, labels
        elif time in phases:
            remarks["phases without a label, left out"].append(f"{files.subject}-{phase}")


def _find_challenge(csv: Path, table: pd.DataFrame) -> tuple[list[SubjectFiles], Remarks]:
    files: dict[str, dict[str, Path]] = {}
    for path in sorted(csv.parent.rglob("*_sa*.nii*")):
        if match := re.fullmatch(r"(.+)_sa(_gt)?\.nii(\.gz)?", path.name):
            kinds = files.setdefault(match[1], {})
            kind = "mask" if match[2] else "image"
            if kind in kinds:
                raise SkipshiftError(
                    f"{path}: is a second file of this subject, besides {kinds[kind]}; remove one"
                )
            kinds[kind] = path
    rows = dict(zip(table["External code"], table.to_dict("records"), strict=True))
    if len(rows) < len(table):
        repeated = table.loc[table["External code"].duplicated(), "External code"].iloc[0]
        raise SkipshiftError(f"{csv}: has two rows for {repeated}; remove one")
    subjects = []
    for subject in sorted(set(files) & set(rows)):
        row, paths = rows[subject], files[subject]
        phases = tuple((name, _number(row, name, csv)) for name in ("ED", "ES") if row[name])
        part = _part(next(iter(paths.values())), csv.parent)
        origin = (row["Vendor"], row["Centre"], part)
        subjects.append(
            SubjectFiles(subject, *origin, paths.get("image"), paths.get("mask"), phases)
        )
    return subjects, {
        "subjects without a row in the CSV, left out": sorted(set(files) - set(rows)),
        "subjects of the CSV without files": sorted(set(rows) - set(files)),
    }


def _find_phases(csv: Path, table: pd.DataFrame) -> tuple[list[SubjectFiles], Remarks]:
    subjects = []
    for line, row in enumerate(table.to_dict("records"), 2):
        image, mask = (csv.parent / row[name] if row[name] else None for name in INDEX[4:])
        for path in (image, mask):
            if path is not None and not path.is_file():
                raise SkipshiftError(f"{csv}: line {line}: {path} does not exist; restore the file")
        part = _part(image or mask or csv, csv.parent)
        origin = (row["vendor"], row["centre"], part)
        subjects.append(SubjectFiles(row["patient"], *origin, image, mask, ((row["phase"], 0),)))
    return sorted(subjects, key=lambda files: (files.subject, files.phases)), {}


def _number(row: Mapping[str, str], column: str, csv: Path) -> int:
    if not row[column].isdecimal():
        raise SkipshiftError(
            f"{csv}: {row['External code']} has {column} {row[column]!r}; it must be a frame number"
        )
    return int(row[column])


def _part(path: Path, root: Path) -> str:
    for folder in path.relative_to(root).parts[:-1]:
        if folder.lower() in PARTS:
            return PARTS[folder.lower()]
    raise SkipshiftError(
        f"{path}: is not in a folder Training, Validation or Testing; arrange the files as "
        f"distributed, because the paper trains on the training part"
    )


def _draw_subjects(
    parts: Mapping[str, str], vendor: str, spec: MmsSpec, rng: np.random.Generator
) -> tuple[dict[str, str], list[str]]:
    """Draw the splits of one vendor's subjects, given the part of the challenge of each."""
    shuffled = [str(subject) for subject in rng.permutation(sorted(parts))]
    of = {part: [s for s in shuffled if parts[s] == part] for part in ("training", "testing")}
    others = [s for s in shuffled if parts[s] == "validation"]
    notes = []
    train: list[str] = []
    if vendor == spec.train:
        train = of["training"][: spec.train_subjects]
        if len(train) < spec.train_subjects:
            notes.append(
                f"vendor {vendor}: {len(train)} training subjects, {spec.train_subjects} requested"
            )
    else:
        others += of["training"]
    test = [*of["testing"], *others][: spec.test_subjects]
    if len(test) < spec.test_subjects:
        notes.append(f"vendor {vendor}: {len(test)} test subjects, {spec.test_subjects} requested")
    if added := sorted(set(test) & set(others)):
        notes.append(
            f"vendor {vendor}: {len(added)} test subjects are from the challenge's training or "
            f"validation part; none of them is used for training"
        )
    return {**dict.fromkeys(train, "train"), **dict.fromkeys(test, "test")}, notes


def _open(files: SubjectFiles) -> tuple[Volume, Volume]:
    assert files.image
    assert files.mask
    image, mask = open_volume(files.image), open_volume(files.mask)
    try:
        mask = on_grid_of(mask, image)
    except SkipshiftError as error:
        raise SkipshiftError(f"{error}, or add --leave-out {files.subject}") from None
    if image.shape != mask.shape:
        sizes = [" x ".join(map(str, volume.shape)) for volume in (mask, image)]
        raise SkipshiftError(
            f"{files.mask}: is {sizes[0]}, but its image is {sizes[1]}; replace it or add "
            f"--leave-out {files.subject}"
        )
    for name, frame in files.phases:
        if frame >= image.shape[3]:
            raise SkipshiftError(
                f"{files.image}: has {image.shape[3]} frames, but {name} is frame {frame}; correct "
                f"the CSV or add --leave-out {files.subject}"
            )
    return image, mask


def _check_labels(labels: Values, path: Path, time: int) -> None:
    wrong = ~np.isin(labels, range(len(CLASSES)))
    if wrong.any():
        z, row, column = np.argwhere(wrong)[0]
        raise SkipshiftError(
            f"{path}: has label {labels[z, row, column]:g} at row {row}, column {column} of slice "
            f"{z}, frame {time} (after reorientation; {wrong.sum()} voxels); labels must be 0..3 "
            f"for {', '.join(CLASSES)}"
        )


def _crop_and_rescale(pixels: Values, path: Path) -> npt.NDArray[np.uint16] | None:
    try:
        return stretch_to_16_bit(square_crop(pixels))
    except ArgumentError as error:
        raise SkipshiftError(f"{path}: {error}") from None


def _names(subjects: Iterator[SubjectFiles]) -> list[str]:
    return list(dict.fromkeys(files.subject for files in subjects))


def _describe(job: SubjectJob, root: Path) -> str:
    files, split = job
    paths = [describe_file(path, root) for path in (files.image, files.mask) if path]
    return " ".join([files.subject, files.vendor, files.centre, split, *paths, str(files.phases)])
