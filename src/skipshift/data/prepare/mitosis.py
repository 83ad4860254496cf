"""Converter of slides with points on mitotic figures to the paper's MS-MF set (III-B)."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from skipshift.data.prepare.corrections import read_corrections
from skipshift.data.prepare.point_patches import (
    FIGURE,
    NEGATIVE,
    FigureJob,
    MitosisScan,
    Propose,
    cut_figures,
)
from skipshift.data.prepare.published import SlideInfo, read_points, read_slide_tables, slide_name
from skipshift.data.prepare.slide_options import MitosisSpec
from skipshift.data.prepare.stains import propose
from skipshift.data.prepare.writing import Plan, Remarks, describe_file, source_digest, write_set
from skipshift.data.slides.annotations import AnnotatedSlide, Points
from skipshift.data.slides.reader import ENDINGS
from skipshift.data.slides.registration import Transfer, read_registrations
from skipshift.data.splits import draw_holdout
from skipshift.errors import SkipshiftError
from skipshift.names import ORIGINAL
from skipshift.progress import Progress, silent
from skipshift.spec_files import to_plain

CLASSES = ("background", FIGURE)

STRATA = {
    "mitotic figure": FIGURE,
    "mitose": FIGURE,
    "mitosis": FIGURE,
    "not mitotic figure": NEGATIVE,
    "hard negative": NEGATIVE,
    "mitotic figure lookalike": NEGATIVE,
}
"""Stratum of each point class in the published sets, in lower case."""

HELD_OUT = (
    "460906c0b1fe17ea5354",
    "50cf88e9a33df0c0c8f9",
    "3d3d04eca056556b0b26",
    "fa4959e484beec77543b",
)
"""The paper's test slides, which it does not name. Of the 5,985 sets of four slides of
MITOS_WSI_CMC (variant ODAEL, 14,154 figures) this is the only one with the paper's 5,605."""

_RECIPE_VERSION = 1
"""Increase this with every change that alters the output."""

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
    "builder",
    "seed",
)

_STRATUM_OF = {"figure": FIGURE, "negative": NEGATIVE, "other": ""}

Transfers = Mapping[tuple[str, str], Transfer]
"""Transfer of points from a specimen's annotated scan to another, by (specimen, domain)."""


def prepare_mitosis(
    spec: MitosisSpec, progress: Progress = silent, proposer: Propose = propose
) -> Path:
    """Write the set and return the path of its manifest.

    Groups are specimens, domains scanners. Each point is a case, named SPECIMEN-xX-yY by its
    coordinates on the annotated scan, so that a figure has the same name in all domains.

    Parameters
    ----------
    proposer
        Proposes the mask at a point; the caller loads the network of ``spec.proposals``.

    `SkipshiftError` names the file that cannot be used.
    """
    sources = _sources(spec)
    points, copies = read_points(sources)
    table = read_slide_tables([spec.src / path for path in spec.tables], spec.leave_out)
    corrections = read_corrections(spec.corrections)
    scans, remarks = find_scans(spec, points, table)
    splits, notes = split_specimens(scans, spec)
    registrations = {}
    if spec.registrations:
        slides = {(scan.specimen, scan.domain): scan.path for scan in scans}
        registrations = read_registrations(spec.registrations, slides)
    transfers = {key: found.transfer for key, found in registrations.items()}
    jobs, left_out = choose_slides(scans, splits, transfers, spec)
    cases = {case for job in jobs for case in job.cases}
    jobs = [_without(job, corrections.rejected) for job in jobs]
    plan = Plan(
        recipe={
            "recipe": _RECIPE_VERSION,
            "reader": "mitosis",
            **{name: to_plain(getattr(spec, name)) for name in _BYTES_DEPEND_ON},
            "classes": list(CLASSES),
            "files": source_digest(_describe(spec, jobs, sources)),
            "proposals": source_digest(_contents(spec.proposals)),
            "corrections": source_digest(_contents(spec.corrections)),
        },
        jobs=jobs,
        notes=notes,
        remarks={
            "slides with the same points as another, treated as copies, left out": copies,
            **remarks,
            **left_out,
            "cases rejected in review, left out": sorted(corrections.rejected & cases),
            "corrections that match no case": corrections.unknown(cases),
        },
    )
    make = partial(cut_figures, spec, corrections, proposer)
    return write_set(spec.out, plan, make, spec.workers, progress)


def find_scans(
    spec: MitosisSpec, points: Mapping[str, AnnotatedSlide], table: Mapping[str, SlideInfo]
) -> tuple[list[MitosisScan], Remarks]:
    """Find the slides with their domain, specimen and annotations, training domain first.

    `SkipshiftError` if a slide to leave out is unknown, or the training domain has no slide.
    """
    domains_of = {
        name: domain for domain, _, name in (text.rpartition("=") for text in spec.scanners)
    }
    files = [path for path in sorted(spec.src.rglob("*")) if path.suffix.lower() in ENDINGS]
    skipped = {slide_name(text) for text in spec.leave_out}
    if unknown := skipped - {slide_name(path.name) for path in files}:
        raise SkipshiftError(f"{spec.src}: has no slide {min(unknown)}; correct --leave-out")
    scans = []
    for path in files:
        name, folders = slide_name(path.name), path.relative_to(spec.src).parts[:-1]
        info = table.get(name, SlideInfo())
        scanner = info.scanner or (folders[0] if folders else ORIGINAL)
        if name not in skipped:
            domain = domains_of.get(scanner, scanner)
            scans.append(MitosisScan(path, domain, info.specimen or path.stem, info.split))
    domains = sorted({scan.domain for scan in scans})
    if spec.train not in domains:
        raise SkipshiftError(
            f"{spec.src}: has no slide of domain {spec.train}, only of "
            f"{', '.join(domains) or 'none'}; choose the training domain with --train"
        )
    scans.sort(key=lambda scan: (scan.domain != spec.train, scan.domain, scan.path))
    unused = []
    for annotated in points.values():
        matches = [i for i, scan in enumerate(scans) if scan.path.name == annotated.slide]
        matches += [
            i for i, s in enumerate(scans) if slide_name(s.path.name) == slide_name(annotated.slide)
        ]
        if matches:
            scans[matches[0]] = replace(scans[matches[0]], annotated=annotated)
        elif slide_name(annotated.slide) not in skipped:
            unused.append(annotated.slide)
    return scans, {
        "slides left out by name": sorted(skipped),
        "annotated slides that are missing": unused,
    }


def split_specimens(
    scans: Sequence[MitosisScan], spec: MitosisSpec
) -> tuple[dict[str, str], list[str]]:
    """Assign each specimen its split: that of the tables, or a hold-out.

    Returns
    -------
    Specimen -> split, without specimens that the tables do not list, and notes on the hold-out.

    `SkipshiftError` if a specimen is on both sides, or there are too few slides to hold out.
    """
    if any(scan.split for scan in scans):
        first: dict[str, MitosisScan] = {}
        for scan in (scan for scan in scans if scan.split):
            other = first.setdefault(scan.specimen, scan)
            if other.split != scan.split:
                raise SkipshiftError(
                    f"{scan.path}: is in {scan.split}, but {other.path.name} of the same specimen "
                    f"in {other.split}; correct the tables or add --leave-out {scan.path.name}"
                )
        return {specimen: scan.split for specimen, scan in first.items()}, []
    specimens = dict.fromkeys(s.specimen for s in scans if s.annotated and s.domain == spec.train)
    if len(specimens) <= spec.holdout:
        raise SkipshiftError(
            f"{spec.src}: has {len(specimens)} slides with points in domain {spec.train}, too few "
            f"to hold out {spec.holdout}; choose a smaller --holdout or another --train"
        )
    if set(HELD_OUT) <= set(specimens) and spec.holdout == len(HELD_OUT):
        held_out, origin = set(HELD_OUT), "the four whose figures add up to the paper's 5,605"
    else:
        flags = draw_holdout([""] * len(specimens), spec.holdout / len(specimens), spec.seed)
        held_out = {name for name, out in zip(specimens, flags, strict=True) if out}
        origin = "drawn at random, not those of the paper"
    note = (
        f"no table has a Dataset: {len(held_out)} of {len(specimens)} slides of domain "
        f"{spec.train} are held out for testing, {origin}"
    )
    splits = {scan.specimen: "test" for scan in scans}
    return splits | {name: "train" for name in specimens if name not in held_out}, [note]


def choose_slides(
    scans: Sequence[MitosisScan], splits: Mapping[str, str], transfers: Transfers, spec: MitosisSpec
) -> tuple[list[FigureJob], Remarks]:
    """Choose the slides to cut: training specimens in the training domain, test specimens in all.

    Returns
    -------
    Slides with points and the scans to transfer them to, and the names of slides left out.

    `SkipshiftError` for points of an unknown class.
    """
    remarks: Remarks = defaultdict(list)
    jobs: dict[str, FigureJob] = {}
    for scan in scans:
        name, split = scan.path.relative_to(spec.src).as_posix(), splits.get(scan.specimen)
        job = jobs.get(scan.specimen)
        transfer = transfers.get((scan.specimen, scan.domain))
        if split is None:
            remarks["slides without a Dataset in the tables, left out"].append(name)
        elif split == "train" and scan.domain != spec.train:
            remarks["slides of training specimens in other domains, left out"].append(name)
        elif scan.annotated:
            centres, strata = _points(scan.annotated, spec, remarks)
            key = scan.specimen if job is None else name
            jobs[key] = FigureJob(scan, split, centres, strata)
        elif job is None:
            remarks["slides without points, left out"].append(name)
        elif transfer is None:
            remarks["slides without a registration to transfer points, left out"].append(name)
        else:
            jobs[scan.specimen] = replace(job, targets=(*job.targets, (scan, transfer)))
    return sorted(jobs.values(), key=lambda job: job.split == "test"), remarks


def _points(
    annotated: AnnotatedSlide, spec: MitosisSpec, remarks: Remarks
) -> tuple[Points, tuple[str, ...]]:
    """Centres of the cases, (N, 2), and their strata."""
    named = dict(text.lower().rsplit("=", 1) for text in spec.labels)
    strata = STRATA | {name: _STRATUM_OF[kind] for name, kind in named.items()}
    points: dict[tuple[float, ...], str] = {}
    for shape in annotated.shapes:
        if shape.kind != "point":
            remarks["slides with outlines, which are ignored"].append(annotated.slide)
            continue
        if shape.label.lower() not in strata:
            raise SkipshiftError(
                f"{annotated.slide}: has points of unknown class {shape.label!r}; assign it with "
                f"--labels {shape.label!r}=figure, =negative or =other"
            )
        stratum = strata[shape.label.lower()]
        point = tuple(np.rint(shape.points[0]))
        if points.setdefault(point, stratum) != stratum:
            remark = "points with contradicting classes, left out"
            remarks[remark].append(f"{annotated.slide} {point[0]:.0f} {point[1]:.0f}")
            points[point] = ""
    wanted = (FIGURE, NEGATIVE) if spec.hard_negatives else (FIGURE,)
    kept = {point: stratum for point, stratum in points.items() if stratum in wanted}
    return np.array(list(kept), dtype=np.float64).reshape(-1, 2), tuple(kept.values())


def _without(job: FigureJob, rejected: Iterable[str]) -> FigureJob:
    """Remove cases by name, and with them the masks of their figures."""
    kept = [case not in rejected for case in job.cases]
    strata = tuple(name for name, keep in zip(job.strata, kept, strict=True) if keep)
    return replace(job, centres=job.centres[kept], strata=strata)


def _sources(spec: MitosisSpec) -> list[Path]:
    if spec.annotations:
        return [spec.src / path for path in spec.annotations]
    endings = (".json", ".sqlite", ".geojson")
    found = [path for path in sorted(spec.src.glob("*")) if path.suffix in endings]
    if not found:
        raise SkipshiftError(
            f"{spec.src}: has no annotations (*.json, *.sqlite, *.geojson); name them with "
            f"--annotations"
        )
    return found


def _describe(spec: MitosisSpec, jobs: Sequence[FigureJob], sources: Sequence[Path]) -> list[str]:
    lines = [f"{path.name} {path.stat().st_size}" for path in sources]
    for job in jobs:
        about = f"{job.scan.domain} {job.scan.specimen} {job.split} {len(job.centres)}"
        lines.append(f"{describe_file(job.scan.path, spec.src)} {about}")
        for scan, transfer in job.targets:
            transferred = np.column_stack(transfer(job.centres)).round(2)
            digest = hashlib.sha256(transferred.tobytes()).hexdigest()
            lines.append(f"{describe_file(scan.path, spec.src)} {scan.domain} {digest}")
    return lines


def _contents(source: Path | None) -> list[str]:
    """Names and digests of the files of a folder, or of one file."""
    if source is None:
        return []
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return [f"{path.name} {text}" for path, text in zip(files, digests, strict=True)]
