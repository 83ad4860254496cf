"""Slides with points on mitotic figures, as the paper's MS-MF set (section III-B)."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from skipshift.data.prepare.corrections import read_corrections
from skipshift.data.prepare.options import MitosisSpec
from skipshift.data.prepare.point_patches import FIGURE, NEGATIVE, Propose, Scan, Unit, cut_figures
from skipshift.data.prepare.published import Row, name_of, read_lists, read_points
from skipshift.data.prepare.stains import propose
from skipshift.data.prepare.writing import Plan, Remarks, describe_file, fingerprint, write_set
from skipshift.data.slides.annotations import AnnotatedSlide, Points
from skipshift.data.slides.reader import ENDINGS
from skipshift.data.slides.registration import Transfer, read_registrations
from skipshift.data.splits import draw_holdout
from skipshift.errors import SkipshiftError
from skipshift.names import ORIGINAL
from skipshift.progress import Progress, silent
from skipshift.specs import to_plain

CLASSES = ("background", FIGURE)

STRATA = {
    "mitotic figure": FIGURE,
    "mitose": FIGURE,
    "mitosis": FIGURE,
    "not mitotic figure": NEGATIVE,
    "hard negative": NEGATIVE,
    "mitotic figure lookalike": NEGATIVE,
}
"""What published sets call the two kinds of points, in small letters."""

HELD_OUT = (
    "460906c0b1fe17ea5354",
    "50cf88e9a33df0c0c8f9",
    "3d3d04eca056556b0b26",
    "fa4959e484beec77543b",
)
"""The paper's slides for testing, which it does not name: of the 5,985 sets of four slides of
MITOS_WSI_CMC (variant ODAEL, 14,154 figures) the only one with its 5,605 figures."""

_RECIPE_VERSION = 1
"""To be raised by any change of the reader that changes the bytes of a set."""

_BYTES_DEPEND_ON = (
    "scanners",
    "labels",
    "train",
    "holdout",
    "leave_out",
    "hard_negatives",
    "size",
    "mpp",
    "most_error",
    "preprocess",
    "net",
    "seed",
)

_KINDS = {"figure": FIGURE, "negative": NEGATIVE, "other": ""}

Transfers = Mapping[tuple[str, str], Transfer]
"""What carries points from a specimen's annotated scan to another: by specimen and domain."""


def prepare_mitosis(
    spec: MitosisSpec, progress: Progress = silent, proposer: Propose = propose
) -> Path:
    """Write the set and return the path of its manifest.

    Groups are specimens, domains scanners, cases points, named SPECIMEN-xX-yY by their place on
    the annotated scan; one figure has one name in all scanners.

    Parameters
    ----------
    proposer
        What makes masks of points; the network of ``spec.proposals`` is up to the caller.

    `SkipshiftError` names the file at fault.
    """
    sources = _sources(spec)
    points, copies = read_points(sources)
    lists = read_lists([spec.src / path for path in spec.tables], spec.leave_out)
    corrections = read_corrections(spec.corrections)
    scans, remarks = find_scans(spec, points, lists)
    splits, notes = split_specimens(scans, spec)
    registrations = {}
    if spec.registrations:
        slides = {(scan.specimen, scan.domain): scan.path for scan in scans}
        registrations = read_registrations(spec.registrations, slides)
    transfers = {scan: found.transfer for scan, found in registrations.items()}
    units, left_out = choose_units(scans, splits, transfers, spec)
    cases = {case for unit in units for case in unit.cases}
    units = [_without(unit, corrections.rejected) for unit in units]
    plan = Plan(
        recipe={
            "recipe": _RECIPE_VERSION,
            "reader": "mitosis",
            **{name: to_plain(getattr(spec, name)) for name in _BYTES_DEPEND_ON},
            "classes": list(CLASSES),
            "files": fingerprint(_describe(spec, units, sources)),
            "proposals": fingerprint(_contents(spec.proposals)),
            "corrections": fingerprint(_contents(spec.corrections)),
        },
        units=units,
        notes=notes,
        remarks={
            "slides with the very points of another, taken as copies of it, left out": copies,
            **remarks,
            **left_out,
            "cases rejected in review, left out": sorted(corrections.rejected & cases),
            "corrections of no case": corrections.unknown(cases),
        },
    )
    make = partial(cut_figures, spec, corrections, proposer)
    return write_set(spec.out, plan, make, spec.workers, progress)


def find_scans(
    spec: MitosisSpec, points: Mapping[str, AnnotatedSlide], lists: Mapping[str, Row]
) -> tuple[list[Scan], Remarks]:
    """Find the slides and what belongs to each, those of the training domain first."""
    named = {name: domain for domain, _, name in (text.rpartition("=") for text in spec.scanners)}
    files = [path for path in sorted(spec.src.rglob("*")) if path.suffix.lower() in ENDINGS]
    skipped = {name_of(text) for text in spec.leave_out}
    if unknown := skipped - {name_of(path.name) for path in files}:
        raise SkipshiftError(f"{spec.src}: has no slide {min(unknown)} to leave out; correct it")
    scans = []
    for path in files:
        name, folders = name_of(path.name), path.relative_to(spec.src).parts[:-1]
        row = lists.get(name, Row())
        scanner = row.scanner or (folders[0] if folders else ORIGINAL)
        if name not in skipped:
            domain = named.get(scanner, scanner)
            scans.append(Scan(path, domain, row.specimen or path.stem, row.split))
    domains = sorted({scan.domain for scan in scans})
    if spec.train not in domains:
        raise SkipshiftError(
            f"{spec.src}: has no slide of domain {spec.train}, only of "
            f"{', '.join(domains) or 'none'}; name the one to train on with --train"
        )
    scans.sort(key=lambda scan: (scan.domain != spec.train, scan.domain, scan.path))
    unused = []
    for annotated in points.values():
        own = [i for i, scan in enumerate(scans) if scan.path.name == annotated.slide]
        own += [i for i, s in enumerate(scans) if name_of(s.path.name) == name_of(annotated.slide)]
        if own:
            scans[own[0]] = replace(scans[own[0]], annotated=annotated)
        elif name_of(annotated.slide) not in skipped:
            unused.append(annotated.slide)
    return scans, {"slides left out by name": sorted(skipped), "annotated slides not there": unused}


def split_specimens(scans: Sequence[Scan], spec: MitosisSpec) -> tuple[dict[str, str], list[str]]:
    """Give specimens their split: that of the lists, or of a hold-out drawn by the seed.

    Returns
    -------
    Specimen -> split, without those that lists leave out, and sentences on what it is not.
    """
    if any(scan.split for scan in scans):
        first: dict[str, Scan] = {}
        for scan in (scan for scan in scans if scan.split):
            other = first.setdefault(scan.specimen, scan)
            if other.split != scan.split:
                raise SkipshiftError(
                    f"{scan.path}: is for {scan.split}, but {other.path.name} of the same specimen "
                    f"for {other.split}; correct the tables or add --leave-out {scan.path.name}"
                )
        return {specimen: scan.split for specimen, scan in first.items()}, []
    own = dict.fromkeys(s.specimen for s in scans if s.annotated and s.domain == spec.train)
    if len(own) <= spec.holdout:
        raise SkipshiftError(
            f"{spec.src}: has {len(own)} slides with points in domain {spec.train}, too few to "
            f"hold out {spec.holdout}; choose a smaller --holdout or another --train"
        )
    if set(HELD_OUT) <= set(own) and spec.holdout == len(HELD_OUT):
        held, whose = set(HELD_OUT), "the four whose figures add up to the paper's 5,605"
    else:
        flags = draw_holdout([""] * len(own), spec.holdout / len(own), spec.seed)
        held = {name for name, out in zip(own, flags, strict=True) if out}
        whose = "drawn by the seed, not those of the paper"
    note = (
        f"no table has a Dataset: {len(held)} of {len(own)} slides of domain {spec.train} are for "
        f"testing, {whose}"
    )
    splits = {scan.specimen: "test" for scan in scans}
    return splits | {name: "train" for name in own if name not in held}, [note]


def choose_units(
    scans: Sequence[Scan], splits: Mapping[str, str], transfers: Transfers, spec: MitosisSpec
) -> tuple[list[Unit], Remarks]:
    """Choose what is cut: specimens for training in the training domain, those for testing in all.

    Returns
    -------
    Units of slides with points, and the names of what is left out.
    """
    remarks: Remarks = defaultdict(list)
    units: dict[str, Unit] = {}
    for scan in scans:
        name, split = scan.path.relative_to(spec.src).as_posix(), splits.get(scan.specimen)
        own = units.get(scan.specimen)
        transfer = transfers.get((scan.specimen, scan.domain))
        if split is None:
            remarks["slides without a Dataset in the tables, left out"].append(name)
        elif split == "train" and scan.domain != spec.train:
            told = "slides of training specimens by scanners that are not trained on, left out"
            remarks[told].append(name)
        elif scan.annotated:
            places, strata = _points(scan.annotated, spec, remarks)
            key = scan.specimen if own is None else name
            units[key] = Unit(scan, split, places, strata)
        elif own is None:
            remarks["slides without points, left out"].append(name)
        elif transfer is None:
            remarks["slides whose points no registration carries, left out"].append(name)
        else:
            units[scan.specimen] = replace(own, targets=(*own.targets, (scan, transfer)))
    return sorted(units.values(), key=lambda unit: unit.split == "test"), remarks


def _points(
    annotated: AnnotatedSlide, spec: MitosisSpec, remarks: Remarks
) -> tuple[Points, tuple[str, ...]]:
    """Places of the cases, (N, 2), and their strata."""
    named = dict(text.lower().rsplit("=", 1) for text in spec.labels)
    kinds = STRATA | {name: _KINDS[kind] for name, kind in named.items()}
    found: dict[tuple[float, ...], str] = {}
    for shape in annotated.shapes:
        if shape.kind != "point":
            remarks["slides with outlines, which are not used"].append(annotated.slide)
            continue
        if shape.label.lower() not in kinds:
            raise SkipshiftError(
                f"{annotated.slide}: has points of class {shape.label!r}; say what they are with "
                f"--labels {shape.label!r}=figure, =negative or =other"
            )
        stratum = kinds[shape.label.lower()]
        place = tuple(np.rint(shape.points[0]))
        if found.setdefault(place, stratum) != stratum:
            told = "places that are a figure and none at once, left out"
            remarks[told].append(f"{annotated.slide} {place[0]:.0f} {place[1]:.0f}")
            found[place] = ""
    wanted = (FIGURE, NEGATIVE) if spec.hard_negatives else (FIGURE,)
    kept = {place: stratum for place, stratum in found.items() if stratum in wanted}
    return np.array(list(kept), dtype=np.float64).reshape(-1, 2), tuple(kept.values())


def _without(unit: Unit, rejected: Iterable[str]) -> Unit:
    """Leave out cases by name, and the masks of their objects with them."""
    kept = [case not in rejected for case in unit.cases]
    strata = tuple(name for name, keep in zip(unit.strata, kept, strict=True) if keep)
    return replace(unit, places=unit.places[kept], strata=strata)


def _sources(spec: MitosisSpec) -> list[Path]:
    if spec.annotations:
        return [spec.src / path for path in spec.annotations]
    found = [path for path in sorted(spec.src.glob("*")) if path.suffix in (".json", ".sqlite")]
    if not found:
        raise SkipshiftError(
            f"{spec.src}: holds no annotations, *.json or *.sqlite; name them with --annotations"
        )
    return found


def _describe(spec: MitosisSpec, units: Sequence[Unit], sources: Sequence[Path]) -> list[str]:
    lines = [f"{path.name} {path.stat().st_size}" for path in sources]
    for unit in units:
        own = f"{unit.scan.domain} {unit.scan.specimen} {unit.split} {len(unit.places)}"
        lines.append(f"{describe_file(unit.scan.path, spec.src)} {own}")
        for scan, transfer in unit.targets:
            carried = np.column_stack(transfer(unit.places)).round(2)
            where = hashlib.sha256(carried.tobytes()).hexdigest()
            lines.append(f"{describe_file(scan.path, spec.src)} {scan.domain} {where}")
    return lines


def _contents(source: Path | None) -> list[str]:
    """Files of a folder, or one file, with the digests of their bytes."""
    if source is None:
        return []
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return [f"{path.name} {text}" for path, text in zip(files, digests, strict=True)]
