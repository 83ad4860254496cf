"""How two scans of one specimen lie to each other, found coarse to fine in a quad-tree.

After C. Marzahl et al., "Robust quad-tree based registration on whole slide images", COMPAY 2021:
the whole slide is fitted by features of its thumbnail, then every quarter of it by those of its own
finer view, and so on. Matches that no fit has seen say how far off a place may be.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.images import Pixels, one_thread_an_image
from skipshift.data.slides.annotations import Points
from skipshift.data.slides.reader import Slide
from skipshift.data.slides.registration import (
    Affine,
    Registration,
    carry_by,
    picture_at,
    power_below,
    view_of,
)
from skipshift.errors import SkipshiftError
from skipshift.progress import Progress, silent

Held = Callable[[Points], npt.NDArray[np.bool_]]

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
class _Fit:
    """The map of a part, and the matches that it has not seen."""

    affine: Affine
    source: Points
    target: Points
    """(M, 2), held-out places of ``fixed`` and where they are on ``moving``."""

    @property
    def error(self) -> float:
        misses = np.linalg.norm(carry_by(self.affine, self.source) - self.target, axis=1)
        return float(np.quantile(misses, 0.9))


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
    steps = [power_below(max(fixed.size) / (side * 2**level)) for level in range(depth + 1)]
    # the first part at full resolution is the last
    steps = steps[1 : 1 + sum(step > 1 for step in steps)]
    held = partial(_is_held, square=32 * min(steps, default=1.0))
    fits, own, depths = [_whole(fixed, moving, held)], *np.zeros((2, 1, 1), np.int64)
    with one_thread_an_image(), ThreadPoolExecutor(workers) as pool:
        for level, step in enumerate(steps, 1):
            own, depths = (a.repeat(2, 0).repeat(2, 1) for a in (own, depths))
            parts = [
                _Part(fixed, moving, (row, column), own.shape, fits[own[row, column]], step)
                for row, column in np.ndindex(*own.shape)
            ]
            found = pool.map(lambda part: part.fit(held), parts)
            for part, fit in zip(parts, progress(found, "parts", len(parts)), strict=True):
                if fit is not None:
                    own[part.place], depths[part.place] = len(fits), level
                    fits.append(fit)
    result = Registration(
        fixed=fixed.path.name,
        moving=moving.path.name,
        size=fixed.size,
        mpp=sum(moving.mpp) / 2 if moving.mpp else None,
        affines=np.array([fit.affine for fit in fits])[own],
        errors=np.array([fit.error for fit in fits])[own],
        depths=depths,
        target_error={},
    )
    return _with_target_error(result, [fits[number] for number in np.unique(own)])


def _with_target_error(registration: Registration, fits: list[_Fit]) -> Registration:
    source, target = (np.concatenate([getattr(f, k) for f in fits]) for k in ("source", "target"))
    misses = np.linalg.norm(registration.transfer(source)[0] - target, axis=1)
    told = {
        "median": float(np.median(misses)),
        "p90": float(np.quantile(misses, 0.9)),
        "most": float(misses.max()),
        "points": len(misses),
    }
    return dataclasses.replace(registration, target_error=told)


def _whole(fixed: Slide, moving: Slide, held: Held) -> _Fit:
    """Find a slide on the other one by their thumbnails, however it is turned or scaled."""
    for side in _THUMBNAILS:
        slides, views, pictures = (fixed, moving), [], []
        for slide in slides:
            step = 2 * power_below(max(slide.size) / side)
            width, height = (max(1, int(length / step)) for length in slide.size)
            views.append(view_of((0, 0), step))
            pictures.append(slide.read(0, 0, width, height, step))
        a, b = _matches(*pictures)
        fit = _fitted(carry_by(views[0], a), b, held, views[1])
        if fit is not None and _is_sound(fit.affine, 16.0):
            return fit
    raise SkipshiftError(
        f"{moving.path}: does not match {fixed.path}: too few of their features agree; register "
        f"scans of the same specimen"
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of ``fixed``, laid upon the other slide by the map of the part around it."""

    fixed: Slide
    moving: Slide
    place: tuple[int, int]
    """Its row and column."""

    among: tuple[int, ...]
    """How many rows and columns there are."""

    parent: _Fit
    step: float
    """Pixels of ``fixed`` in one of its view."""

    def fit(self, held: Held) -> _Fit | None:
        """Fit it by its own view; None if that tells too little."""
        sides = np.array(self.fixed.size) / self.among[::-1]
        corner = np.floor((np.array(self.place[::-1]) - _MARGIN) * sides / self.step) * self.step
        width, height = (int(length) + 1 for length in sides * (1 + 2 * _MARGIN) / self.step)
        view = view_of((corner[0], corner[1]), self.step)
        # a match in the carried view is a place of the other slide by the map that carried it
        carried = self.parent.affine @ view
        own = self.fixed.read(corner[0], corner[1], width, height, self.step)
        a, b = _matches(own, picture_at(self.moving, carried, (height, width)))
        near = np.linalg.norm(a - b, axis=1) < _GATE * max(width, height)
        found = _fitted(carry_by(view, a[near]), b[near], held, carried)
        if found is None:
            return None
        change = np.linalg.inv(self.parent.affine) @ found.affine
        return found if _is_sound(change, 1.1) else None


def _fitted(source: Points, seen: Points, held: Held, view: Affine) -> _Fit | None:
    """Fit places of ``fixed`` to places seen in a view of ``moving``; None if too few agree.

    The matches in held-out squares are fitted by themselves, which tells right ones from wrong
    ones without the map that they are to judge.
    """
    apart = held(source)
    fitted, judged = (_agreeing(source[part], seen[part]) for part in (~apart, apart))
    if fitted is None or judged is None:
        return None
    (used, target), (other, other_target) = fitted, judged
    # in pixels of the view, where numbers are small
    table = np.column_stack([used, np.ones(len(used))])
    solved = np.linalg.lstsq(table, carry_by(view, target), rcond=None)[0]
    affine = np.vstack([solved.T, [0, 0, 1]])
    return _Fit(affine, other, carry_by(view, other_target))


def _agreeing(source: Points, seen: Points) -> tuple[Points, Points] | None:
    if len(source) < _FEWEST:
        return None
    # about their middle: OpenCV fits in single precision
    middle = source.mean(axis=0)
    _, found = cv2.estimateAffine2D(
        (source - middle).astype(np.float32),
        seen.astype(np.float32),
        ransacReprojThreshold=_NEAR,
        maxIters=5000,
        confidence=0.999,
    )
    agree = np.zeros(0, bool) if found is None else found.ravel() == 1
    if agree.sum() < max(_FEWEST, _LEAST * len(source)):
        return None
    return source[agree], seen[agree]


def _matches(a: Pixels, b: Pixels) -> tuple[Points, Points]:
    """Places (N, 2) of features that are each other's best match in two pictures."""
    sift = cv2.SIFT.create(nfeatures=_FEATURES, enable_precise_upscale=True)
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
