"""Specimens digitised by several scanners: their slides, splits, and alignment of the scans."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from skipshift.data.prepare.slide_options import SccSpec
from skipshift.data.prepare.writing import Remarks, read_csv
from skipshift.data.slides.affine import Affine, apply_affine
from skipshift.data.slides.annotations import AnnotatedSlide, Points, Shape
from skipshift.data.slides.reader import ENDINGS
from skipshift.data.slides.registration import Registration
from skipshift.data.splits import draw_holdout
from skipshift.errors import SkipshiftError

PointMap = Callable[[Points], Points]
"""(N, 2) points on one slide -> the same points on another."""

DATASETS = {"train": "train", "val": "train", "test": "test"}
"""Split of each Dataset in a table; a study draws its validation folds from train and val."""


@dataclass(frozen=True, eq=False)
class SpecimenScan:
    """A whole-slide image: one specimen digitised by one scanner."""

    specimen: str
    domain: str
    path: Path
    outlines: tuple[Shape, ...]
    """Polygons annotated on this slide; may be empty."""


@dataclass(frozen=True, eq=False)
class ScanJob:
    """A scan to cut into patches."""

    scan: SpecimenScan
    reference: SpecimenScan
    """Scan of the same specimen on which the regions are chosen."""
    split: str
    registration: Registration | None = None
    """Registration from the reference to the scan, if there is one."""


SpecimenScans = Mapping[str, Mapping[str, SpecimenScan]]
"""Specimen -> domain -> scan, in the order of the spec's scanners."""


def find_scans(
    spec: SccSpec, annotated: Mapping[str, AnnotatedSlide]
) -> tuple[SpecimenScans, Remarks]:
    """Find the slides of each specimen, and the names of slides of unknown scanners.

    `SkipshiftError` if there is no slide, or two of one specimen by the same scanner.
    """
    scanners = dict(text.split("=", 1) for text in spec.scanners)
    slides, others = _list_slides(spec.src, scanners)
    scans: dict[str, dict[str, SpecimenScan]] = defaultdict(dict)
    unused = dict(annotated)
    for specimen, domain, path in slides:
        if domain in scans[specimen]:
            first = scans[specimen][domain].path
            raise SkipshiftError(
                f"{path}: is the same specimen and scanner as {first}; remove one of them"
            )
        # if slides of several scanners share a file name, its annotations are the first scanner's
        names = _possible_names(path.relative_to(spec.src))
        annotation = next((unused.pop(name) for name in names if name in unused), None)
        shapes = annotation.shapes if annotation else ()
        outlines = tuple(shape for shape in shapes if shape.kind == "polygon")
        scans[specimen][domain] = SpecimenScan(specimen, domain, path, outlines)
    if not scans:
        example = f"; the first of {len(others)} slides is {others[0]}" if others else ""
        raise SkipshiftError(
            f"{spec.src}: has no slide SPECIMEN_SCANNER.* or SCANNER/SPECIMEN.* of the scanners "
            f"{', '.join(scanners.values())}{example}; name yours with --scanners"
        )
    return scans, {"slides of unknown scanners, left out": others}


def split_specimens(
    specimens: Sequence[str], table: Path | None, spec: SccSpec
) -> tuple[dict[str, str], list[str]]:
    """Assign each specimen its split: that of the table, or a random hold-out.

    Returns
    -------
    Specimen -> split, and notes on differences from the paper.

    `SkipshiftError` if the table is invalid or puts a specimen on both sides.
    """
    if table is None:
        held_out = draw_holdout([""] * len(specimens), spec.holdout, spec.seed)
        splits = ["test" if out else "train" for out in held_out]
        return dict(zip(specimens, splits, strict=True)), [
            f"no table of splits: {sum(held_out)} of {len(held_out)} specimens are drawn at random "
            f"for testing, not those of the paper"
        ]
    rows = read_csv(table, ";")
    if missing := [name for name in ("Slide", "Dataset") if name not in rows]:
        raise SkipshiftError(f"{table}: has no column {missing[0]!r}; it must be Slide;Dataset")
    splits_of: dict[str, str] = {}
    for name, dataset in zip(rows["Slide"], rows["Dataset"], strict=True):
        if dataset not in DATASETS:
            raise SkipshiftError(
                f"{table}: {name} has Dataset {dataset!r}; it must be one of {', '.join(DATASETS)}"
            )
        # CATCH lists file names, the multi-scanner set specimens
        specimen = Path(name).stem if Path(name).suffix.lower() in ENDINGS else name
        if splits_of.setdefault(specimen, DATASETS[dataset]) != DATASETS[dataset]:
            raise SkipshiftError(
                f"{table}: has {specimen} in both train and test; remove one of the rows"
            )
    return splits_of, []


def choose_scans(
    scans: SpecimenScans, splits: Mapping[str, str], train: Sequence[str]
) -> tuple[list[ScanJob], Remarks]:
    """Choose the scans to cut: training specimens in the domains ``train``, test specimens in all.

    Returns
    -------
    Training jobs before test jobs, and the names of slides and specimens left out.
    """
    no_outline = "slides of specimens without outlines, left out"
    not_trained = "slides of training specimens in other domains, left out"
    remarks: Remarks = {
        "specimens without a row in the table, left out": sorted(set(scans) - set(splits)),
        "specimens of the table without slides": sorted(set(splits) - set(scans)),
        no_outline: [],
        not_trained: [],
    }
    jobs = []
    for specimen in sorted(set(scans) & set(splits)):
        reference = next((scan for scan in scans[specimen].values() if scan.outlines), None)
        for domain, scan in scans[specimen].items():
            if reference is None:
                remarks[no_outline].append(scan.path.name)
            elif splits[specimen] == "train" and domain not in train:
                remarks[not_trained].append(scan.path.name)
            else:
                jobs.append(ScanJob(scan, reference, splits[specimen]))
    return sorted(jobs, key=lambda job: job.split == "test"), remarks


def find_point_map(
    job: ScanJob, sizes: tuple[tuple[int, int], tuple[int, int]], most: float
) -> PointMap | None:
    """Map points from the reference scan to the scan, or None if the scans cannot be aligned.

    By the registration, if there is one. Otherwise by the outlines: annotations transferred from
    one scan to the others have corresponding vertices in the same order. Otherwise slides of equal
    size count as already registered.

    Parameters
    ----------
    sizes
        Width and height of the reference and of the scan.
    most
        Maximum residual of the fitted vertices in pixels, at their 95th percentile.
    """
    if job.scan is job.reference:
        return identity
    if job.registration is not None:
        transfer = job.registration.transfer
        return lambda points: transfer(points)[0]
    fitted = _fit_affine(job.reference.outlines, job.scan.outlines, most)
    if fitted is not None:
        return partial(apply_affine, fitted)
    return identity if sizes[0] == sizes[1] else None


def identity(points: Points) -> Points:
    """Return the points unchanged."""
    return points


def _list_slides(
    src: Path, scanners: Mapping[str, str]
) -> tuple[list[tuple[str, str, Path]], list[str]]:
    """Specimen, domain and path of each slide, by scanner, and the names of other slides."""
    slides, others = [], []
    for path in sorted(src.rglob("*")):
        if path.suffix.lower() not in ENDINGS or not path.is_file():
            continue
        relative = path.relative_to(src)
        for number, (domain, scanner) in enumerate(scanners.items()):
            specimen = path.stem.removesuffix(f"_{scanner}")
            if specimen != path.stem or scanner in relative.parts[:-1]:
                slides.append((number, specimen, domain, path))
                break
        else:
            others.append(relative.as_posix())
    return [slide[1:] for slide in sorted(slides)], others


def _possible_names(path: Path) -> list[str]:
    """Names by which annotations may refer to a slide, the longest first: a/b.svs, b.svs, b."""
    return ["/".join(path.parts[start:]) for start in range(len(path.parts))] + [path.stem]


def _fit_affine(first: Sequence[Shape], other: Sequence[Shape], most: float) -> Affine | None:
    """Fit an affine map by least squares to vertices that correspond one to one."""
    kinds = [[(shape.label, len(shape.points)) for shape in shapes] for shapes in (first, other)]
    if kinds[0] != kinds[1]:
        return None
    source, target = (np.concatenate([shape.points for shape in s]) for s in (first, other))
    # centred, because large coordinates would hide a degenerate set of points
    centre = source.mean(axis=0)
    table = np.column_stack([source - centre, np.ones(len(source))])
    solved, _, rank, _ = np.linalg.lstsq(table, target, rcond=None)
    residuals = np.linalg.norm(table @ solved - target, axis=1)
    if rank < 3 or np.quantile(residuals, 0.95) > most:
        return None
    linear = solved[:2].T
    return np.column_stack([linear, solved[2] - linear @ centre])
