"""A network with its paths, ready for patching, after checks that patches do what they should."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.names import listed
from skipshift.networks.features import as_input, input_like
from skipshift.networks.hooks import captured, hooked
from skipshift.networks.inference import labels_of, logits_of, run
from skipshift.patching.cached_forward import cached
from skipshift.patching.feeds import Patch
from skipshift.specs import CarrySpec

Labels = npt.NDArray[np.uint8]

Maps = dict[str, Tensor]
"""Path -> feature map (N, D, ...)."""


@dataclass(frozen=True)
class Patcher:
    """A network in evaluation mode, or a faster copy of it, with the addresses of its paths."""

    net: nn.Module
    paths: Mapping[str, str]
    """Those that are read: replacing one changes the logits."""
    behind: Mapping[str, str]
    """Address of the decoder block that reads each path, where it is known."""
    spec: CarrySpec
    classes: int
    cache: bool = False
    """Whether modules behind no patch may return what they gave before."""

    def input(self, images: Tensor) -> Tensor:
        """Convert images to the network's device, dtype and range."""
        return as_input(images, input_like(self.net))

    def labels(self, images: Tensor) -> Labels:
        """Segment a batch."""
        return labels_of(logits_of(run(self.net, self.input(images))))

    def patched(
        self, images: Tensor, rows: Iterable[tuple[str, ...]], patch: Patch
    ) -> Iterator[tuple[Labels, Maps]]:
        """Segment a batch once per row, with the paths of that row patched.

        With each row of one path comes the map behind it, with a row of none those behind all.
        """
        with self.forward(self.input(images)) as forward:
            for row in rows:
                wanted = row if len(row) == 1 else () if row else tuple(self.paths)
                blocks = {path: self.behind[path] for path in wanted if path in self.behind}
                with (
                    hooked(self.net, {path: self.paths[path] for path in row}, patch),
                    captured(self.net, blocks, copied) as maps,
                ):
                    labels = labels_of(forward())
                yield labels, maps

    @contextlib.contextmanager
    def forward(self, images: Tensor) -> Iterator[Callable[[], Tensor]]:
        """Yield a function that gives the logits of a batch, as the hooks of the moment have it."""
        if not self.cache:
            yield lambda: logits_of(run(self.net, images.clone()))
            return
        addresses = {**self.paths, **{f"behind {p}": a for p, a in self.behind.items()}}
        with cached(self.net, addresses, images) as forward:
            yield forward

    def features(self, images: Tensor, paths: Mapping[str, str]) -> tuple[Maps, Tensor]:
        """Run a batch and return copies of the tensors of paths, and the logits.

        `ArgumentError` names a path whose module did not run, or that is no map.
        """
        with captured(self.net, paths, copied) as found:
            logits = logits_of(run(self.net, images.clone()))
        if missing := [path for path in paths if path not in found]:
            raise ArgumentError(f"path {missing[0]}: its module did not run in the forward pass")
        return found, logits

    def fed(self, forward: Callable[[], Tensor], paths: Mapping[str, str], maps: Maps) -> Tensor:
        """Give the logits of a batch whose ``paths`` are fed ``maps``."""
        with hooked(self.net, paths, lambda path, old: maps[path].to(old, copy=True)):
            return forward()

    def without(self, unread: Iterable[str]) -> "Patcher":
        """Leave out paths that nothing reads; `ArgumentError` if there are no others."""
        unread = set(unread)
        read = {path: address for path, address in self.paths.items() if path not in unread}
        if not read:
            raise ArgumentError(
                f"no path is read: noise in {listed(list(self.paths))} leaves the logits as they "
                f"are"
            )
        behind = {path: address for path, address in self.behind.items() if path in read}
        return replace(self, paths=read, behind=behind)


def copied(path: str, value: Any) -> Tensor:
    """Copy a path's tensor, since the network may overwrite it later."""
    return checked(path, value).clone()


def checked(path: str, value: Any) -> Tensor:
    """Return a path's tensor; `ArgumentError` if it is no map."""
    if not isinstance(value, Tensor) or value.ndim < 3:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            f"path {path}: must be a tensor (N, D, h, w), got {got}; for one of several outputs "
            f"add its index, as in encoder[2]"
        )
    return value
