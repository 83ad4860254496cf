"""One specimen by two scanners: where the places of a slide lie on the other, and how surely."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.images import Pixels
from skipshift.data.slides.annotations import Annotated, Points
from skipshift.data.slides.reader import Slide
from skipshift.errors import SkipshiftError
from skipshift.records import read_json, write_json

Affine = npt.NDArray[np.float64]
"""(3, 3), of full-resolution pixels (x, y, 1) unless said."""

RECORD = "registration.json"

Transfer = Callable[[Points], tuple[Points, npt.NDArray[np.float64]]]
"""(N, 2) places on one scan -> places on another, and how far each may be off, in its pixels."""

_DETAIL = 768
"""Pixels of the detail's side."""


@dataclass(frozen=True, eq=False)
class Registration:
    """Where the places of one slide, ``fixed``, lie on another one, ``moving``."""

    fixed: str
    """Name of the slide's file."""

    moving: str

    size: tuple[int, int]
    """Width and height of ``fixed``."""

    mpp: float | None
    """Micrometres of a pixel of ``moving``, where the slide tells."""

    affines: npt.NDArray[np.float64]
    """(R, C, 3, 3), for the middle of each of R x C equal parts of ``fixed``."""

    errors: npt.NDArray[np.float64]
    """(R, C), pixels of ``moving`` by which a tenth of a part's held-out matches miss, or more."""

    depths: npt.NDArray[np.int64]
    """(R, C), how often the slide was quartered for a part's fit; 0 is that of the whole slide."""

    target_error: Mapping[str, float]
    """Of all held-out matches alike: ``median``, ``p90``, ``most``, and their number ``points``."""

    def transfer(self, points: Points) -> tuple[Points, npt.NDArray[np.float64]]:
        """Carry (N, 2) places of ``fixed`` to ``moving``.

        Between the middles of parts their maps are blended, bilinearly.

        Returns
        -------
        places : (N, 2)
        errors : (N,)
            Of the parts about a place, in pixels of ``moving``: nine of ten matches that were held
            out there lie closer.
        """
        points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        counts = np.array(self.errors.shape[::-1])
        at = np.clip((points + 0.5) / self.size * counts - 0.5, 0, counts - 1)
        low = np.minimum(at.astype(int), np.maximum(counts - 2, 0))
        part = at - low
        places, errors = np.zeros_like(points), np.zeros(len(points))
        for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
            column, row = np.minimum(low + np.array((x, y)), counts - 1).T
            weight = np.prod(np.where((x, y), part, 1 - part), axis=1)
            own = self.affines[row, column]
            carried = np.einsum("nij,nj->ni", own[:, :2, :2], points) + own[:, :2, 2]
            places += weight[:, None] * carried
            errors += weight * self.errors[row, column]
        return places, errors

    def save(self, folder: Path) -> None:
        """Write registration.json."""
        plain = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }
        write_json(folder / RECORD, plain)

    @classmethod
    def load(cls, path: Path) -> "Registration":
        """Read registration.json; `SkipshiftError` if it is none."""
        plain: dict[str, Any] = read_json(path)
        try:
            for name in ("affines", "errors", "depths"):
                plain[name] = np.array(plain[name])
            return cls(**{**plain, "size": tuple(plain["size"])})
        except (KeyError, TypeError) as error:
            raise SkipshiftError(f"{path}: is no registration: {error!r}; register again") from None


def read_registrations(
    folder: Path, scans: Mapping[tuple[str, str], Path]
) -> dict[tuple[str, str], Registration]:
    """Read FOLDER/DOMAIN/SPECIMEN/registration.json by specimen and domain.

    `SkipshiftError` if there is none, or one is of another slide than the scan of its place.
    """
    found = {}
    for path in sorted(folder.glob(f"*/*/{RECORD}")):
        domain, specimen = path.parts[-3:-1]
        registration, scan = Registration.load(path), scans.get((specimen, domain))
        if scan is not None and registration.moving != scan.name:
            raise SkipshiftError(
                f"{path}: carries to {registration.moving}, but the slide of domain {domain} is "
                f"{scan.name}; register again"
            )
        found[specimen, domain] = registration
    if not found:
        raise SkipshiftError(
            f"{folder}: holds no DOMAIN/SPECIMEN/{RECORD}; write them by skipshift register"
        )
    return found


def carry_annotations(registration: Registration, annotated: Annotated) -> Annotated:
    """Carry what is drawn on ``fixed`` to ``moving``, point by point."""
    shapes = [
        dataclasses.replace(shape, points=registration.transfer(shape.points)[0])
        for shape in annotated.shapes
    ]
    return Annotated(registration.moving, None, annotated.about, tuple(shapes))


def checkerboard(
    fixed: Slide,
    moving: Slide,
    registration: Registration,
    corner: tuple[float, float] = (0, 0),
    downsample: float | None = None,
    side: int = 1024,
) -> Pixels:
    """Draw a part of a slide in squares that are in turn its own and carried from the other one.

    Parameters
    ----------
    corner
        Left upper corner of the part, in pixels of ``fixed``.
    downsample
        Pixels of ``fixed`` in one of the picture; the whole slide fits if absent.
    """
    step = max(fixed.size) / side if downsample is None else downsample
    width, height = (
        min(side, round((length - start) / step))
        for length, start in zip(fixed.size, corner, strict=True)
    )
    own = fixed.read(*corner, width, height, step)
    view = view_of(corner, step)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2)
    places = registration.transfer(carry_by(view, grid))[0]
    other = _sampled(moving, places, (height, width), scale_of(registration.affines[0, 0]) * step)
    square = max(1, side // 16)
    turn = (grid // square).sum(1).reshape(height, width, 1) % 2 == 1
    return np.where(turn, other, own)


def pictures(fixed: Slide, moving: Slide, registration: Registration) -> dict[str, Pixels]:
    """Draw `checkerboard` of the whole slide, and at full resolution of where most is to see."""
    grey = cv2.cvtColor(fixed.thumbnail(1024), cv2.COLOR_RGB2GRAY)
    step = max(fixed.size) / max(grey.shape)
    window = max(1, round(_DETAIL / step))
    edges = np.abs(cv2.Laplacian(grey, cv2.CV_32F))
    row, column = np.unravel_index(cv2.blur(edges, (window, window)).argmax(), grey.shape)
    near = (max(0.0, column * step - _DETAIL / 2), max(0.0, row * step - _DETAIL / 2))
    return {
        "checkerboard": checkerboard(fixed, moving, registration),
        "checkerboard-detail": checkerboard(fixed, moving, registration, near, 1.0, _DETAIL),
    }


def describe(registration: Registration) -> str:
    """Say in two lines how far off places may be, and how much of the slide was fitted how well."""
    off = registration.target_error
    told = f"{off['median']:.2f} pixels, nine of ten {off['p90']:.2f} or less"
    if registration.mpp is not None:
        told += f" ({off['p90'] * registration.mpp:.2f} micrometres)"
    deep = registration.depths > 0
    return (
        f"{off['points']:.0f} matches that no fit has seen miss by {told}\n"
        f"{deep.sum()} of {deep.size} parts have a map of their own or of a quarter about them, "
        f"the others that of the whole slide"
    )


def view_of(corner: tuple[float, float], step: float) -> Affine:
    """Map of a picture's pixels to those of the slide it was read from; pixels have middles."""
    shift = [start + (step - 1) / 2 for start in corner]
    return np.array([[step, 0, shift[0]], [0, step, shift[1]], [0, 0, 1]])


def power_below(step: float) -> float:
    """Find the power of two below a step, at least 1: there, levels are read without rounding."""
    return float(2 ** max(0, math.floor(math.log2(step))))


def carry_by(affine: Affine, points: npt.NDArray[Any]) -> Points:
    """Carry (N, 2) points by an affine map, (2, 3) or (3, 3)."""
    return np.asarray(points @ affine[:2, :2].T + affine[:2, 2])


def scale_of(affine: Affine) -> float:
    """Pixels that a map makes of one, along a side."""
    return float(np.sqrt(abs(np.linalg.det(affine[:2, :2]))))


def picture_at(slide: Slide, affine: Affine, shape: tuple[int, int]) -> Pixels:
    """Read the picture of ``shape`` whose pixels lie on a slide where ``affine`` says."""
    grid = np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), -1).reshape(-1, 2)
    return _sampled(slide, carry_by(affine, grid), shape, scale_of(affine))


def _sampled(slide: Slide, places: Points, shape: tuple[int, int], step: float) -> Pixels:
    """Read a slide at places (H * W, 2) that lie about ``step`` of its pixels apart."""
    step = power_below(step)
    low = np.floor(places.min(axis=0) / step - 2) * step
    width, height = (int(length) for length in (places.max(axis=0) - low) / step + 2)
    back: Affine = np.linalg.inv(view_of((low[0], low[1]), step)).astype(np.float64)
    inside = carry_by(back, places).astype(np.float32)
    columns, rows = (inside[:, axis].reshape(shape) for axis in (0, 1))
    return np.asarray(
        cv2.remap(
            slide.read(low[0], low[1], width, height, step),
            columns,
            rows,
            cv2.INTER_LINEAR,
            borderValue=(255, 255, 255),
        ),
        dtype=np.uint8,
    )
