"""Patches around points of a slide, cut from all of its scans."""

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
from skipshift.data.prepare.regions import paint_outlines
from skipshift.data.prepare.slide_options import MitosisSpec
from skipshift.data.prepare.writing import JobOutput, Remarks, Sample
from skipshift.data.slides.annotations import AnnotatedSlide, Points
from skipshift.data.slides.reader import Slide, open_slide
from skipshift.data.slides.registration import Transfer
from skipshift.errors import SkipshiftError

FIGURE, NEGATIVE = "mitotic figure", "hard negative"
"""Strata; masks are 1 on mitotic figures and 0 elsewhere."""

DEFAULT_MPP = 0.25
"""Micrometres per pixel of a slide that does not state it: that of a scan at 40x."""

MARGIN = 32
"""Pixels around a patch in which masks are made too, because other scans may be rotated."""

Propose = Callable[[Pixels, float], Pixels]
"""Patch (H, W, 3), micrometres per pixel -> mask (H, W) of the figure at its centre."""


@dataclass(frozen=True, eq=False)
class MitosisScan:
    """A slide digitised by one scanner."""

    path: Path
    domain: str
    specimen: str
    """Shared by all scans of a glass slide."""
    split: str
    """Empty if no table states it."""
    annotated: AnnotatedSlide | None = None


@dataclass(frozen=True, eq=False)
class FigureJob:
    """A slide with points, and the other scans to transfer them to."""

    scan: MitosisScan
    split: str
    centres: Points
    """(N, 2) patch centres in full-resolution pixels."""
    strata: tuple[str, ...]
    """(N,) `FIGURE` or `NEGATIVE`."""
    targets: tuple[tuple[MitosisScan, Transfer], ...] = ()

    @property
    def cases(self) -> list[str]:
        """Case names, N of them."""
        return [f"{self.scan.specimen}-x{x:06.0f}-y{y:06.0f}" for x, y in self.centres]


@dataclass(frozen=True, eq=False)
class OpenScan:
    """An open scan with the patch centres on it."""

    scan: MitosisScan
    slide: Slide
    downsample: float
    centres: Points
    """(N, 2) in full-resolution pixels."""
    errors: npt.NDArray[np.float64]
    """(N,) estimated registration errors in micrometres."""
    transfer: Transfer | None
    """Transfer from the annotated scan; None on the annotated scan itself."""

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of the patches."""
        return _slide_mpp(self.slide) * self.downsample

    def corner(self, index: int, side: int) -> Points:
        """Upper left corner (2,) of the patch around a case, rounded to slide pixels."""
        corner: Points = np.rint(self.centres[index] - side * self.downsample / 2)
        return corner

    def read(self, corner: Points, side: int) -> Pixels:
        """Read a patch (side, side, 3)."""
        return self.slide.read(corner[0], corner[1], side, side, self.downsample)

    def contains(self, index: int, side: int) -> bool:
        """Check whether the patch around a case lies wholly on the slide."""
        low = self.corner(index, side)
        high = low + side * self.downsample
        return bool((low >= 0).all() and (high <= self.slide.size).all())


def cut_figures(
    spec: MitosisSpec, corrections: Corrections, propose: Propose, job: FigureJob
) -> JobOutput:
    """Cut every case of a job from all of its scans.

    A mask contains all figures with a point in the patch or near it. It is made on the annotated
    scan, and its outlines are transferred to the other scans, so that labels do not depend on how
    a scanner renders the figure. A case that cannot be cut from one scan is left out on all.
    `SkipshiftError` if a slide does not fit its annotations or corrections.
    """
    remarks: Remarks = defaultdict(list)
    return JobOutput(_samples(spec, corrections, propose, job, remarks), remarks)


def _samples(
    spec: MitosisSpec, corrections: Corrections, propose: Propose, job: FigureJob, remarks: Remarks
) -> Iterator[Sample]:
    inner = np.s_[MARGIN : MARGIN + spec.size, MARGIN : MARGIN + spec.size]
    cases, figures = job.cases, [i for i, name in enumerate(job.strata) if name == FIGURE]
    with contextlib.ExitStack() as stack:
        annotated, *others = scans = _open_scans(stack, job, spec, remarks)
        # cached, because a figure may lie in several patches
        figure_mask = cache(partial(_propose_at, annotated, spec.size, propose))
        for index in _usable(job, scans, spec, remarks):
            case = cases[index]
            corner = annotated.corner(index, spec.size + 2 * MARGIN)
            mask = _merge_masks(annotated, figures, corner, spec.size, figure_mask)
            mask[inner], state = corrections.apply(case, mask[inner])
            if state == "changed":
                remark = "masks that have changed since they were accepted, to be reviewed again"
                remarks[remark].append(case)
            if job.strata[index] == FIGURE and not mask[inner].any():
                remarks["figures without a mask, to be painted"].append(case)
            row = {"case": case, "group": job.scan.specimen, "split": job.split}
            row |= {"stratum": job.strata[index], "reviewed": "yes" if state == "yes" else "no"}
            yield _sample(annotated, row, annotated.corner(index, spec.size), mask[inner])
            outlines = _outlines(mask, corner, annotated.downsample)
            for scan in others:
                corner = scan.corner(index, spec.size)
                yield _sample(scan, row, corner, _transfer(scan, outlines, corner, spec.size))


def _sample(scan: OpenScan, row: Mapping[str, str], corner: Points, mask: Pixels) -> Sample:
    row = {**row, "domain": scan.scan.domain, "x": f"{corner[0]:.0f}", "y": f"{corner[1]:.0f}"}
    row["spacing"] = scan.slide.spacing(scan.downsample)
    return Sample(row, scan.read(corner, len(mask)), np.ascontiguousarray(mask))


def _propose_at(scan: OpenScan, size: int, propose: Propose, index: int) -> tuple[Points, Pixels]:
    """Corner and mask of a figure, in a patch centred on it.

    Networks trained on centred patches do not detect figures elsewhere in a patch.
    """
    corner = scan.corner(index, size)
    return corner, propose(scan.read(corner, size), scan.mpp)


def _merge_masks(
    scan: OpenScan,
    figures: Sequence[int],
    corner: Points,
    size: int,
    figure_mask: Callable[[int], tuple[Points, Pixels]],
) -> Pixels:
    """Mask of a patch with its margin: all figures with their centre in it."""
    side = size + 2 * MARGIN
    centres = (scan.centres[figures] - corner) / scan.downsample
    inside = ((centres >= 0) & (centres < side)).all(axis=1)
    canvas = np.zeros((side + 2 * size, side + 2 * size), np.uint8)
    for index in np.asarray(figures)[inside]:
        figure_corner, mask = figure_mask(int(index))
        left, top = np.rint((figure_corner - corner) / scan.downsample).astype(int) + size
        canvas[top : top + size, left : left + size] |= mask
    return canvas[size:-size, size:-size]


def _outlines(mask: Pixels, corner: Points, downsample: float) -> list[Points]:
    """Outlines of a mask in slide coordinates, which are pixel centres."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [(outline[:, 0] + 0.5) * downsample - 0.5 + corner for outline in contours]


def _transfer(scan: OpenScan, outlines: Sequence[Points], corner: Points, size: int) -> Pixels:
    assert scan.transfer
    polygons = [(1, scan.transfer(outline)[0]) for outline in outlines]
    empty = np.zeros((size, size), np.uint8)
    return paint_outlines(empty, polygons, (corner[0], corner[1]), scan.downsample)


def _open_scans(
    stack: contextlib.ExitStack, job: FigureJob, spec: MitosisSpec, remarks: Remarks
) -> list[OpenScan]:
    first = _open(stack, job.scan, remarks)
    size = job.scan.annotated.size if job.scan.annotated else None
    if size and size != first.size:
        sizes = [" x ".join(map(str, sides)) for sides in (first.size, size)]
        raise SkipshiftError(
            f"{job.scan.path}: is {sizes[0]}, but its annotations are for a slide of {sizes[1]}; "
            f"correct one of them or add --leave-out {job.scan.path.name}"
        )
    exact = np.zeros(len(job.centres))
    scans = [OpenScan(job.scan, first, first.downsample(spec.mpp), job.centres, exact, None)]
    for scan, transfer in job.targets:
        slide = _open(stack, scan, remarks)
        centres, errors = transfer(job.centres)
        errors = errors * _slide_mpp(slide)
        scans.append(OpenScan(scan, slide, slide.downsample(spec.mpp), centres, errors, transfer))
    return scans


def _open(stack: contextlib.ExitStack, scan: MitosisScan, remarks: Remarks) -> Slide:
    slide = stack.enter_context(open_slide(scan.path))
    if slide.mpp is None:
        remark = f"slides without a pixel size, assumed to be {DEFAULT_MPP} micrometres"
        remarks[remark].append(scan.path.name)
    return slide


def _slide_mpp(slide: Slide) -> float:
    """Micrometres per pixel at full resolution."""
    return DEFAULT_MPP if slide.mpp is None else sum(slide.mpp) / 2


def _usable(
    job: FigureJob, scans: Sequence[OpenScan], spec: MitosisSpec, remarks: Remarks
) -> Iterator[int]:
    """Yield the cases that can be cut from all scans."""
    for index, case in enumerate(job.cases):
        if any(scan.errors[index] > spec.most_error for scan in scans):
            limit = f"{spec.most_error} micrometres"
            remarks[f"cases with a registration error above {limit}, left out"].append(case)
        elif not all(scan.contains(index, spec.size) for scan in scans):
            remarks["cases that extend beyond their slide, left out"].append(case)
        else:
            yield index
