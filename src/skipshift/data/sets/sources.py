"""Image sets as named on the command line: a folder, a manifest, one domain of it, or a shift.

A set is found from names and headers alone, so that what is wrong with it is told at once.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.data.images import Pixels, read_array
from skipshift.data.manifest import name_fault, parse_spacing, read_manifest, shorten
from skipshift.data.sets.groups import groups_of_files, unit_text
from skipshift.data.sets.tiles import is_slide, tile_corners
from skipshift.data.slices import ARRAYS, ENDINGS, is_volume, read_slices, shape_of
from skipshift.data.slides.reader import ENDINGS as SLIDES
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import PAPER_SHIFTS, parse_shift, shown
from skipshift.specs import ReadingSpec

MOST_PIXELS = 1 << 25
"""Most pixels of a whole picture, 5,792 x 5,792: a U-net's first features of one take 2 GiB."""

MOST_BYTES = 1 << 34
"""Most bytes of a set, 16 GiB: it is kept in memory as it is stored."""

_SETS = "a folder of images, a manifest or MANIFEST#domain"


@dataclass(frozen=True)
class Item:
    """One image of a set, not yet read."""

    file: Path

    group: str

    case: str
    """Name of its case, by which two sets are paired."""

    mask: Path | None = None

    part: Any = None
    """Slice of the file, or upper left corner (x, y) of the tile."""

    spacing: tuple[float, float] | None = None
    """Height and width of a pixel in mm, by the manifest."""


@dataclass(frozen=True)
class FoundSet:
    """A set whose files are known, and agree by their headers."""

    source: str
    """The set as it was named."""

    items: tuple[Item, ...]

    shape: tuple[int, ...]
    """Of an image once it is read: (H, W, C), or (D, H, W, C) of a volume."""

    reading: ReadingSpec

    grouped: bool
    """Whether somebody said what the groups are: a manifest, or ``--group``."""

    shift: str | None = None
    """Synthetic shift that is applied to the images."""

    @property
    def groups(self) -> tuple[str, ...]:
        """(N,) group of each image."""
        return tuple(item.group for item in self.items)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Median height and width of a pixel in mm; empty unless the manifest has that of all."""
        known = [item.spacing for item in self.items if item.spacing is not None]
        if len(known) < len(self.items) or self.reading.resize or self.reading.tile:
            return ()
        return tuple(np.median(known, 0).tolist())

    @property
    def unit(self) -> str:
        """How many images in how many groups; or that each image is a group of its own."""
        kind = "tiles" if self.reading.tile else "volumes" if self.reading.volumes else "images"
        told = self.grouped or any(item.part is not None for item in self.items)
        return unit_text(self.groups, told, kind)

    def about(self, images: "ImageSet") -> dict[str, Any]:
        """Record the set: its name, how many images in how many groups, and its digest."""
        number = {"images": len(self.items), "groups": len(set(self.groups))}
        return {"name": self.source, **number, "unit": self.unit, "digest": images.digest()}


@dataclass(frozen=True)
class ImageSet:
    """Images of one size, with the values as stored, and the group of each."""

    images: npt.NDArray[Any]
    """(N, H, W, C), or volumes (N, D, H, W, C)."""

    groups: tuple[str, ...]
    """(N,) groups of a manifest or a pattern, or the file names of a folder."""

    masks: Pixels | None = field(default=None)
    """(N, H, W) class indices, where they were asked for."""

    def digest(self) -> str:
        """SHA-256 of images, masks and groups: values, shapes and types."""
        found = hashlib.sha256(repr(self.groups).encode())
        for part in (self.images, self.masks):
            if part is not None:
                found.update(repr((part.shape, part.dtype.str)).encode())
                found.update(np.ascontiguousarray(part).data)
        return found.hexdigest()


def find_set(
    source: str, reading: ReadingSpec | None = None, seed: int = 0, labelled: bool = False
) -> FoundSet:
    """Find the images of a folder, or of the test cases of a manifest or of one of its domains.

    Nothing but headers is read. Each slice of a volume is an image, all of one file in one group,
    unless ``reading.volumes``. ``labelled`` takes cases with masks only. ``seed`` draws the sample.
    `SkipshiftError` if the source is no such set, a file is broken or has a name that cannot be
    shown, or images differ in size or channels and the reading does not make them equal.
    """
    reading = reading or ReadingSpec()
    items = _files(source, reading, labelled)
    for item in items:
        if fault := name_fault(item.file.name):
            folder = item.file.parent
            raise SkipshiftError(f"{folder}: the name {shorten(item.file.name)} {fault}; rename it")
    stored = [_stored(item.file, reading) for item in items]
    _check_shapes(items, stored, reading)
    depths = [1 if reading.volumes else shape[0] for shape in stored]
    parts = tuple(
        p for item, z in zip(items, depths, strict=True) for p in _parts(item, z, reading)
    )
    if reading.sample is not None:
        parts = _sample(parts, reading.sample, seed)
    grouped = _is_manifest(source) or reading.group is not None
    found = FoundSet(source, parts, _as_read(stored[0], reading), reading, grouped)
    _check_memory(found)
    return found


def find_pair(
    reference: str,
    shifted: str,
    reading: ReadingSpec | None = None,
    seed: int = 0,
    labelled: bool = False,
    one_size: bool = False,
) -> tuple[FoundSet, FoundSet]:
    """Find two sets; the second may be a shift of the first, e.g. ``brightness:0.75``.

    `SkipshiftError` as in `find_set`, and if the channels of the two sets differ, or with
    ``one_size`` the sizes; `ArgumentError` for a group pattern where both are manifests, which have
    groups.
    """
    reading = reading or ReadingSpec()
    is_shift = parse_shift(shifted) is not None
    if not is_shift:
        _check_shifted(shifted)
    named = [name for name in (reference, shifted) if parse_shift(name) is None]
    if reading.group is not None and all(map(_is_manifest, named)):
        raise ArgumentError("group is for folders; a manifest has a column group")
    first = find_set(reference, reading, seed, labelled)
    if is_shift:
        return first, replace(first, source=shifted, shift=shifted)
    second = find_set(shifted, reading, seed, labelled)
    one, other = first.shape, second.shape
    if one != other and (one_size or one[-1] != other[-1]):
        raise SkipshiftError(
            f"{shifted}: images are {_sides(other)}, but those of the reference are {_sides(one)} "
            f"({_AXES[len(one)]}); {_ways(other, one, 'both', reading)}"
        )
    return first, second


def paired_by_case(first: FoundSet, second: FoundSet) -> FoundSet:
    """Sort the second set like the first, by the names of their cases.

    `SkipshiftError` unless each case is exactly once in both sets.
    """
    if second.shift is not None:
        return second
    names = [(item.case, item.part) for item in first.items]
    others = [(item.case, item.part) for item in second.items]
    if first.reading.sample is not None:
        others = [name for name in others if name in set(names)]
    if odd := [n for n in [*names, *others] if (names.count(n), others.count(n)) != (1, 1)]:
        raise SkipshiftError(
            f"{second.source}: case {odd[0][0]!r} must occur exactly once in both sets; name one "
            f"domain of each, or use mode quantile, zero or mean for unpaired cases"
        )
    by_name = {(item.case, item.part): item for item in second.items}
    return replace(second, items=tuple(by_name[name] for name in names))


def read_test_rows(source: str) -> pd.DataFrame:
    """Read the rows of a manifest's test cases, or of one domain of them (``MANIFEST#domain``).

    `SkipshiftError` if there are none, or the source is not a manifest.
    """
    path, _, domain = source.partition("#")
    _check_set(source, "a manifest or MANIFEST#domain")
    if Path(path).is_dir():
        raise SkipshiftError(f"{path}: is a folder without masks; give a manifest of cases")
    cases = read_manifest(Path(path))
    cases = cases[cases["split"] == "test"]
    if domain:
        known = list(cases["domain"].unique())
        cases = cases[cases["domain"] == domain]
        if cases.empty:
            raise SkipshiftError(
                f"{path}: has no test cases of domain {domain!r}, only {shown(known)}"
            )
    if cases.empty:
        raise SkipshiftError(f"{path}: has no test cases; set the split of some to test")
    return cases


def _files(source: str, reading: ReadingSpec, labelled: bool) -> list[Item]:
    """Files of a set, one item each."""
    path, _, domain = source.partition("#")
    if labelled or not Path(path).is_dir():
        _check_set(source, _SETS)
        rows = read_test_rows(source)
        columns = [rows[name] for name in ("image", "group", "case", "mask")]
        spacings = map(parse_spacing, rows.get("spacing", pd.Series("", rows.index)))
        return [
            Item(Path(image), group, case, Path(mask), spacing=spacing)
            for image, group, case, mask, spacing in zip(*columns, spacings, strict=True)
        ]
    if domain:
        raise SkipshiftError(f"{source}: is a folder, which has no domains; give {path}")
    endings = (*ENDINGS, *SLIDES) if reading.tile else ENDINGS
    files = sorted(f for f in Path(path).iterdir() if f.name.lower().endswith(endings))
    if not files:
        slides = any(f.name.lower().endswith(SLIDES) for f in Path(path).iterdir())
        more = "; whole slides need --tile SIDE" if slides else ""
        raise SkipshiftError(f"{path}: contains no images ({' '.join(ENDINGS)}){more}")
    groups = groups_of_files(files, reading.group)
    return [Item(file, group, file.stem) for file, group in zip(files, groups, strict=True)]


def _parts(item: Item, depth: int, reading: ReadingSpec) -> Iterator[Item]:
    """Images that a file gives: itself, its slices, or its tiles."""
    if reading.tile is not None:
        for corner in tile_corners(item.file, reading.tile, reading.mpp, reading.tissue):
            yield replace(item, part=corner)
    elif depth > 1:
        yield from (replace(item, part=number) for number in range(depth))
    else:
        yield item


def _sample(items: Sequence[Item], number: int, seed: int) -> tuple[Item, ...]:
    """Draw images at random, each as likely as any other, each group with its share.

    Systematic sampling (Cochran 1977, chapter 8) of the images in random order within groups in
    random order; the sample keeps the order of the set.
    """
    if number >= len(items):
        return tuple(items)
    rng = np.random.default_rng(seed)
    names = rng.permutation(sorted({item.group for item in items}))
    place = {name: index for index, name in enumerate(names)}
    order = sorted(rng.permutation(len(items)), key=lambda index: place[items[index].group])
    step = len(items) / number
    taken = sorted(order[int((rng.random() + index) * step)] for index in range(number))
    return tuple(items[index] for index in taken)


def read_volume(file: Path) -> npt.NDArray[Any]:
    """Read a volume (D, H, W, C); `SkipshiftError` for a picture, or an array of other axes."""
    if is_volume(file):
        return read_slices(file).pixels
    if not file.name.lower().endswith(ARRAYS):
        raise SkipshiftError(f"{file}: is an image, but --volumes takes NIfTI or NPY files")
    volume = read_array(file)
    volume = volume[..., None] if volume.ndim == 3 else volume
    if volume.ndim != 4:
        raise SkipshiftError(f"{file}: must be (D, H, W) or (D, H, W, C), got {volume.shape}")
    return volume


def _stored(file: Path, reading: ReadingSpec) -> tuple[int, int, int, int]:
    """Shape (Z, H, W, C) of a file as it is stored; of a slide that of a tile."""
    if reading.tile is not None and is_slide(file):
        return 1, reading.tile, reading.tile, 3
    if reading.volumes and not is_volume(file):
        depth, height, width, channels = read_volume(file).shape
        return depth, height, width, channels
    return shape_of(file)


def _as_read(stored: tuple[int, int, int, int], reading: ReadingSpec) -> tuple[int, ...]:
    """Shape of an image of a file once it is read, (H, W, C) or (D, H, W, C)."""
    depth, *sides, channels = stored
    return (*((depth,) if reading.volumes else ()), *(reading.sides or sides), channels)


def _check_shapes(
    items: Sequence[Item], stored: Sequence[tuple[int, int, int, int]], reading: ReadingSpec
) -> None:
    """Raise a `SkipshiftError` for images that will not be of one size and the same channels."""
    first = _as_read(stored[0], reading)
    for item, one in zip(items, stored, strict=True):
        shape = _as_read(one, reading)
        if shape != first:
            raise SkipshiftError(
                f"{item.file}: is {_sides(shape)}, but {items[0].file.name} is {_sides(first)} "
                f"({_AXES[len(first)]}); {_ways(shape, first, 'all images', reading)}"
            )
        if reading.sides is None and one[1] * one[2] > MOST_PIXELS:
            raise SkipshiftError(
                f"{item.file}: is {one[1]} x {one[2]} (height x width), more than {MOST_PIXELS} "
                f"pixels, for whose features memory is short; add --tile, --resize or --crop"
            )


def _check_memory(found: FoundSet) -> None:
    """Raise a `SkipshiftError` for a set that is too large to be kept."""
    need = len(found.items) * math.prod(found.shape)
    if need > MOST_BYTES:
        raise SkipshiftError(
            f"{found.source}: {len(found.items)} images of {_sides(found.shape)} take "
            f"{need >> 30} GiB, more than {MOST_BYTES >> 30}; add --sample N"
        )


_AXES = {3: "height x width x channels", 4: "depth x height x width x channels"}


def _sides(shape: Sequence[object]) -> str:
    return " x ".join(map(str, shape))


def _ways(one: tuple[int, ...], other: tuple[int, ...], which: str, reading: ReadingSpec) -> str:
    """Say how images of two shapes, channels last, can be made equal."""
    ways = [f"convert {which} to the same channels"] if one[-1] != other[-1] else []
    if one[:-1] != other[:-1]:
        ways.append(
            f"crop or resample {which} to one size"
            if reading.volumes
            else "add --crop SIDE, --resize SIDE or --tile SIDE"
        )
    return " and ".join(ways)


def _is_manifest(source: str) -> bool:
    return not Path(source.partition("#")[0]).is_dir()


def _check_set(source: str, wanted: str) -> None:
    """Raise a `SkipshiftError` for a shift, an image or nothing in place of a set."""
    path = Path(source.partition("#")[0])
    if parse_shift(source):
        raise SkipshiftError(f"{source}: a shift can only be SHIFTED; give {wanted}")
    if not path.exists():
        raise SkipshiftError(f"{path}: does not exist; {_meant(path)}give {wanted}")
    if path.is_file() and path.name.lower().endswith((*ENDINGS, *SLIDES)):
        instead = "its folder" if wanted == _SETS else wanted
        raise SkipshiftError(f"{path}: is an image; give {instead}")


def _meant(path: Path) -> str:
    """Name what stands in a path's folder under nearly the same name."""
    names = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, 1, cutoff=0.8)
    return f"did you mean {path.with_name(near[0])}? Else " if near else ""


def _check_shifted(name: str) -> None:
    """Raise a `SkipshiftError` for what is neither a file nor a folder and may be a shift."""
    kind, colon, _ = name.partition(":")
    if not Path(name.partition("#")[0]).exists() and (
        colon or get_close_matches(kind, PAPER_SHIFTS, cutoff=0.8)
    ):
        raise SkipshiftError(
            f"{name}: is not a file, folder or shift; shifts are {', '.join(PAPER_SHIFTS)}:FACTOR"
        )
