"""Procedural templates, so that a synthetic set needs no blood smear.

Stains are drawn as absorbance, which is additive, and converted to colour last:
background * exp(-absorbance) (Beer-Lambert). Colours, sizes and edge profiles were measured on
BBBC041 image 2f9f400d.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.images import Pixels

Field = npt.NDArray[np.float32]

BACKGROUND = np.array([250, 247, 251], dtype=np.float32)
"""RGB of the unstained slide."""

BODY = (0.88, 1.15, 0.36)
"""Absorbance of a cell's body in red, green, blue."""

MEMBRANE = (0.22, 0.66, 0.16)
"""Absorbance added by the membrane at the edge: magenta, since it absorbs little red."""

CHROMATIN = (0.55, 1.15, 0.62)
"""Absorbance added by a parasite's nucleus."""

CYTOPLASM = (0.34, 0.62, 0.20)
"""Absorbance added by a parasite's cytoplasm."""

PIGMENT = (0.55, 0.6, 0.85)
"""Absorbance added by a grain of brown pigment."""

DUST = (0.5, 1.3, 0.5)
"""Absorbance of dust on the slide."""

SPECKS = ((0.30, 1.20, 0.28), (0.10, 0.32, 0.08), (1.6, 1.9, 1.9))
"""Absorbance of the three artifacts: a grain of stain, pale debris, dirt."""

_GRAIN = (5.5, 4.8, 6.8)
_SIDE = 136
_MARGIN = 8


def draw_background(seed: int = 0, side: int = 750) -> Pixels:
    """Draw a bright, unevenly illuminated background with a little dust, (side, side, 3)."""
    rng = np.random.default_rng((seed, 0))
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    light = 0.995 - 0.02 * (x - 0.2) ** 2 - 0.025 * (y + 0.1) ** 2 + 0.008 * x
    coarse = _mottle(rng, side // 10, side / 120)
    light += 0.004 * cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    dust = np.zeros((side, side), dtype=np.float32)
    dust[tuple(rng.integers(side, size=(2, 25)))] = rng.uniform(0.8, 4, 25)
    stain = cv2.GaussianBlur(dust, (0, 0), 1.3)[..., None] * _rgb(DUST)
    return _expose(rng, stain, light, grain=0.25)


def draw_cells(seed: int = 0) -> tuple[Pixels, ...]:
    """Draw three infected red blood cells: a ring, a trophozoite, a young schizont."""
    cells = []
    for index, (infect, radius) in enumerate(
        [(_ring, 58.0), (_trophozoite, 62.0), (_schizont, 60.0)]
    ):
        rng = np.random.default_rng((seed, 1, index))
        stain, depth = _red_cell(rng, radius)
        parasite = _warp(rng, infect(rng, radius))
        stain += parasite * np.clip(depth / 4, 0, 1)[..., None]
        cells.append(_trim(_expose(rng, stain), depth > 0))
    return tuple(cells)


def draw_artifacts(seed: int = 0) -> tuple[Pixels, ...]:
    """Draw three artifacts: a grain of stain, pale debris and a speck of dirt."""
    artifacts = []
    shapes = [(4, 9.0, 4.0), (11, 17.0, 2.8), (4, 6.0, 3.2)]
    for index, (colour, (lobes, spread, radius)) in enumerate(zip(SPECKS, shapes, strict=True)):
        rng = np.random.default_rng((seed, 2, index))
        side = round(2 * (spread + radius) + 14)
        density = np.zeros((side, side), dtype=np.float32)
        for dy, dx in rng.normal(0, spread / 2, (lobes, 2)):
            density += _blob(side, (dx, dy), radius * rng.uniform(0.7, 1.2), edge=1.3)
        density = np.minimum(density, 1.25) * (1 + 0.1 * _mottle(rng, side, 2))
        stain = _warp(rng, density[..., None] * _rgb(colour))
        artifacts.append(_expose(rng, stain, grain=0.6))
    return tuple(artifacts)


def _red_cell(rng: np.random.Generator, radius: float) -> tuple[Field, Field]:
    """Absorbance (side, side, 3) of a red blood cell and distance (side, side) inside its edge."""
    x, y = _grid(_SIDE)
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    outline = np.full_like(angle, radius)
    for order, swing in ((2, 0.035), (3, 0.018), (5, 0.006), (9, 0.004)):
        turn = rng.uniform(0, 2 * np.pi)
        outline += radius * swing * rng.uniform(0.5, 1) * np.cos(order * angle + turn)
    depth = outline - distance
    centre = rng.uniform(-0.12, 0.12, 2) * radius
    pallor = np.exp(-(((np.hypot(x - centre[0], y - centre[1])) / (0.5 * radius)) ** 2.6))
    thickness = 1 - rng.uniform(0.6, 0.7) * pallor
    thickness += 0.06 * np.exp(-(((depth - 11) / 6) ** 2))
    thickness *= 1 + 0.06 * _mottle(rng, _SIDE, 14) + 0.03 * _mottle(rng, _SIDE, 3)
    body = thickness / (1 + np.exp(-(depth - 3.2) / 1.3))
    membrane = np.exp(-(((depth - 1.9) / 1.9) ** 2) / 2)
    stain = body[..., None] * _rgb(BODY) + membrane[..., None] * _rgb(MEMBRANE)
    return stain.astype(np.float32), depth.astype(np.float32)


def _ring(rng: np.random.Generator, radius: float) -> Field:
    """Absorbance of a ring stage: a thin ring of cytoplasm with two chromatin dots."""
    cx, cy = rng.uniform(0.15, 0.3, 2) * radius * rng.choice([-1, 1], 2)
    x, y = _grid(_SIDE)
    size = 0.24 * radius
    ring = np.exp(-(((np.hypot(x - cx, (y - cy) * 1.2) - size) / 3.0) ** 2))
    stain = 1.1 * ring[..., None] * _rgb(CYTOPLASM)
    for turn in rng.uniform(0, 2 * np.pi) + np.array([0, 1.1]):
        dot = _blob(_SIDE, (cx + size * np.cos(turn), cy + size * np.sin(turn)), 5.0, edge=1.2)
        stain += dot[..., None] * _rgb(CHROMATIN)
    return np.asarray(stain, dtype=np.float32)


def _trophozoite(rng: np.random.Generator, radius: float) -> Field:
    """Absorbance of a trophozoite: an irregular body, one nucleus, pigment grains."""
    centre = rng.uniform(-0.2, 0.2, 2) * radius
    body = np.zeros((_SIDE, _SIDE), dtype=np.float32)
    for lobe in rng.normal(0, 0.13 * radius, (6, 2)):
        body += _blob(_SIDE, centre + lobe, rng.uniform(0.10, 0.17) * radius, edge=2.5)
    body = np.minimum(body, 1) * (1 + 0.15 * _mottle(rng, _SIDE, 2.5))
    stain = body[..., None] * _rgb(CYTOPLASM)
    nucleus = _blob(_SIDE, centre + rng.normal(0, 0.12 * radius, 2), 0.11 * radius, edge=1.5)
    stain += nucleus[..., None] * _rgb(CHROMATIN)
    for grain in rng.normal(0, 0.13 * radius, (5, 2)):
        stain += _blob(_SIDE, centre + grain, 1.8, edge=0.9)[..., None] * _rgb(PIGMENT)
    return np.asarray(stain, dtype=np.float32)


def _schizont(rng: np.random.Generator, radius: float) -> Field:
    """Absorbance of a young schizont: a cluster of nuclei around clumped pigment."""
    centre = rng.uniform(-0.15, 0.15, 2) * radius
    stain = 0.7 * _blob(_SIDE, centre, 0.34 * radius, edge=4)[..., None] * _rgb(CYTOPLASM)
    for turn in np.arange(5) * 2 * np.pi / 5 + rng.normal(0, 0.3, 5):
        distance = rng.uniform(0.13, 0.24) * radius
        position = centre + distance * np.array([np.cos(turn), np.sin(turn)])
        dot = _blob(_SIDE, position, rng.uniform(3.0, 5.0), edge=1.3)
        stain += 0.9 * dot[..., None] * _rgb(CHROMATIN)
    pigment = _blob(_SIDE, centre, 3.0, edge=1.2)
    return (stain + pigment[..., None] * _rgb(PIGMENT)).astype(np.float32)


def _rgb(values: Sequence[float]) -> Field:
    """Array of red, green and blue, (3,)."""
    return np.array(values, dtype=np.float32)


def _grid(side: int) -> tuple[Field, Field]:
    """Coordinates x and y of each pixel (side, side) relative to the centre."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return x.astype(np.float32), y.astype(np.float32)


def _blob(side: int, centre: npt.ArrayLike, radius: float, edge: float) -> Field:
    """Smooth disc (side, side) around (x, y) relative to the centre: 1 inside, 0 outside."""
    x, y = _grid(side)
    cx, cy = np.asarray(centre, dtype=np.float32)
    outward = np.clip((np.hypot(x - cx, y - cy) - radius) / edge, -30, 30)
    return np.asarray(1 / (1 + np.exp(outward)), dtype=np.float32)


def _warp(rng: np.random.Generator, stain: Field) -> Field:
    """Deform an image (side, side, 3) by a few pixels, so that no outline is a perfect circle."""
    side = len(stain)
    x, y = (axis + (side - 1) / 2 for axis in _grid(side))
    bend_x, bend_y = (2.2 * _mottle(rng, side, 5) for _ in range(2))
    bent = cv2.remap(stain, x + bend_x, y + bend_y, cv2.INTER_LINEAR)
    return np.asarray(bent, dtype=np.float32)


def _mottle(rng: np.random.Generator, side: int, scale: float) -> Field:
    """Noise (side, side) of mean 0 and standard deviation 1, smooth over ``scale`` pixels."""
    noise = cv2.GaussianBlur(rng.standard_normal((side, side), dtype=np.float32), (0, 0), scale)
    return np.asarray((noise - noise.mean()) / noise.std(), dtype=np.float32)


def _expose(
    rng: np.random.Generator, stain: Field, light: Field | float = 1.0, grain: float = 1.0
) -> Pixels:
    """Colour (H, W, 3) of absorbances (H, W, 3) under illumination (H, W), with camera noise."""
    colour = BACKGROUND * np.exp(-stain) * np.asarray(light, dtype=np.float32)[..., None]
    noise = cv2.GaussianBlur(rng.standard_normal(stain.shape, dtype=np.float32), (0, 0), 0.6)
    dark = 0.4 + 1.2 * (1 - np.exp(-stain.mean(axis=-1, keepdims=True)))
    colour += grain * dark * (noise / noise.std()) * _rgb(_GRAIN)
    return np.asarray(np.clip(np.rint(colour), 0, 255), dtype=np.uint8)


def _trim(picture: Pixels, cell: npt.NDArray[np.bool_]) -> Pixels:
    """Crop an image to its cell and a margin."""
    rows, columns = np.flatnonzero(cell.any(axis=1)), np.flatnonzero(cell.any(axis=0))
    top, left = max(0, rows[0] - _MARGIN), max(0, columns[0] - _MARGIN)
    return np.ascontiguousarray(
        picture[top : rows[-1] + 1 + _MARGIN, left : columns[-1] + 1 + _MARGIN]
    )
