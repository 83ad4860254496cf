"""Registrations of two scans of one specimen: coordinates transferred, with error bounds."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skipshift.data.slides.annotations import AnnotatedSlide, Points
from skipshift.errors import SkipshiftError
from skipshift.records import read_json, write_json

RECORD = "registration.json"

Transfer = Callable[[Points], tuple[Points, npt.NDArray[np.float64]]]
"""Points (N, 2) of one scan -> points (N, 2) of another, and their errors (N,) in its pixels."""


@dataclass(frozen=True, eq=False)
class Registration:
    """Piecewise affine map from one slide, ``fixed``, to another, ``moving``."""

    fixed: str
    """File name of the slide."""

    moving: str
    """File name of the other slide."""

    size: tuple[int, int]
    """Width and height of ``fixed`` in pixels."""

    mpp: float | None
    """Pixel size of ``moving`` in micrometres, if the slide states it."""

    affines: npt.NDArray[np.float64]
    """(R, C, 3, 3): the map at the centre of each of R x C equal tiles of ``fixed``."""

    errors: npt.NDArray[np.float64]
    """(R, C): 90th percentile of the errors of held-out matches, in pixels of ``moving``."""

    depths: npt.NDArray[np.int64]
    """(R, C): level of the quad-tree at which a tile's map was fitted; 0 is the whole slide."""

    target_error: Mapping[str, float]
    """Target registration error over all held-out matches, in pixels of ``moving``: ``median``,
    ``p90``, ``most`` (the maximum); ``points`` is the number of matches."""

    def transfer(self, points: Points) -> tuple[Points, npt.NDArray[np.float64]]:
        """Transfer points (N, 2) of ``fixed`` to ``moving``.

        The maps of the nearest tiles are interpolated bilinearly.

        Returns
        -------
        Points (N, 2), and of each its error (N,): `errors` of the same tiles, interpolated alike,
        in pixels of ``moving``.
        """
        points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        counts = np.array(self.errors.shape[::-1])
        at = np.clip((points + 0.5) / self.size * counts - 0.5, 0, counts - 1)
        low = np.minimum(at.astype(int), np.maximum(counts - 2, 0))
        fraction = at - low
        transferred, errors = np.zeros_like(points), np.zeros(len(points))
        for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
            column, row = np.minimum(low + np.array((x, y)), counts - 1).T
            weight = np.prod(np.where((x, y), fraction, 1 - fraction), axis=1)
            affine = self.affines[row, column]
            mapped = np.einsum("nij,nj->ni", affine[:, :2, :2], points) + affine[:, :2, 2]
            transferred += weight[:, None] * mapped
            errors += weight * self.errors[row, column]
        return transferred, errors

    def _repr_html_(self) -> str:
        return f"<p>{escape(f'{self.fixed} to {self.moving}')}</p><pre>{describe(self)}</pre>"

    def save(self, folder: Path) -> None:
        """Write registration.json."""
        plain = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }
        write_json(folder / RECORD, plain)

    @classmethod
    def load(cls, path: Path) -> "Registration":
        """Read registration.json; `SkipshiftError` if the file is not a registration."""
        plain: dict[str, Any] = read_json(path)
        try:
            for name in ("affines", "errors", "depths"):
                plain[name] = np.array(plain[name])
            return cls(**{**plain, "size": tuple(plain["size"])})
        except (KeyError, TypeError) as error:
            raise SkipshiftError(
                f"{path}: not a registration: {error!r}; run skipshift register again"
            ) from None


def read_registrations(
    folder: Path, scans: Mapping[tuple[str, str], Path]
) -> dict[tuple[str, str], Registration]:
    """Read FOLDER/DOMAIN/SPECIMEN/registration.json by specimen and domain.

    `SkipshiftError` if there is none, or if one maps to another slide than the scan of its
    specimen and domain.
    """
    registrations = {}
    for path in sorted(folder.glob(f"*/*/{RECORD}")):
        domain, specimen = path.parts[-3:-1]
        registration, scan = Registration.load(path), scans.get((specimen, domain))
        if scan is not None and registration.moving != scan.name:
            raise SkipshiftError(
                f"{path}: maps to {registration.moving}, but the slide of domain {domain} is "
                f"{scan.name}; run skipshift register again"
            )
        registrations[specimen, domain] = registration
    if not registrations:
        raise SkipshiftError(
            f"{folder}: contains no DOMAIN/SPECIMEN/{RECORD}; create them with skipshift register"
        )
    return registrations


def transfer_annotations(registration: Registration, annotated: AnnotatedSlide) -> AnnotatedSlide:
    """Transfer the annotations of ``fixed`` to ``moving``, point by point."""
    shapes = [
        dataclasses.replace(shape, points=registration.transfer(shape.points)[0])
        for shape in annotated.shapes
    ]
    return AnnotatedSlide(registration.moving, None, annotated.about, tuple(shapes))


def describe(registration: Registration) -> str:
    """Summarise in two lines: the target registration error and the number of refined tiles."""
    error = registration.target_error
    p90 = f"90th percentile {error['p90']:.2f} pixels"
    if registration.mpp is not None:
        p90 += f" ({error['p90'] * registration.mpp:.2f} micrometres)"
    refined = registration.depths > 0
    return (
        f"target registration error on {error['points']:.0f} held-out matches: median "
        f"{error['median']:.2f} pixels, {p90}\n"
        f"{refined.sum()} of {refined.size} tiles have a local map, "
        f"the others use that of the whole slide"
    )
