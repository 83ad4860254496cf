"""Quad-tree registration of two scans of one specimen, coarse to fine.

After C. Marzahl et al., "Robust quad-tree based registration on whole slide images", COMPAY 2021:
thumbnails give the map of the whole slide, views at a finer scale that of each quarter, and so on.
Held-out matches estimate the error.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.images import Pixels, single_threaded_opencv
from skipshift.data.slides.affine import (
    Affine,
    apply_affine,
    floor_power_of_two,
    picture_to_slide,
    resample,
)
from skipshift.data.slides.annotations import Points
from skipshift.data.slides.reader import Slide
from skipshift.data.slides.registration import Registration
from skipshift.errors import SkipshiftError
from skipshift.progress import Progress, silent

HoldOut = Callable[[Points], npt.NDArray[np.bool_]]
"""Points (N, 2) of ``fixed`` -> whether each is held out (N,)."""

_THUMBNAILS = (1024, 2048)
"""Longest sides of the thumbnails that are matched, tried in turn."""

_FEATURES = 4000
_RATIO = 0.8
"""Largest ratio of the distances of the best and the second best match (Lowe 2004)."""

_NEAR = 4.0
"""Reprojection error of an inlier at most, in pixels of the view (RANSAC)."""

_SEARCH = 0.08
"""Largest displacement from the parent's map, as a fraction of the view."""

_FEWEST, _LEAST = 10, 0.1
"""Least number of inliers, and least fraction: more than chance gives in empty glass or noise."""

_MARGIN = 0.125
"""Overlap of neighbouring tiles, as a fraction of a tile's sides."""

_HOLD_OUT = 3
"""One in so many small squares is held out: its matches estimate the error and fit nothing."""


@dataclass(frozen=True, eq=False)
class _Fit:
    """The map of a tile, and the held-out matches."""

    affine: Affine
    source: Points
    """(M, 2) held-out points of ``fixed``."""
    target: Points
    """(M, 2) their matches on ``moving``."""

    @property
    def error(self) -> float:
        """90th percentile of the held-out errors, in pixels of ``moving``."""
        misses = np.linalg.norm(apply_affine(self.affine, self.source) - self.target, axis=1)
        return float(np.quantile(misses, 0.9))


def register(
    fixed: Slide,
    moving: Slide,
    depth: int = 4,
    side: int = 768,
    workers: int = 2,
    progress: Progress = silent,
) -> Registration:
    """Register two scans of the same specimen.

    Parameters
    ----------
    depth
        Levels of the quad-tree below the whole slide; fewer where full resolution is reached.
    side
        Longest side of the view in which a tile is matched, in pixels of the view.
    workers
        Threads; they do not change the result.

    Returns
    -------
    The map from ``fixed`` to ``moving``. A tile with too few matches, such as empty glass, keeps
    the map of its parent. `SkipshiftError` if the slides do not show the same specimen.
    """
    steps = [floor_power_of_two(max(fixed.size) / (side * 2**level)) for level in range(depth + 1)]
    # level 0 is the whole slide; the first level at full resolution is the last
    steps = steps[1 : 1 + sum(step > 1 for step in steps)]
    hold_out = partial(_in_held_out_square, square=32 * min(steps, default=1.0))
    fits = [_fit_whole(fixed, moving, hold_out)]
    chosen, depths = np.zeros((2, 1, 1), np.int64)
    with single_threaded_opencv(), ThreadPoolExecutor(workers) as pool:
        for level, step in enumerate(steps, 1):
            chosen, depths = (a.repeat(2, 0).repeat(2, 1) for a in (chosen, depths))
            tiles = [
                _Tile(fixed, moving, cell, chosen.shape, fits[chosen[cell]], step)
                for cell in np.ndindex(*chosen.shape)
            ]
            results = pool.map(lambda tile: tile.fit(hold_out), tiles)
            for tile, fit in zip(tiles, progress(results, "tiles", len(tiles)), strict=True):
                if fit is not None:
                    chosen[tile.cell], depths[tile.cell] = len(fits), level
                    fits.append(fit)
    result = Registration(
        fixed=fixed.path.name,
        moving=moving.path.name,
        size=fixed.size,
        mpp=sum(moving.mpp) / 2 if moving.mpp else None,
        affines=np.array([fit.affine for fit in fits])[chosen],
        errors=np.array([fit.error for fit in fits])[chosen],
        depths=depths,
        target_error={},
    )
    return _with_target_error(result, [fits[number] for number in np.unique(chosen)])


def _with_target_error(registration: Registration, fits: list[_Fit]) -> Registration:
    source, target = (np.concatenate([getattr(f, k) for f in fits]) for k in ("source", "target"))
    misses = np.linalg.norm(registration.transfer(source)[0] - target, axis=1)
    target_error = {
        "median": float(np.median(misses)),
        "p90": float(np.quantile(misses, 0.9)),
        "most": float(misses.max()),
        "points": len(misses),
    }
    return dataclasses.replace(registration, target_error=target_error)


def _fit_whole(fixed: Slide, moving: Slide, hold_out: HoldOut) -> _Fit:
    """Match the thumbnails of two slides, whatever the rotation and scale between them."""
    for side in _THUMBNAILS:
        to_slide, pictures = [], []
        for slide in (fixed, moving):
            step = 2 * floor_power_of_two(max(slide.size) / side)
            width, height = (max(1, int(length / step)) for length in slide.size)
            to_slide.append(picture_to_slide((0, 0), step))
            pictures.append(slide.read(0, 0, width, height, step))
        a, b = _match(*pictures)
        fit = _fit_matches(apply_affine(to_slide[0], a), b, hold_out, to_slide[1])
        if fit is not None and _is_plausible(fit.affine, 16.0):
            return fit
    raise SkipshiftError(
        f"{moving.path}: does not match {fixed.path}: too few common features; register scans of "
        f"the same specimen"
    )


@dataclass(frozen=True, eq=False)
class _Tile:
    """A tile of ``fixed``, and the map of its parent to start from."""

    fixed: Slide
    moving: Slide
    cell: tuple[int, ...]
    """Row and column of the tile."""

    grid: tuple[int, ...]
    """Numbers of rows and columns of tiles."""

    parent: _Fit
    step: float
    """Pixels of ``fixed`` per pixel of the view."""

    def fit(self, hold_out: HoldOut) -> _Fit | None:
        """Fit the tile by its own view; None if too few matches agree."""
        sides = np.array(self.fixed.size) / self.grid[::-1]
        corner = np.floor((np.array(self.cell[::-1]) - _MARGIN) * sides / self.step) * self.step
        width, height = (int(length) + 1 for length in sides * (1 + 2 * _MARGIN) / self.step)
        to_fixed = picture_to_slide((corner[0], corner[1]), self.step)
        # the moving slide is resampled by the parent's map, which also maps its matches back
        to_moving = self.parent.affine @ to_fixed
        view = self.fixed.read(corner[0], corner[1], width, height, self.step)
        a, b = _match(view, resample(self.moving, to_moving, (height, width)))
        near = np.linalg.norm(a - b, axis=1) < _SEARCH * max(width, height)
        fit = _fit_matches(apply_affine(to_fixed, a[near]), b[near], hold_out, to_moving)
        if fit is None:
            return None
        change = np.linalg.inv(self.parent.affine) @ fit.affine
        return fit if _is_plausible(change, 1.1) else None


def _fit_matches(source: Points, seen: Points, hold_out: HoldOut, to_moving: Affine) -> _Fit | None:
    """Fit points of ``fixed`` to their matches in a view of ``moving``; None if too few agree.

    Outliers among the held-out matches are removed by a fit of their own: the map that they are to
    judge must not choose them.
    """
    held_out = hold_out(source)
    fitted, judging = (_inliers(source[part], seen[part]) for part in (~held_out, held_out))
    if fitted is None or judging is None:
        return None
    (used, used_target), (held, held_target) = fitted, judging
    table = np.column_stack([used, np.ones(len(used))])
    solved = np.linalg.lstsq(table, apply_affine(to_moving, used_target), rcond=None)[0]
    affine = np.vstack([solved.T, [0, 0, 1]])
    return _Fit(affine, held, apply_affine(to_moving, held_target))


def _inliers(source: Points, seen: Points) -> tuple[Points, Points] | None:
    """Keep the matches that one affine map explains (RANSAC); None if they are too few."""
    if len(source) < _FEWEST:
        return None
    # centred, because OpenCV fits in single precision
    centre = source.mean(axis=0)
    _, flags = cv2.estimateAffine2D(
        (source - centre).astype(np.float32),
        seen.astype(np.float32),
        ransacReprojThreshold=_NEAR,
        maxIters=5000,
        confidence=0.999,
    )
    agree = np.zeros(0, bool) if flags is None else flags.ravel() == 1
    if agree.sum() < max(_FEWEST, _LEAST * len(source)):
        return None
    return source[agree], seen[agree]


def _match(a: Pixels, b: Pixels) -> tuple[Points, Points]:
    """Match SIFT features of two pictures mutually, with the ratio test: points (N, 2) of each."""
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


def _in_held_out_square(points: Points, square: float) -> npt.NDArray[np.bool_]:
    """Whether points lie in held-out squares, which are the same for all tiles that see them."""
    column, row = np.floor(points / square).astype(int).T
    return np.asarray((column + row) % _HOLD_OUT == 0)


def _is_plausible(affine: Affine, largest_scale: float) -> bool:
    """Whether a map neither mirrors, nor shears much, nor scales by more than ``largest_scale``."""
    large, small = np.linalg.svd(affine[:2, :2], compute_uv=False)
    proper = np.linalg.det(affine[:2, :2]) > 0
    return bool(
        proper and large / small < 1.1 and 1 / largest_scale < small <= large < largest_scale
    )
