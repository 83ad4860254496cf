"""Patches around points of a slide, and the same patches on other scans of it."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.images import Pixels
from skipshift.data.prepare.corrections import Corrections
from skipshift.data.prepare.options import MitosisSpec
from skipshift.data.prepare.regions import paint_outlines
from skipshift.data.prepare.writing import Made, Remarks, Sample
from skipshift.data.slides.annotations import AnnotatedSlide, Points
from skipshift.data.slides.reader import Slide, open_slide
from skipshift.data.slides.registration import Transfer
from skipshift.errors import SkipshiftError

FIGURE, NEGATIVE = "mitotic figure", "hard negative"
"""Strata; masks hold 1 where a mitotic figure is and 0 elsewhere."""

NOMINAL = 0.25
"""Micrometres of a pixel where neither slide nor user tells: that of a scan at 40 times."""

MARGIN = 32
"""Pixels beyond a patch in which figures are drawn too, as other scans may lie turned."""

Propose = Callable[[Pixels, float], Pixels]
"""Patch (H, W, 3), micrometres of a pixel -> (H, W), 1 where the figure in its middle is."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A slide by one scanner."""

    path: Path
    domain: str
    specimen: str
    """Scans of one glass slide share it."""
    split: str
    """Empty where no list tells."""
    annotated: AnnotatedSlide | None = None


@dataclass(frozen=True, eq=False)
class Unit:
    """A slide with points, and the other scans that they are carried to."""

    scan: Scan
    split: str
    places: Points
    """(N, 2) middles of the cases, in full-resolution pixels."""
    strata: tuple[str, ...]
    """(N,) `FIGURE` or `NEGATIVE`."""
    targets: tuple[tuple[Scan, Transfer], ...] = ()

    @property
    def cases(self) -> list[str]:
        """(N,) names of the cases."""
        return [f"{self.scan.specimen}-x{x:06.0f}-y{y:06.0f}" for x, y in self.places]


@dataclass(frozen=True, eq=False)
class View:
    """An open scan, and where on it the cases are."""

    scan: Scan
    slide: Slide
    downsample: float
    middles: Points
    """(N, 2) of the cases."""
    errors: npt.NDArray[np.float64]
    """(N,) how far each may be off, in micrometres."""
    transfer: Transfer | None
    """What carried them here; None on the scan with the points."""

    @property
    def mpp(self) -> float:
        """Micrometres of a patch's pixel."""
        return _width(self.slide) * self.downsample

    def corner(self, index: int, side: int) -> Points:
        """(2,) left upper corner of a patch around a case, in whole pixels of the slide."""
        corner: Points = np.rint(self.middles[index] - side * self.downsample / 2)
        return corner

    def read(self, corner: Points, side: int) -> Pixels:
        """(side, side, 3)."""
        return self.slide.read(corner[0], corner[1], side, side, self.downsample)

    def holds(self, index: int, side: int) -> bool:
        """Whether the slide has pixels for all of a patch."""
        low = self.corner(index, side)
        high = low + side * self.downsample
        return bool((low >= 0).all() and (high <= self.slide.size).all())


def cut_figures(spec: MitosisSpec, corrections: Corrections, propose: Propose, unit: Unit) -> Made:
    """Cut every case of a unit from all of its scans.

    A mask holds all figures that have a point in its patch or near it. It is made on the scan with
    the points; other scans get its outlines carried, so that no label hangs on how a scanner
    renders the figure. What cannot be cut from one of the scans is left out on all.
    """
    remarks: Remarks = defaultdict(list)
    return Made(_samples(spec, corrections, propose, unit, remarks), remarks)


def _samples(
    spec: MitosisSpec, corrections: Corrections, propose: Propose, unit: Unit, remarks: Remarks
) -> Iterator[Sample]:
    inner = np.s_[MARGIN : MARGIN + spec.size, MARGIN : MARGIN + spec.size]
    cases, figures = unit.cases, [i for i, name in enumerate(unit.strata) if name == FIGURE]
    with contextlib.ExitStack() as stack:
        views = _open_views(stack, unit, spec, remarks)
        # neighbours meet each other's patches
        draw = cache(partial(_proposed, views[0], spec.size, propose))
        for index in _usable(unit, views, spec, remarks):
            case = cases[index]
            corner = views[0].corner(index, spec.size + 2 * MARGIN)
            mask = _drawn(views[0], figures, corner, spec.size, draw)
            mask[inner], state = corrections.apply(case, mask[inner])
            if state == "changed":
                told = "masks that have changed since they were accepted, to be reviewed again"
                remarks[told].append(case)
            if unit.strata[index] == FIGURE and not mask[inner].any():
                remarks["figures without a mask, to be painted"].append(case)
            row = {"case": case, "group": unit.scan.specimen, "split": unit.split}
            row |= {"stratum": unit.strata[index], "reviewed": "yes" if state == "yes" else "no"}
            yield _sample(views[0], row, views[0].corner(index, spec.size), mask[inner])
            outlines = _outlines(mask, corner, views[0].downsample)
            for view in views[1:]:
                own = view.corner(index, spec.size)
                yield _sample(view, row, own, _carried(view, outlines, own, spec.size))


def _sample(view: View, row: Mapping[str, str], corner: Points, mask: Pixels) -> Sample:
    placed = {"x": f"{corner[0]:.0f}", "y": f"{corner[1]:.0f}"}
    placed["spacing"] = view.slide.spacing(view.downsample)
    row = {**row, "domain": view.scan.domain, **placed}
    return Sample(row, view.read(corner, len(mask)), np.ascontiguousarray(mask))


def _proposed(view: View, size: int, propose: Propose, index: int) -> tuple[Points, Pixels]:
    """Corner and mask of a figure, in the middle of a patch of its own.

    Networks that were trained on patches around figures find none elsewhere.
    """
    corner = view.corner(index, size)
    return corner, propose(view.read(corner, size), view.mpp)


def _drawn(
    view: View,
    figures: Sequence[int],
    corner: Points,
    size: int,
    draw: Callable[[int], tuple[Points, Pixels]],
) -> Pixels:
    """Mask of a patch with its margin: all figures that have their middle in it."""
    side = size + 2 * MARGIN
    middles = (view.middles[figures] - corner) / view.downsample
    inside = ((middles >= 0) & (middles < side)).all(axis=1)
    canvas = np.zeros((side + 2 * size, side + 2 * size), np.uint8)
    for index in np.asarray(figures)[inside]:
        own, mask = draw(int(index))
        left, top = np.rint((own - corner) / view.downsample).astype(int) + size
        canvas[top : top + size, left : left + size] |= mask
    return canvas[size:-size, size:-size]


def _outlines(mask: Pixels, corner: Points, downsample: float) -> list[Points]:
    """Outlines of the parts of a mask on its slide; a coordinate is the middle of its pixel."""
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [(outline[:, 0] + 0.5) * downsample - 0.5 + corner for outline in found]


def _carried(view: View, outlines: Sequence[Points], corner: Points, size: int) -> Pixels:
    assert view.transfer
    moved = [(1, view.transfer(outline)[0]) for outline in outlines]
    empty = np.zeros((size, size), np.uint8)
    return paint_outlines(empty, moved, (corner[0], corner[1]), view.downsample)


def _open_views(
    stack: contextlib.ExitStack, unit: Unit, spec: MitosisSpec, remarks: Remarks
) -> list[View]:
    first = _open(stack, unit.scan, remarks)
    size = unit.scan.annotated.size if unit.scan.annotated else None
    if size and size != first.size:
        sizes = [" x ".join(map(str, sides)) for sides in (first.size, size)]
        raise SkipshiftError(
            f"{unit.scan.path}: is {sizes[0]}, but its annotations are of a slide of {sizes[1]}; "
            f"correct one of them or add --leave-out {unit.scan.path.name}"
        )
    sure = np.zeros(len(unit.places))
    views = [View(unit.scan, first, first.downsample(spec.mpp), unit.places, sure, None)]
    for scan, transfer in unit.targets:
        slide = _open(stack, scan, remarks)
        middles, errors = transfer(unit.places)
        errors = errors * _width(slide)
        views.append(View(scan, slide, slide.downsample(spec.mpp), middles, errors, transfer))
    return views


def _open(stack: contextlib.ExitStack, scan: Scan, remarks: Remarks) -> Slide:
    slide = stack.enter_context(open_slide(scan.path))
    if slide.mpp is None:
        told = f"slides that do not tell how wide their pixels are, taken as {NOMINAL} micrometres"
        remarks[told].append(scan.path.name)
    return slide


def _width(slide: Slide) -> float:
    """Micrometres of a pixel at full resolution."""
    return NOMINAL if slide.mpp is None else sum(slide.mpp) / 2


def _usable(
    unit: Unit, views: Sequence[View], spec: MitosisSpec, remarks: Remarks
) -> Iterator[int]:
    """Yield the cases that can be cut from all scans."""
    for index, case in enumerate(unit.cases):
        unsure = [view for view in views if view.errors[index] > spec.most_error]
        beyond = [view for view in views if not view.holds(index, spec.size)]
        if unsure:
            told = f"cases that the registration may place over {spec.most_error} micrometres off"
            remarks[f"{told}, left out"].append(case)
        elif beyond:
            remarks["cases that reach beyond their slide, left out"].append(case)
        else:
            yield index
