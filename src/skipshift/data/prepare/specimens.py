"""Specimens that several scanners saw: which slides there are, and how they lie to each other."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from skipshift.data.prepare.options import SccSpec
from skipshift.data.prepare.writing import Remarks, read_csv
from skipshift.data.slides.affine import Affine, apply_affine
from skipshift.data.slides.annotations import AnnotatedSlide, Points, Shape
from skipshift.data.slides.reader import ENDINGS
from skipshift.data.slides.registration import Registration
from skipshift.data.splits import draw_holdout
from skipshift.errors import SkipshiftError

Carry = Callable[[Points], Points]
"""(N, 2) places on one slide -> places on another."""

DATASETS = {"train": "train", "val": "train", "test": "test"}
"""Split of each name in the table; a study draws its folds from both of the first."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A slide: one specimen by one scanner."""

    specimen: str
    domain: str
    path: Path
    outlines: tuple[Shape, ...]
    """Its polygons; none where nobody outlined this slide."""


@dataclass(frozen=True, eq=False)
class Unit:
    """A scan that is cut into patches."""

    scan: Scan
    reference: Scan
    """The scan of the same specimen on which the regions are chosen."""
    split: str
    registration: Registration | None = None
    """Where the places of the reference lie on the scan, where that was registered."""


Scans = Mapping[str, Mapping[str, Scan]]
"""Specimen -> domain -> scan, in the order of the spec's scanners."""


def find_scans(spec: SccSpec, annotated: Mapping[str, AnnotatedSlide]) -> tuple[Scans, Remarks]:
    """Find the slides; `SkipshiftError` if there is none, or a specimen twice by one scanner."""
    scanners = dict(text.split("=", 1) for text in spec.scanners)
    slides, others = _slides(spec.src, scanners)
    found: dict[str, dict[str, Scan]] = defaultdict(dict)
    unused = dict(annotated)
    for specimen, domain, path in slides:
        if domain in found[specimen]:
            first = found[specimen][domain].path
            raise SkipshiftError(f"{path}: is there twice, also {first}; remove one")
        # a name that slides of several scanners share tells of the first scanner's alone
        names = _names(path.relative_to(spec.src))
        own = next((unused.pop(name) for name in names if name in unused), None)
        outlines = tuple(shape for shape in own.shapes if shape.kind == "polygon") if own else ()
        found[specimen][domain] = Scan(specimen, domain, path, outlines)
    if not found:
        told = f"; the first of {len(others)} slides is {others[0]}" if others else ""
        raise SkipshiftError(
            f"{spec.src}: holds no slide SPECIMEN_SCANNER.* or SCANNER/SPECIMEN.* with a scanner "
            f"of {', '.join(scanners.values())}{told}; name yours with --scanners"
        )
    return found, {"slides of no known scanner, left out": others}


def split_specimens(
    specimens: Sequence[str], table: Path | None, spec: SccSpec
) -> tuple[dict[str, str], list[str]]:
    """Give each specimen its split: the table's, or that of a hold-out drawn by the seed.

    Returns
    -------
    Specimen -> split, and sentences on how it differs from the paper's.
    """
    if table is None:
        held = draw_holdout([""] * len(specimens), spec.holdout, spec.seed)
        splits = ["test" if out else "train" for out in held]
        return dict(zip(specimens, splits, strict=True)), [
            f"no table of splits: {sum(held)} of {len(held)} specimens, drawn by the seed, are for "
            f"testing, not those of the paper"
        ]
    rows = read_csv(table, ";")
    if missing := [name for name in ("Slide", "Dataset") if name not in rows]:
        raise SkipshiftError(f"{table}: has no column {missing[0]!r}; it must be Slide;Dataset")
    named: dict[str, str] = {}
    for name, dataset in zip(rows["Slide"], rows["Dataset"], strict=True):
        if dataset not in DATASETS:
            raise SkipshiftError(
                f"{table}: {name} has Dataset {dataset!r}; it must be one of {', '.join(DATASETS)}"
            )
        # CATCH names files, the multi-scanner set specimens
        specimen = Path(name).stem if Path(name).suffix.lower() in ENDINGS else name
        if named.setdefault(specimen, DATASETS[dataset]) != DATASETS[dataset]:
            raise SkipshiftError(f"{table}: has {specimen} in train and in test; remove one row")
    return named, []


def choose_units(
    scans: Scans, splits: Mapping[str, str], train: Sequence[str]
) -> tuple[list[Unit], Remarks]:
    """Choose what is cut: training specimens in the domains ``train``, test specimens in all.

    Returns
    -------
    Training units before test units, and the names of what is left out.
    """
    no_outline = "slides of specimens without outlines, left out"
    not_trained = "slides of training specimens by scanners that are not trained on, left out"
    remarks: Remarks = {
        "specimens without a row in the table, left out": sorted(set(scans) - set(splits)),
        "specimens of the table without slides": sorted(set(splits) - set(scans)),
        no_outline: [],
        not_trained: [],
    }
    units = []
    for specimen in sorted(set(scans) & set(splits)):
        reference = next((scan for scan in scans[specimen].values() if scan.outlines), None)
        for domain, scan in scans[specimen].items():
            if reference is None:
                remarks[no_outline].append(scan.path.name)
            elif splits[specimen] == "train" and domain not in train:
                remarks[not_trained].append(scan.path.name)
            else:
                units.append(Unit(scan, reference, splits[specimen]))
    return sorted(units, key=lambda unit: unit.split == "test"), remarks


def find_carry(
    unit: Unit, sizes: tuple[tuple[int, int], tuple[int, int]], most: float
) -> Carry | None:
    """Find where the reference lies on the scan, or None if nothing tells.

    Annotations that were carried from one scan to the others have the same corners in the same
    order, so they tell it by themselves; slides of equal size are taken as registered already.

    Parameters
    ----------
    sizes
        Width and height of the reference and of the scan.
    most
        Pixels by which 19 of 20 corners may miss at the most.
    """
    if unit.scan is unit.reference:
        return stay
    if unit.registration is not None:
        transfer = unit.registration.transfer
        return lambda points: transfer(points)[0]
    fitted = _fit(unit.reference.outlines, unit.scan.outlines, most)
    if fitted is not None:
        return partial(apply_affine, fitted)
    return stay if sizes[0] == sizes[1] else None


def stay(points: Points) -> Points:
    """Leave points where they are."""
    return points


def _slides(
    src: Path, scanners: Mapping[str, str]
) -> tuple[list[tuple[str, str, Path]], list[str]]:
    """Specimen, domain and path of each slide, scanner by scanner, and names of other slides."""
    found, others = [], []
    for path in sorted(src.rglob("*")):
        if path.suffix.lower() not in ENDINGS or not path.is_file():
            continue
        place = path.relative_to(src)
        for number, (domain, scanner) in enumerate(scanners.items()):
            specimen = path.stem.removesuffix(f"_{scanner}")
            if specimen != path.stem or scanner in place.parts[:-1]:
                found.append((number, specimen, domain, path))
                break
        else:
            others.append(place.as_posix())
    return [slide[1:] for slide in sorted(found)], others


def _names(place: Path) -> list[str]:
    """List what annotations may call a slide, the longest first: a/b.svs, b.svs."""
    return ["/".join(place.parts[start:]) for start in range(len(place.parts))]


def _fit(first: Sequence[Shape], other: Sequence[Shape], most: float) -> Affine | None:
    """Fit an affine map by least squares to corners that correspond one to one."""
    kinds = [[(shape.label, len(shape.points)) for shape in shapes] for shapes in (first, other)]
    if kinds[0] != kinds[1]:
        return None
    source, target = (np.concatenate([shape.points for shape in s]) for s in (first, other))
    # about their middle, lest large coordinates hide a degenerate set of points
    centre = source.mean(axis=0)
    table = np.column_stack([source - centre, np.ones(len(source))])
    solved, _, rank, _ = np.linalg.lstsq(table, target, rcond=None)
    misses = np.linalg.norm(table @ solved - target, axis=1)
    if rank < 3 or np.quantile(misses, 0.95) > most:
        return None
    turned = solved[:2].T
    return np.column_stack([turned, solved[2] - turned @ centre])
