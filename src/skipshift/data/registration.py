"""One specimen by two scanners: where each place of a slide lies on the other one.

Coarse to fine in a quad-tree, after C. Marzahl et al., "Robust quad-tree based registration on
whole slide images", COMPAY 2021: the whole slide is fitted by features of its thumbnail, then every
quarter of it by those of its own finer view, and so on. Matches that no fit has seen say how far
off a place may be.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.annotations import Points
from skipshift.data.images import Pixels, one_thread_an_image
from skipshift.data.slides import Slide
from skipshift.progress import Progress, silent
from skipshift.records import read_json, write_json
from skipshift.specs import SkipshiftError

Affine = npt.NDArray[np.float64]
"""(3, 3), of full-resolution pixels (x, y, 1) unless said."""

RECORD = "registration.json"

_THUMBNAILS = (1024, 2048)
"""Longer sides of the views by which whole slides are found on each other."""

_FEATURES = 4000
_RATIO = 0.8
"""Distance of the best match over that of the second best (Lowe 2004)."""

_NEAR = 4.0
"""Pixels of a view by which a match may miss its fit."""

_GATE = 0.08
"""Share of a view by which its parent may have been wrong."""

_FEWEST, _LEAST = 10, 0.1
"""Matches that must agree, and as a share of all: more than by chance in empty glass or noise."""

_MARGIN = 0.125
"""Of a part's sides, seen beyond each of them."""

_HELD = 3
"""One of so many small squares is held out: its matches only tell the error."""


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
    """(R, C), median distance of a part's held-out matches in pixels of ``moving``."""

    depths: npt.NDArray[np.int64]
    """(R, C), how often the slide was quartered for a part's fit; 0 is that of the whole slide."""

    target_error: Mapping[str, float]
    """Of all held-out matches in pixels of ``moving``: ``median``, ``p90``, ``most``, ``points``."""

    def transfer(self, points: Points) -> tuple[Points, npt.NDArray[np.float64]]:
        """Carry (N, 2) places of ``fixed`` to ``moving``.

        Between the middles of parts their maps are blended, bilinearly.

        Returns
        -------
        places : (N, 2)
        errors : (N,)
            Of the parts about a place, in pixels of ``moving``: half of what was held out there
            lies closer.
        """
        points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        counts = np.array(self.errors.shape[::-1])
        at = np.clip((points + 0.5) / self.size * counts - 0.5, 0, counts - 1)
        low = np.minimum(at.astype(int), np.maximum(counts - 2, 0))
        part = at - low
        places, errors = np.zeros_like(points), np.zeros(len(points))
        for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
            column, row = np.minimum(low + (x, y), counts - 1).T
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
        plain = read_json(path)
        try:
            arrays = {name: np.array(plain.pop(name)) for name in ("affines", "errors", "depths")}
            size = tuple(plain.pop("size"))
            return cls(**plain, **arrays, size=(size[0], size[1]))
        except (KeyError, TypeError, IndexError) as error:
            raise SkipshiftError(f"{path}: is no registration: {error!r}; register again") from None


@dataclass(frozen=True, eq=False)
class _Fit:
    """The map of a part, and the matches that it has not seen."""

    affine: Affine
    source: Points
    target: Points
    """(M, 2), held-out places of ``fixed`` and where they are on ``moving``."""

    @property
    def error(self) -> float:
        return float(np.median(_misses(self.affine, self.source, self.target)))


def register(
    fixed: Slide,
    moving: Slide,
    depth: int = 4,
    side: int = 768,
    workers: int = 2,
    progress: Progress = silent,
) -> Registration:
    """Find where the places of a slide lie on another scan of the same specimen.

    Parameters
    ----------
    depth
        How often the slide is quartered at most; less where the full resolution is reached.
    side
        Longer side of the view of a part, in its own pixels.
    workers
        Threads; the result does not depend on it.

    Returns
    -------
    A part without enough matches, such as empty glass, keeps the map of the part around it.
    `SkipshiftError` if the slides do not show the same specimen.
    """
    steps = [max(fixed.size) / (side * 2**level) for level in range(1, depth + 1)]
    steps = [step for step, last in zip(steps, [np.inf, *steps], strict=False) if last > 1]
    held = partial(_is_held, square=32 * max(1.0, steps[-1] if steps else 1.0))
    grid = np.array([[_whole(fixed, moving, held)]], dtype=object)
    depths = np.zeros((1, 1), np.int64)
    with one_thread_an_image(), ThreadPoolExecutor(workers) as pool:
        for level, step in enumerate(steps, 1):
            grid, depths = (a.repeat(2, 0).repeat(2, 1) for a in (grid, depths))
            parts = [(row, column) for row, column in np.ndindex(*grid.shape)]
            look = partial(_part, fixed, moving, grid, max(1.0, step), held)
            found = pool.map(look, parts)
            for place, fit in progress(zip(parts, found, strict=True), "parts", len(parts)):
                if fit is not None:
                    grid[place], depths[place] = fit, level
    fits = grid.ravel()
    result = Registration(
        fixed=fixed.path.name,
        moving=moving.path.name,
        size=fixed.size,
        mpp=sum(moving.mpp) / 2 if moving.mpp else None,
        affines=np.array([fit.affine for fit in fits]).reshape(*grid.shape, 3, 3),
        errors=np.array([fit.error for fit in fits]).reshape(grid.shape),
        depths=depths,
        target_error={},
    )
    return _with_target_error(result, list({id(fit): fit for fit in fits}.values()))


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
    view = _view(corner, step)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2)
    places = registration.transfer(_carry(view, grid))[0]
    other = _sampled(moving, places, (height, width), _scale_of(registration.affines[0, 0]) * step)
    square = max(1, side // 16)
    turn = (grid // square).sum(1).reshape(height, width, 1) % 2 == 1
    return np.where(turn, other, own)


def _with_target_error(registration: Registration, fits: list[_Fit]) -> Registration:
    source, target = (np.concatenate([getattr(f, k) for f in fits]) for k in ("source", "target"))
    misses = np.linalg.norm(registration.transfer(source)[0] - target, axis=1)
    told = {
        "median": float(np.median(misses)),
        "p90": float(np.quantile(misses, 0.9)),
        "most": float(misses.max()),
        "points": len(misses),
    }
    return Registration(**{**vars(registration), "target_error": told})


# -- fits ------------------------------------------------------------------------------------------

Held = Callable[[Points], npt.NDArray[np.bool_]]


def _whole(fixed: Slide, moving: Slide, held: Held) -> _Fit:
    """Find a slide on the other one by their thumbnails, however it is turned or scaled."""
    for side in _THUMBNAILS:
        slides, views, pictures = (fixed, moving), [], []
        for slide in slides:
            step = max(1.0, max(slide.size) / side)
            width, height = (max(1, round(length / step)) for length in slide.size)
            views.append(_view((0, 0), step))
            pictures.append(slide.read(0, 0, width, height, step))
        a, b = _matches(*pictures)
        fit = _fitted(_carry(views[0], a), b, _NEAR, held, views[1])
        if fit is not None and _is_sound(fit.affine, 16.0):
            return fit
    raise SkipshiftError(
        f"{moving.path}: does not match {fixed.path}: too few of their features agree; register "
        f"scans of the same specimen"
    )


def _part(
    fixed: Slide,
    moving: Slide,
    parents: npt.NDArray[Any],
    step: float,
    held: Held,
    place: tuple[int, int],
) -> _Fit | None:
    """Fit a part by its own view, laid upon the other slide by the map of the part around it."""
    parent: _Fit = parents[place]
    sides = np.array(fixed.size) / parents.shape[::-1]
    corner = (np.array(place[::-1]) - _MARGIN) * sides
    width, height = (max(1, round(length)) for length in sides * (1 + 2 * _MARGIN) / step)
    view = _view((corner[0], corner[1]), step)
    own = fixed.read(corner[0], corner[1], width, height, step)
    other = _carried(moving, parent.affine @ view, (height, width))
    a, b = _matches(own, other)
    near = np.linalg.norm(a - b, axis=1) < _GATE * max(width, height)
    # a match in the carried view is a place of the other slide by the map that carried it
    fit = _fitted(_carry(view, a[near]), b[near], _NEAR, held, parent.affine @ view)
    change = None if fit is None else np.linalg.inv(parent.affine) @ fit.affine
    return fit if change is not None and _is_sound(change, 1.1) else None


def _fitted(source: Points, seen: Points, near: float, held: Held, view: Affine) -> _Fit | None:
    """Fit places of ``fixed`` to places seen in a view of ``moving``; None if too few agree.

    The matches in held-out squares are fitted by themselves, which tells right ones from wrong
    ones without the map that they are to judge.
    """
    apart = held(source)
    kept = [_agreeing(source[part], seen[part], near) for part in (~apart, apart)]
    if kept[0] is None or kept[1] is None:
        return None
    (used, target), (other, other_target) = kept
    # in pixels of the view, where numbers are small
    table = np.column_stack([used, np.ones(len(used))])
    solved = np.linalg.lstsq(table, _carry(view, target), rcond=None)[0]
    affine = np.vstack([solved.T, [0, 0, 1]])
    return _Fit(affine, other, _carry(view, other_target))


def _agreeing(source: Points, seen: Points, near: float) -> tuple[Points, Points] | None:
    if len(source) < _FEWEST:
        return None
    # about their middle: OpenCV fits in single precision
    middle = source.mean(axis=0)
    _, found = cv2.estimateAffine2D(
        (source - middle).astype(np.float32),
        seen.astype(np.float32),
        ransacReprojThreshold=near,
        maxIters=5000,
        confidence=0.999,
    )
    agree = np.zeros(0, bool) if found is None else found.ravel() == 1
    if agree.sum() < max(_FEWEST, _LEAST * len(source)):
        return None
    return source[agree], seen[agree]


def _matches(a: Pixels, b: Pixels) -> tuple[Points, Points]:
    """Places (N, 2) of features that are each other's best match in two pictures."""
    sift = cv2.SIFT_create(nfeatures=_FEATURES, enable_precise_upscale=True)
    points, features = [], []
    for picture in (a, b):
        keys, described = sift.detectAndCompute(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), None)
        points.append(np.array([key.pt for key in keys], dtype=np.float64).reshape(-1, 2))
        features.append(described)
    if min(map(len, points)) < 2:
        return np.zeros((0, 2)), np.zeros((0, 2))
    matcher = cv2.BFMatcher()
    back = {m.queryIdx: m.trainIdx for m in matcher.match(features[1], features[0])}
    pairs = [
        (best.queryIdx, best.trainIdx)
        for best, second in matcher.knnMatch(features[0], features[1], k=2)
        if best.distance < _RATIO * second.distance and back[best.trainIdx] == best.queryIdx
    ]
    first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
    return points[0][first], points[1][second]


def _is_held(points: Points, square: float) -> npt.NDArray[np.bool_]:
    """Whether places lie in held-out squares; the same ones for all parts that see them."""
    column, row = np.floor(points / square).astype(int).T
    return np.asarray((column + row) % _HELD == 0)


def _is_sound(affine: Affine, most: float) -> bool:
    """Whether a map neither mirrors, nor shears by much, nor scales by more than ``most``."""
    large, small = np.linalg.svd(affine[:2, :2], compute_uv=False)
    turns = np.linalg.det(affine[:2, :2]) > 0
    return bool(turns and large / small < 1.1 and 1 / most < small <= large < most)


# -- views -----------------------------------------------------------------------------------------


def _view(corner: tuple[float, float], step: float) -> Affine:
    """Map of a picture's pixels to those of the slide it was read from; pixels have middles."""
    shift = [start + (step - 1) / 2 for start in corner]
    return np.array([[step, 0, shift[0]], [0, step, shift[1]], [0, 0, 1]])


def _carry(affine: Affine, points: Points) -> Points:
    return np.asarray(points @ affine[:2, :2].T + affine[:2, 2])


def _misses(affine: Affine, source: Points, target: Points) -> npt.NDArray[np.float64]:
    return np.asarray(np.linalg.norm(_carry(affine, source) - target, axis=1))


def _scale_of(affine: Affine) -> float:
    return float(np.sqrt(abs(np.linalg.det(affine[:2, :2]))))


def _carried(slide: Slide, affine: Affine, shape: tuple[int, int]) -> Pixels:
    """Read the picture of ``shape`` whose pixels lie on a slide where ``affine`` says."""
    grid = np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), -1).reshape(-1, 2)
    return _sampled(slide, _carry(affine, grid), shape, _scale_of(affine))


def _sampled(slide: Slide, places: Points, shape: tuple[int, int], step: float) -> Pixels:
    """Read a slide at places (H * W, 2) that lie about ``step`` of its pixels apart."""
    step = max(1.0, step)
    low, high = places.min(axis=0) - 2 * step, places.max(axis=0) + 2 * step
    width, height = (int(np.ceil(length)) for length in (high - low) / step)
    inside = _carry(np.linalg.inv(_view((low[0], low[1]), step)), places).astype(np.float32)
    return np.asarray(
        cv2.remap(
            slide.read(low[0], low[1], width, height, step),
            inside.reshape(*shape, 2),
            None,
            cv2.INTER_LINEAR,
            borderValue=(255, 255, 255),
        ),
        dtype=np.uint8,
    )
