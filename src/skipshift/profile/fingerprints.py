"""A set of images as histograms over fixed edges: what can be sent in place of the images."""

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import FINGERPRINTS
from skipshift.records import write_bytes
from skipshift.specs import from_plain, to_plain


@dataclass(frozen=True)
class Making:
    """What two fingerprints must share to be merged or compared, edges apart."""

    network: str
    """SHA-256 of the names, types and values of the network's weights."""

    preprocess: str
    """What was done to the images, as `FingerprintSpec.preprocess` says."""

    size: tuple[int, ...]
    """(C, H, W), of volumes (C, D, H, W), of every image."""

    pooling: str
    """What was kept of each cell, one of `skipshift.networks.pooling.POOLINGS`."""

    bins: int
    """Bins between the edges; one more at either end counts what lies beyond."""

    part: int
    """Groups counted together at least; every part holds whole groups."""

    layers: tuple[tuple[str, str], ...]
    """Name and address of each layer, in depth order."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Histograms of a network's pooled features of a set of images; it holds no image.

    The groups of the set are dealt out to parts, and each part is one histogram per channel. Parts
    are what a null is split by and an interval resampled over, in place of the groups.
    """

    making: Making
    """How it was made."""

    channels: tuple[int, ...]
    """Channels of each layer; D is their sum."""

    low: npt.NDArray[np.float64]
    """(D,): lower edge of the first bin, which also counts all below."""

    high: npt.NDArray[np.float64]
    """(D,): upper edge of the last bin, which also counts all above."""

    counts: npt.NDArray[np.uint32]
    """(parts, D, bins + 2), of all layers in depth order; parts in an order that depends on their
    counts alone."""

    groups: npt.NDArray[np.int64]
    """(parts,): groups in each part."""

    images: npt.NDArray[np.int64]
    """(parts,): images in each part."""

    def __str__(self) -> str:
        return (
            f"{self.images.sum()} images of {self.groups.sum()} groups in {len(self.groups)} parts"
        )

    def layers(self) -> Iterator[tuple[str, slice]]:
        """Give the name of each layer and the place of its channels in ``low`` and ``counts``."""
        ends = np.cumsum(self.channels)
        for (name, _), start, end in zip(
            self.making.layers, ends - self.channels, ends, strict=True
        ):
            yield name, slice(int(start), int(end))

    def outside(self) -> dict[str, float]:
        """Share of each layer's values that lie beyond the edges, in the two open bins."""
        sums = self.counts.sum(0, dtype=np.int64)
        return {
            name: float(sums[own][:, [0, -1]].sum() / sums[own].sum())
            for name, own in self.layers()
        }

    def merge(self, *others: "Fingerprint") -> "Fingerprint":
        """Join the parts of several sets; their order does not matter.

        `ArgumentError` if a fingerprint is of another network, made otherwise or over other edges,
        or shares a part with one before it.
        """
        sides = (self, *others)
        seen: set[bytes] = set()
        for side in sides:
            self.check(side)
            own = {part.tobytes() for part in side.counts}
            if seen & own:
                raise ArgumentError(
                    "fingerprints share a part: a set is there twice; leave one out"
                )
            seen |= own
        parts = in_order(
            np.concatenate([side.counts for side in sides]),
            np.concatenate([side.groups for side in sides]),
            np.concatenate([side.images for side in sides]),
        )
        return Fingerprint(self.making, self.channels, self.low, self.high, *parts)

    def check(self, other: "Fingerprint | Making") -> None:
        """`ArgumentError` names the first thing that was made otherwise, the edges last."""
        making = other.making if isinstance(other, Fingerprint) else other
        for field in fields(Making):
            own, theirs = (getattr(made, field.name) for made in (self.making, making))
            if own == theirs:
                continue
            if field.name == "network":
                own, theirs = own[:12], theirs[:12]
            if field.name == "layers":
                own, theirs = (", ".join(dict(layers)) for layers in (own, theirs))
            raise ArgumentError(
                f"{field.name} must be that of the fingerprint, {own}, got {theirs}; "
                f"make both sides alike"
            )
        if isinstance(other, Fingerprint) and not all(
            map(np.array_equal, (self.low, self.high), (other.low, other.high))
        ):
            raise ArgumentError(
                "edges must be the same: make one fingerprint with those of the other"
            )

    def save(self, path: Path | str) -> None:
        """Write a .npz, or the same as .json, which can be read by eye and is larger."""
        if (self.groups < self.making.part).any():
            raise ArgumentError(
                f"{self.groups.sum()} groups cannot fill a part of {self.making.part}; add images "
                f"of more groups, or make it with smaller parts"
            )
        about = {"making": to_plain(self.making), "channels": list(self.channels)}
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
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
        """Read what `save` wrote; `SkipshiftError` if it is absent or no fingerprint."""
        try:
            if str(path).endswith(".json"):
                held = json.loads(Path(path).read_text(encoding="utf-8"))
            else:
                with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                    held = json.loads(str(archive["about"])) | dict(archive)
            arrays = [np.asarray(held[name], kind) for name, kind in _ARRAYS.items()]
            making = from_plain(Making, held["making"], str(path))
            found = cls(making, tuple(map(int, held["channels"])), *arrays)
            shape = (len(found.groups), sum(found.channels), making.bins + 2)
            fitting = found.low.shape == found.high.shape == shape[1:2]
            fitting &= found.images.shape == found.groups.shape == shape[:1]
            if (
                found.counts.shape != shape
                or not fitting
                or len(found.channels) != len(making.layers)
            ):
                raise ArgumentError(f"counts must be {shape} and the rest alike")
        except _BROKEN as error:
            reason = " ".join(str(error).split())
            raise SkipshiftError(f"{path}: cannot be read as a fingerprint: {reason}") from None
        return found


_ARRAYS = {
    "low": np.float64, "high": np.float64, "counts": np.uint32, "groups": np.int64,
    "images": np.int64,
}  # fmt: skip

_BROKEN = (
    OSError, ValueError, KeyError, TypeError, EOFError, OverflowError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
"""What a file raises that is absent, cut off, or something else."""


def read_fingerprint(source: str) -> Fingerprint:
    """Read a file, or merge several with commas between them."""
    paths = source.split(",")
    first, *others = map(Fingerprint.load, paths)
    try:
        return first.merge(*others)
    except ArgumentError as error:
        raise SkipshiftError(f"{source}: {error}") from None


def in_order(
    counts: npt.NDArray[np.uint32], groups: npt.NDArray[np.int64], images: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Bring parts into an order that nothing but their counts decides."""
    order = sorted(range(len(counts)), key=lambda part: counts[part].tobytes())
    return counts[order], groups[order], images[order]
