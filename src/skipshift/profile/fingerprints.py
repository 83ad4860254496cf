"""The fingerprint of a set of images: histograms that can be merged, saved and shared."""

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import FINGERPRINTS
from skipshift.records import write_bytes
from skipshift.spec_files import from_plain, to_plain


@dataclass(frozen=True)
class Making:
    """Settings that two fingerprints must share to be merged or compared, besides the edges."""

    network: str
    """SHA-256 of the names, types and values of the network's weights."""

    preprocess: str
    """Preprocessing of the images, as in `FingerprintSpec.preprocess`."""

    size: tuple[int, ...]
    """(C, H, W) of every image, or (C, D, H, W) of every volume."""

    pooling: str
    """Pooling of each cell, one of `skipshift.networks.pooling.POOLINGS`."""

    bins: int
    """Bins between the edges; an open bin at each end counts the values beyond."""

    part: int
    """Minimum number of groups per part; groups are never split."""

    layers: tuple[tuple[str, str], ...]
    """Name and address of each layer, in depth order."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Per-channel histograms of a network's pooled features over a set of images, without images.

    The groups of the set are assigned to parts, and each part has one histogram per channel. Parts
    replace groups as the units of the null (noise floor) and of intervals.
    """

    making: Making
    """Settings that it was made with."""

    channels: tuple[int, ...]
    """Channels of each layer; D is their sum."""

    low: npt.NDArray[np.float64]
    """(D,): lower edge of the first bin, which also counts all values below."""

    high: npt.NDArray[np.float64]
    """(D,): upper edge of the last bin, which also counts all values above."""

    counts: npt.NDArray[np.uint32]
    """(parts, D, bins + 2), of all layers in depth order; parts are sorted by their counts."""

    groups: npt.NDArray[np.int64]
    """(parts,): number of groups in each part."""

    images: npt.NDArray[np.int64]
    """(parts,): number of images in each part."""

    alone: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    """(N, layers): how far each image lies from the images of the other groups, in random order;
    empty in merged fingerprints and in older files."""

    def __str__(self) -> str:
        return (
            f"{self.images.sum()} images of {self.groups.sum()} groups in {len(self.groups)} parts"
        )

    def _repr_html_(self) -> str:
        rows = pd.DataFrame(self.outside().items(), columns=["layer", "outside"])
        rows.insert(1, "channels", self.channels)
        return f"<p>{escape(str(self))}</p>{rows.round(3).to_html(index=False)}"

    def layers(self) -> Iterator[tuple[str, slice]]:
        """Yield the name of each layer and the slice of its channels in ``low`` and ``counts``."""
        ends = np.cumsum(self.channels)
        for (name, _), start, end in zip(
            self.making.layers, ends - self.channels, ends, strict=True
        ):
            yield name, slice(int(start), int(end))

    def outside(self) -> dict[str, float]:
        """Fraction of each layer's values beyond the edges, in the two open bins."""
        sums = self.counts.sum(0, dtype=np.int64)
        return {
            name: float(sums[own][:, [0, -1]].sum() / sums[own].sum())
            for name, own in self.layers()
        }

    def merge(self, *others: "Fingerprint") -> "Fingerprint":
        """Merge the parts of several sets, in any order; images cannot be scored against it.

        `ArgumentError` if network, settings or edges differ, or a set is given twice.
        """
        if not others:
            return self
        sides = (self, *others)
        seen: set[bytes] = set()
        for side in sides:
            self.check(side)
            own = {part.tobytes() for part in side.counts}
            if seen & own:
                raise ArgumentError(
                    "fingerprints share a part: a set was given twice; leave one out"
                )
            seen |= own
        parts = in_order(
            np.concatenate([side.counts for side in sides]),
            np.concatenate([side.groups for side in sides]),
            np.concatenate([side.images for side in sides]),
        )
        return Fingerprint(self.making, self.channels, self.low, self.high, *parts)

    def check(self, other: "Fingerprint | Making") -> None:
        """Check that another fingerprint is comparable; `ArgumentError` names what differs."""
        making = other.making if isinstance(other, Fingerprint) else other
        for setting in fields(Making):
            own, theirs = (getattr(made, setting.name) for made in (self.making, making))
            if own == theirs:
                continue
            if setting.name == "network":
                own, theirs = own[:12], theirs[:12]
            if setting.name == "layers":
                own, theirs = (", ".join(dict(layers)) for layers in (own, theirs))
            raise ArgumentError(
                f"{setting.name} must be that of the fingerprint, {own}, got {theirs}; "
                f"make both with the same settings"
            )
        if isinstance(other, Fingerprint) and not all(
            map(np.array_equal, (self.low, self.high), (other.low, other.high))
        ):
            raise ArgumentError(
                "edges must be the same; make one fingerprint with the edges of the other"
            )

    def save(self, path: Path | str) -> None:
        """Write a .npz file, or the same as .json, which is human-readable and larger.

        `ArgumentError` if the ending is another one, or a part has fewer groups than it must.
        """
        if (self.groups < self.making.part).any():
            raise ArgumentError(
                f"{self.groups.sum()} groups cannot fill a part of {self.making.part}; add images "
                f"of more groups, or use smaller parts"
            )
        about = {"making": to_plain(self.making), "channels": list(self.channels)}
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        arrays["alone"] = self.alone.astype(np.float32)
        arrays["counts"] = self.counts.astype(np.min_scalar_type(self.counts.max()))
        buffer = io.BytesIO()
        if str(path).endswith(".json"):
            lists = {name: array.tolist() for name, array in arrays.items()}
            buffer.write(json.dumps({**about, **lists}, separators=(",", ":")).encode())
        elif str(path).endswith(FINGERPRINTS):
            np.savez_compressed(buffer, about=np.array(json.dumps(about)), **arrays)
        else:
            raise ArgumentError(f"a fingerprint must end in .npz or .json, got {path}")
        write_bytes(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: Path | str) -> "Fingerprint":
        """Read a file written by `save`; `SkipshiftError` if it is absent or not a fingerprint."""
        try:
            if str(path).endswith(".json"):
                values = json.loads(Path(path).read_text(encoding="utf-8"))
            else:
                with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                    values = json.loads(str(archive["about"])) | dict(archive)
            values.setdefault("alone", np.empty((0, 0)))
            arrays = [np.asarray(values[name], kind) for name, kind in _ARRAYS.items()]
            making = from_plain(Making, values["making"], str(path))
            loaded = cls(making, tuple(map(int, values["channels"])), *arrays)
            _check_shapes(loaded)
        except _BROKEN as error:
            reason = " ".join(str(error).split())
            raise SkipshiftError(f"{path}: cannot be read as a fingerprint: {reason}") from None
        return loaded


def _check_shapes(loaded: Fingerprint) -> None:
    shape = (len(loaded.groups), sum(loaded.channels), loaded.making.bins + 2)
    fitting = loaded.low.shape == loaded.high.shape == shape[1:2]
    fitting &= loaded.images.shape == loaded.groups.shape == shape[:1]
    fitting &= len(loaded.channels) == len(loaded.making.layers)
    alone = loaded.alone
    fitting &= not alone.size or alone.shape[1:] == (len(loaded.channels),)
    if loaded.counts.shape != shape or not fitting:
        raise ValueError(f"counts must have shape {shape}, and the other arrays must match")


_ARRAYS = {
    "low": np.float64, "high": np.float64, "counts": np.uint32, "groups": np.int64,
    "images": np.int64, "alone": np.float64,
}  # fmt: skip

_BROKEN = (
    OSError, ValueError, KeyError, TypeError, EOFError, OverflowError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
"""Errors from reading a file that is absent, truncated or of another kind."""


def read_fingerprint(source: str) -> Fingerprint:
    """Read a fingerprint file, or several, separated by commas, and merge them.

    `SkipshiftError` if one cannot be read or they cannot be merged.
    """
    paths = source.split(",")
    first, *others = map(Fingerprint.load, paths)
    try:
        return first.merge(*others)
    except ArgumentError as error:
        raise SkipshiftError(f"{source}: {error}") from None


def in_order(
    counts: npt.NDArray[np.uint32], groups: npt.NDArray[np.int64], images: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sort parts by their counts."""
    order = sorted(range(len(counts)), key=lambda part: counts[part].tobytes())
    return counts[order], groups[order], images[order]
