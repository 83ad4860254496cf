"""Converter of slides with tissue outlines to the paper's MS-CCT set (section III-C)."""

import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from skipshift.data.images import Pixels
from skipshift.data.prepare.regions import (
    BACKGROUND,
    UNKNOWN,
    Outlines,
    TissueMap,
    grid_corners,
    label_pixels,
    map_tissues,
    sample_centres,
)
from skipshift.data.prepare.slide_options import SccSpec
from skipshift.data.prepare.specimens import (
    PointMap,
    ScanJob,
    choose_scans,
    find_point_map,
    find_scans,
    identity,
    split_specimens,
)
from skipshift.data.prepare.writing import (
    JobOutput,
    Plan,
    Remarks,
    Sample,
    describe_file,
    source_digest,
    write_set,
)
from skipshift.data.slides.annotations import (
    AnnotatedSlide,
    Points,
    Shape,
    annotation_files,
    read_annotations,
)
from skipshift.data.slides.reader import Slide, open_slide
from skipshift.data.slides.registration import read_registrations
from skipshift.errors import SkipshiftError
from skipshift.progress import Progress, silent
from skipshift.spec_files import to_plain

CLASSES = ("background", "non-tumor", "tumor")

TISSUES = {
    "Bone": "non-tumor",
    "Cartilage": "non-tumor",
    "Dermis": "non-tumor",
    "Epidermis": "non-tumor",
    "Subcutis": "non-tumor",
    "Inflamm/Necrosis": "non-tumor",
    "Melanoma": "tumor",
    "Plasmacytoma": "tumor",
    "Mast Cell Tumor": "tumor",
    "PNST": "tumor",
    "SCC": "tumor",
    "Trichoblastoma": "tumor",
    "Histiocytoma": "tumor",
}
"""Class of each of CATCH's 13 tissues, as merged by the authors of CATCH."""

NOT_SAMPLED = ("Bone", "Cartilage", "Inflamm/Necrosis")
"""Tissues on which no training patch is centred: the authors of CATCH call them noisy."""

WEIGHTS = (0.1, 0.45, 0.45)
"""Probability of a training patch being centred on each of `CLASSES`."""

_RECIPE_VERSION = 1
"""Increase this with every change that alters the output."""

_BYTES_DEPEND_ON = (
    "scanners",
    "train",
    "patches",
    "size",
    "mpp",
    "tissue",
    "labels",
    "holdout",
    "seed",
)

_MOST_UNKNOWN = 0.1
"""Fraction of unannotated tissue in a patch above which it is reported."""

_UNKNOWN_REMARK = "cases with more than 10 % unannotated tissue, labelled non-tumor"


@dataclass(frozen=True, eq=False)
class Region:
    """A patch to cut, by its centre on the reference scan."""

    case: str
    stratum: str
    centre: Points
    """(1, 2) in full-resolution pixels."""


@dataclass(frozen=True)
class TissueLegend:
    """Numbers 1, 2, ... of the annotated tissues."""

    tissues: tuple[tuple[str, str], ...]
    """Name and class of each tissue."""

    @property
    def classes(self) -> Pixels:
        """(256,) class of each number; unannotated tissue is non-tumor."""
        table = np.zeros(256, np.uint8)
        table[1 : len(self.tissues) + 1] = [CLASSES.index(label) for _, label in self.tissues]
        table[UNKNOWN] = CLASSES.index("non-tumor")
        return table

    @property
    def sampled(self) -> list[list[int]]:
        """Tissue numbers on which patches of each class are centred."""
        numbers: list[list[int]] = [[BACKGROUND], [], []]
        for number, (name, label) in enumerate(self.tissues, 1):
            if name not in NOT_SAMPLED:
                numbers[CLASSES.index(label)].append(number)
        return numbers

    def number(self, shapes: tuple[Shape, ...]) -> Outlines:
        """Pair each polygon with the number of its tissue."""
        names = [name for name, _ in self.tissues]
        return [(names.index(shape.label) + 1, shape.points) for shape in shapes]


def prepare_scc(spec: SccSpec, progress: Progress = silent) -> Path:
    """Write the set and return the path of its manifest.

    Groups are specimens, domains scanners. A training case is named SPECIMEN-NUMBER, a test case
    SPECIMEN-xX-yY by its upper left corner on the reference scan, so that a region has the same
    name in all domains. `SkipshiftError` names the file that cannot be used.
    """
    source = _find_annotations(spec)
    table = _find_only(spec.src, spec.table, (".csv",), "--table")
    annotated = read_annotations(source)
    legend = _tissue_legend(annotated, spec, source)
    scans, remarks = find_scans(spec, annotated)
    splits, notes = split_specimens(list(scans), table, spec)
    jobs, left_out = choose_scans(scans, splits, spec.train)
    if spec.registrations:
        jobs = _add_registrations(spec.registrations, jobs)
    files = [
        *annotation_files(source),
        *([table] if table else []),
        *(job.scan.path for job in jobs),
    ]
    plan = Plan(
        recipe={
            "recipe": _RECIPE_VERSION,
            "reader": "scc",
            **{name: to_plain(getattr(spec, name)) for name in _BYTES_DEPEND_ON},
            "classes": list(CLASSES),
            "files": source_digest(describe_file(path, spec.src) for path in files),
            "registrations": source_digest(
                str(job.registration.affines.tolist()) for job in jobs if job.registration
            ),
        },
        jobs=jobs,
        notes=notes,
        remarks={**remarks, **left_out},
    )
    return write_set(spec.out, plan, partial(cut_patches, spec, legend), spec.workers, progress)


def _add_registrations(folder: Path, jobs: Sequence[ScanJob]) -> list[ScanJob]:
    """Add the registrations; `SkipshiftError` if one starts from another reference."""
    slides = {(job.scan.specimen, job.scan.domain): job.scan.path for job in jobs}
    registrations = read_registrations(folder, slides)
    registered = []
    for job in jobs:
        found = registrations.get((job.scan.specimen, job.scan.domain))
        if found is not None and found.fixed != job.reference.path.name:
            raise SkipshiftError(
                f"{folder}: the registration of {found.moving} starts from {found.fixed}, but the "
                f"reference scan is {job.reference.path.name}; register that one as FIXED"
            )
        registered.append(replace(job, registration=found))
    return registered


def cut_patches(spec: SccSpec, legend: TissueLegend, job: ScanJob) -> JobOutput:
    """Cut one scan into cases; see `prepare_scc`. `SkipshiftError` if a slide cannot be used."""
    remarks: Remarks = defaultdict(list)
    return JobOutput(_samples(spec, legend, job, remarks), remarks)


def _samples(
    spec: SccSpec, legend: TissueLegend, job: ScanJob, remarks: Remarks
) -> Iterator[Sample]:
    scan, reference, name = job.scan, job.reference, job.scan.specimen
    with open_slide(reference.path) as first, open_slide(scan.path) as slide:
        step = slide.downsample(spec.mpp)
        to_scan = find_point_map(job, (first.size, slide.size), most=spec.size * step / 4)
        if to_scan is None and not scan.outlines:
            remark = "slides without outlines that cannot be aligned, left out"
            remarks[remark].append(scan.path.name)
            return
        if to_scan is None:
            remark = "slides that cannot be aligned with their reference scan, cut independently"
            remarks[remark].append(scan.path.name)
            to_scan, first, reference, name = identity, slide, scan, f"{name}-{scan.domain}"
        outlines = legend.number(scan.outlines or _transfer(to_scan, reference.outlines))
        scan_map = reference_map = map_tissues(slide, outlines)
        if reference is not scan:
            reference_map = map_tissues(first, legend.number(reference.outlines))
        choose = _grid_regions if job.split == "test" else _random_regions
        regions = choose(spec, legend, reference_map, first, name)
        if not regions:
            remarks["slides without a region to cut, left out"].append(scan.path.name)
        for region in regions:
            corner = np.rint(to_scan(region.centre)[0] - spec.size * step / 2)
            image = slide.read(corner[0], corner[1], spec.size, spec.size, step)
            tissues = label_pixels(image, outlines, (corner[0], corner[1]), step, scan_map.white)
            row = {"case": region.case, "domain": scan.domain, "group": scan.specimen}
            row |= {"split": job.split, "stratum": region.stratum}
            row |= {"spacing": slide.spacing(step), **_corner_columns(corner)}
            case = f"{scan.domain}/{region.case}"
            if (tissues == UNKNOWN).mean() > _MOST_UNKNOWN:
                remarks[_UNKNOWN_REMARK].append(case)
            # corners are rounded, so a patch at the edge may extend half a pixel beyond
            if (corner < 0).any() or (corner + spec.size * step > np.add(slide.size, 1)).any():
                remarks["cases that extend beyond their slide, padded with white"].append(case)
            yield Sample(row, image, legend.classes[tissues])


def _grid_regions(
    spec: SccSpec, _legend: TissueLegend, tissue_map: TissueMap, slide: Slide, name: str
) -> list[Region]:
    side = _side(spec, slide)
    corners = grid_corners(tissue_map, side, spec.tissue)
    return [
        Region(f"{name}-x{x:06d}-y{y:06d}", "", np.array([[x, y]]) + side / 2) for x, y in corners
    ]


def _random_regions(
    spec: SccSpec, legend: TissueLegend, tissue_map: TissueMap, slide: Slide, name: str
) -> list[Region]:
    side = _side(spec, slide)
    # depends on the specimen's own name, not on the other specimens
    rng = np.random.default_rng((spec.seed, zlib.crc32(name.encode())))
    samples = sample_centres(tissue_map, legend.sampled, WEIGHTS, spec.patches, rng)
    low, high = side / 2, np.array(slide.size) - side / 2
    return [
        Region(f"{name}-{number:03d}", CLASSES[index], np.clip(centre, low, high)[None])
        for number, (index, centre) in enumerate(samples)
    ]


def _side(spec: SccSpec, slide: Slide) -> float:
    """Side of a patch in full-resolution pixels."""
    side = spec.size * slide.downsample(spec.mpp)
    if side > min(slide.size):
        raise SkipshiftError(
            f"{slide.path}: is {slide.size[0]} x {slide.size[1]}, smaller than a patch of "
            f"{side:.0f} pixels; choose a smaller --size or --mpp"
        )
    return side


def _transfer(to_scan: PointMap, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    return tuple(replace(shape, points=to_scan(shape.points)) for shape in shapes)


def _corner_columns(corner: Points) -> dict[str, str]:
    return {axis: f"{at:.0f}" for axis, at in zip("xy", corner, strict=True)}


def _tissue_legend(
    annotated: Mapping[str, AnnotatedSlide], spec: SccSpec, source: Path
) -> TissueLegend:
    classes = {**TISSUES, **dict(text.rsplit("=", 1) for text in spec.labels)}
    for slide in annotated.values():
        for shape in slide.shapes:
            if shape.kind == "polygon" and shape.label not in classes:
                raise SkipshiftError(
                    f"{source}: {slide.slide} has an outline of unknown class {shape.label!r}; "
                    f"assign it with --labels {shape.label!r}=tumor, =non-tumor or =background"
                )
    return TissueLegend(tuple(classes.items()))


def _find_annotations(spec: SccSpec) -> Path:
    """Find the file of annotations, or the folder with those of QuPath."""
    if spec.annotations is not None and annotation_files(spec.src / spec.annotations):
        folder = spec.src / spec.annotations
        if folder.is_dir():
            return folder
    source = _find_only(spec.src, spec.annotations, (".json", ".sqlite"), "--annotations")
    if source is None and annotation_files(spec.src):
        return spec.src
    if source is None:
        raise SkipshiftError(
            f"{spec.src}: has no annotations (*.json, *.sqlite, *.geojson); name them with "
            f"--annotations"
        )
    return source


def _find_only(src: Path, named: Path | None, endings: tuple[str, ...], option: str) -> Path | None:
    """Find the named file, or the only file with such an extension; None if there is none."""
    if named is not None:
        path = src / named
        if not path.is_file() or not path.is_relative_to(src):
            raise SkipshiftError(f"{path}: is not a file in {src}; correct {option}")
        return path
    found = sorted(path for path in src.rglob("*") if path.suffix.lower() in endings)
    if len(found) > 1:
        raise SkipshiftError(
            f"{src}: has {found[0].name} and {found[1].name}; choose one with {option}"
        )
    return found[0] if found else None
