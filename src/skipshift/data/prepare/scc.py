"""Whole-slide images with outlines of tissues as the paper's MS-CCT set (section III-C)."""

import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from skipshift.data.images import Pixels
from skipshift.data.prepare.options import SccSpec
from skipshift.data.prepare.regions import (
    BACKGROUND,
    UNKNOWN,
    Outlines,
    TissueMap,
    draw_centres,
    grid_corners,
    label_pixels,
    map_tissues,
)
from skipshift.data.prepare.specimens import (
    Carry,
    Unit,
    choose_units,
    find_carry,
    find_scans,
    split_specimens,
    stay,
)
from skipshift.data.prepare.writing import (
    Made,
    Plan,
    Remarks,
    Sample,
    describe_file,
    fingerprint,
    write_set,
)
from skipshift.data.slides.annotations import AnnotatedSlide, Points, Shape, read_annotations
from skipshift.data.slides.reader import Slide, open_slide
from skipshift.data.slides.registration import read_registrations
from skipshift.errors import SkipshiftError
from skipshift.progress import Progress, silent
from skipshift.specs import to_plain

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
"""Class of each of CATCH's 13 tissues, as the authors of the set merge them."""

NOT_DRAWN = ("Bone", "Cartilage", "Inflamm/Necrosis")
"""Tissues on which no patch for training is centred: the authors of the set call them noisy."""

WEIGHTS = (0.1, 0.45, 0.45)
"""How often a patch for training is centred on each of `CLASSES`."""

_RECIPE_VERSION = 1
"""To be raised by any change of the reader that changes the bytes of a set."""

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
"""Share of a patch that may be tissue without an outline before it is told."""

_UNKNOWN_TOLD = "cases with more than a tenth of tissue that nobody outlined, taken as non-tumor"


@dataclass(frozen=True, eq=False)
class Region:
    """A place to cut."""

    case: str
    stratum: str
    middle: Points
    """(1, 2)."""


@dataclass(frozen=True)
class Legend:
    """Numbers of the annotated tissues: 1, 2, ... in their order."""

    kinds: tuple[tuple[str, str], ...]
    """Name and class of each."""

    @property
    def classes(self) -> Pixels:
        """(256,) class of each number; tissue that nobody outlined is no tumor."""
        table = np.zeros(256, np.uint8)
        table[1 : len(self.kinds) + 1] = [CLASSES.index(kind) for _, kind in self.kinds]
        table[UNKNOWN] = CLASSES.index("non-tumor")
        return table

    @property
    def drawn(self) -> list[list[int]]:
        """Numbers on which patches of each class are centred."""
        numbers: list[list[int]] = [[BACKGROUND], [], []]
        for number, (name, kind) in enumerate(self.kinds, 1):
            if name not in NOT_DRAWN:
                numbers[CLASSES.index(kind)].append(number)
        return numbers

    def number(self, shapes: tuple[Shape, ...]) -> Outlines:
        """Polygons with the numbers of their tissues."""
        names = [name for name, _ in self.kinds]
        return [(names.index(shape.label) + 1, shape.points) for shape in shapes]


def prepare_scc(spec: SccSpec, progress: Progress = silent) -> Path:
    """Write the set and return the path of its manifest.

    Groups are specimens, domains scanners. A case for training is named SPECIMEN-NUMBER, a case
    for testing SPECIMEN-xX-yY with the left upper corner on the specimen's reference: one region
    has one name in all scanners. `SkipshiftError` names the file at fault.
    """
    source = _only(spec.src, spec.annotations, (".json", ".sqlite"), "--annotations")
    table = _only(spec.src, spec.table, (".csv",), "--table")
    if source is None:
        raise SkipshiftError(
            f"{spec.src}: holds no annotations, *.json or *.sqlite; name them with --annotations"
        )
    annotated = read_annotations(source)
    legend = _legend(annotated, spec, source)
    scans, remarks = find_scans(spec, annotated)
    splits, notes = split_specimens(list(scans), table, spec)
    units, left_out = choose_units(scans, splits, spec.train)
    if spec.registrations:
        units = _registered(spec.registrations, units)
    files = [source, *([table] if table else []), *(unit.scan.path for unit in units)]
    plan = Plan(
        recipe={
            "recipe": _RECIPE_VERSION,
            "reader": "scc",
            **{name: to_plain(getattr(spec, name)) for name in _BYTES_DEPEND_ON},
            "classes": list(CLASSES),
            "files": fingerprint(describe_file(path, spec.src) for path in files),
            "registrations": fingerprint(
                str(unit.registration.affines.tolist()) for unit in units if unit.registration
            ),
        },
        units=units,
        notes=notes,
        remarks={**remarks, **left_out},
    )
    return write_set(spec.out, plan, partial(cut_patches, spec, legend), spec.workers, progress)


def _registered(folder: Path, units: Sequence[Unit]) -> list[Unit]:
    """Give each unit its registration; `SkipshiftError` if one starts from another reference."""
    slides = {(unit.scan.specimen, unit.scan.domain): unit.scan.path for unit in units}
    found = read_registrations(folder, slides)
    placed = []
    for unit in units:
        own = found.get((unit.scan.specimen, unit.scan.domain))
        if own is not None and own.fixed != unit.reference.path.name:
            raise SkipshiftError(
                f"{folder}: the registration of {own.moving} starts from {own.fixed}, but its "
                f"regions are chosen on {unit.reference.path.name}; register that one to it"
            )
        placed.append(replace(unit, registration=own))
    return placed


def cut_patches(spec: SccSpec, legend: Legend, unit: Unit) -> Made:
    """Cut one scan into cases; see `prepare_scc`."""
    remarks: Remarks = defaultdict(list)
    return Made(_samples(spec, legend, unit, remarks), remarks)


def _samples(spec: SccSpec, legend: Legend, unit: Unit, remarks: Remarks) -> Iterator[Sample]:
    scan, reference, name = unit.scan, unit.reference, unit.scan.specimen
    with open_slide(reference.path) as first, open_slide(scan.path) as slide:
        step = slide.downsample(spec.mpp)
        carry = find_carry(unit, (first.size, slide.size), most=spec.size * step / 4)
        if carry is None and not scan.outlines:
            remarks["slides without outlines that nothing places, left out"].append(scan.path.name)
            return
        if carry is None:
            told = "slides that nothing places on the first of their specimen, cut on their own"
            remarks[told].append(scan.path.name)
            carry, first, reference, name = stay, slide, scan, f"{name}-{scan.domain}"
        outlines = legend.number(scan.outlines or _carried(carry, reference.outlines))
        own = chosen = map_tissues(slide, outlines)
        if reference is not scan:
            chosen = map_tissues(first, legend.number(reference.outlines))
        choose = _grid if unit.split == "test" else _draw
        regions = choose(spec, legend, chosen, first, name)
        if not regions:
            remarks["slides with no place to cut, left out"].append(scan.path.name)
        for region in regions:
            corner = np.rint(carry(region.middle)[0] - spec.size * step / 2)
            image = slide.read(corner[0], corner[1], spec.size, spec.size, step)
            tissues = label_pixels(image, outlines, (corner[0], corner[1]), step, own.white)
            row = {"case": region.case, "domain": scan.domain, "group": scan.specimen}
            row |= {"split": unit.split, "stratum": region.stratum}
            row |= {"spacing": slide.spacing(step), **_place(corner)}
            case = f"{scan.domain}/{region.case}"
            if (tissues == UNKNOWN).mean() > _MOST_UNKNOWN:
                remarks[_UNKNOWN_TOLD].append(case)
            # corners are rounded, so a patch at the edge may reach half a pixel beyond
            if (corner < 0).any() or (corner + spec.size * step > np.add(slide.size, 1)).any():
                remarks["cases that reach beyond their slide, white there"].append(case)
            yield Sample(row, image, legend.classes[tissues])


def _grid(
    spec: SccSpec, _legend: Legend, tissue_map: TissueMap, slide: Slide, name: str
) -> list[Region]:
    side = _side(spec, slide)
    corners = grid_corners(tissue_map, side, spec.tissue)
    return [
        Region(f"{name}-x{x:06d}-y{y:06d}", "", np.array([[x, y]]) + side / 2) for x, y in corners
    ]


def _draw(
    spec: SccSpec, legend: Legend, tissue_map: TissueMap, slide: Slide, name: str
) -> list[Region]:
    side = _side(spec, slide)
    # a specimen's draws hang on its own name, not on which others there are
    rng = np.random.default_rng((spec.seed, zlib.crc32(name.encode())))
    drawn = draw_centres(tissue_map, legend.drawn, WEIGHTS, spec.patches, rng)
    low, high = side / 2, np.array(slide.size) - side / 2
    return [
        Region(f"{name}-{number:03d}", CLASSES[index], np.clip(place, low, high)[None])
        for number, (index, place) in enumerate(drawn)
    ]


def _side(spec: SccSpec, slide: Slide) -> float:
    """Side of a patch in full-resolution pixels."""
    side = spec.size * slide.downsample(spec.mpp)
    if side > min(slide.size):
        raise SkipshiftError(
            f"{slide.path}: is {slide.size[0]} x {slide.size[1]}, less than a patch of {side:.0f} "
            f"pixels; choose a smaller --size or --mpp"
        )
    return side


def _carried(carry: Carry, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    return tuple(replace(shape, points=carry(shape.points)) for shape in shapes)


def _place(corner: Points) -> dict[str, str]:
    return {axis: f"{at:.0f}" for axis, at in zip("xy", corner, strict=True)}


def _legend(annotated: Mapping[str, AnnotatedSlide], spec: SccSpec, source: Path) -> Legend:
    kinds = {**TISSUES, **dict(text.rsplit("=", 1) for text in spec.labels)}
    for slide in annotated.values():
        for shape in slide.shapes:
            if shape.kind == "polygon" and shape.label not in kinds:
                raise SkipshiftError(
                    f"{source}: {slide.slide} has an outline of class {shape.label!r}; say what it "
                    f"is with --labels {shape.label!r}=tumor, =non-tumor or =background"
                )
    return Legend(tuple(kinds.items()))


def _only(src: Path, named: Path | None, endings: tuple[str, ...], option: str) -> Path | None:
    """File that is named, or the only one of its endings below the source; None if none is."""
    if named is not None:
        path = src / named
        if not path.is_file() or not path.is_relative_to(src):
            raise SkipshiftError(f"{path}: is no file below {src}; correct {option}")
        return path
    found = sorted(path for path in src.rglob("*") if path.suffix.lower() in endings)
    if len(found) > 1:
        raise SkipshiftError(
            f"{src}: holds {found[0].name}, {found[1].name}; say which with {option}"
        )
    return found[0] if found else None
