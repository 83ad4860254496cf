"""A network with its paths, ready for patching, after checks that patches do what they should."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.names import listed
from skipshift.networks.features import as_input
from skipshift.networks.hooks import captured, hooked
from skipshift.networks.inference import fast_copy, labels_of, logits_of, run
from skipshift.patching.cached_forward import cached
from skipshift.patching.feeds import Patch
from skipshift.patching.labelled import Labelled
from skipshift.patching.paths import all_paths, blocks_behind
from skipshift.specs import CarrySpec
from skipshift.statistics.recovery import NONE

Labels = npt.NDArray[np.uint8]

Maps = dict[str, Tensor]
"""Path -> feature map (N, D, ...)."""

_EXAMPLES = 1
"""Images of the first batch on which the checks are made."""

_COPY_ERROR = 0.2
"""Largest error of the fast copy's logits, relative to their spread; bf16 stays below it."""


@dataclass(frozen=True)
class Patcher:
    """A network optimised for inference, with the addresses of its paths."""

    net: nn.Module
    paths: Mapping[str, str]
    """Those that are read: replacing one changes the logits."""
    behind: Mapping[str, str]
    """Address of the decoder block that reads each path, where it is known."""
    spec: CarrySpec
    classes: int
    unread: tuple[str, ...] = ()
    """Paths that nothing reads."""
    cache: bool = True
    """Whether modules behind no patch may return what they gave before."""

    @classmethod
    def of(
        cls, net: nn.Module, paths: Mapping[str, str], data: Labelled, spec: CarrySpec
    ) -> "Patcher":
        """Copy a network and check on one image that patches reach all that its decoder reads.

        The network is in evaluation mode. `ArgumentError` names a path that did not run or gives no
        map, or says that no path is read, or, in modes paired and quantile, that all of them
        together do not give the reference's logits.
        """
        images, _, _ = next(data.batches(spec.batch_size))
        example = as_input(images[:_EXAMPLES], next(net.parameters())).float()
        fast = _faithful_copy(net, example, spec)
        example = example.to(next(fast.parameters()).dtype)
        with captured(fast, paths, copied) as features:
            logits = logits_of(run(fast, example.clone()))
        if missing := [path for path in paths if path not in features]:
            raise ArgumentError(f"path {missing[0]}: its module did not run in the forward pass")
        patcher = cls(fast, paths, {}, spec, max(2, logits.shape[1]))
        patcher = replace(patcher, behind=_maps_behind(fast, paths, example))
        patcher = _with_read_paths(patcher, example)
        if spec.mode in ("paired", "quantile"):
            _check_whole(patcher, example)
        return patcher

    def input(self, images: Tensor) -> Tensor:
        """Convert images to the network's device, dtype and range."""
        return as_input(images, next(self.net.parameters()))

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


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and each module back into its own afterwards."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


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


def _faithful_copy(net: nn.Module, example: Tensor, spec: CarrySpec) -> nn.Module:
    """Copy a network for inference, or take it as it is where the copy computes something else.

    A hook of the network's own can be lost in the copy, or still write to the original.
    """
    fast = fast_copy(net, example, spec.precision)
    # not the example, whose features a copy without its hooks may still hold
    other = _other(example)
    expected = logits_of(run(net, other.clone())).float()
    given = logits_of(run(fast, other.to(next(fast.parameters()).dtype))).float()
    error = (given - expected).square().mean().sqrt()
    return fast if error <= _COPY_ERROR * expected.std() + 1e-6 else net


def _maps_behind(net: nn.Module, paths: Mapping[str, str], example: Tensor) -> dict[str, str]:
    """Addresses of blocks behind paths, those that give one map in a forward pass."""
    found: dict[str, str] = {}
    for path, address in blocks_behind(net, paths).items():
        with (
            contextlib.suppress(ArgumentError),
            captured(net, {path: address}, copied) as maps,
        ):
            run(net, example.clone())
            found |= {path: address} if path in maps else {}
    return found


def _with_read_paths(patcher: Patcher, example: Tensor) -> Patcher:
    """Leave out paths that nothing reads, and the cache where it does not see a patch."""
    plain = replace(patcher, cache=False)
    expected = _responses(plain, example)
    try:
        given = _responses(patcher, example)
        cache = all(_close(given[path], expected[path]) for path in expected)
    except (ArgumentError, RuntimeError):
        cache = False
    read = {
        path: address
        for path, address in patcher.paths.items()
        if not torch.equal(expected[path], expected[NONE])
    }
    unread = tuple(path for path in patcher.paths if path not in read)
    if not read:
        raise ArgumentError(
            f"no path is read: noise in {listed(unread)} leaves the logits as they are"
        )
    behind = {path: address for path, address in patcher.behind.items() if path in read}
    return replace(patcher, paths=read, unread=unread, behind=behind, cache=cache)


def _responses(patcher: Patcher, example: Tensor) -> Maps:
    """Logits without a patch, and with noise put on one path at a time."""

    def noisy(_path: str, value: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(0)
        noise = torch.randn(value.shape, generator=rng).to(value)
        return value + (10 * value.float().std().nan_to_num() + 1).to(value) * noise

    with patcher.forward(example) as forward:
        logits = {NONE: forward()}
        for path, address in patcher.paths.items():
            with hooked(patcher.net, {path: address}, noisy):
                logits[path] = forward()
    return logits


def _check_whole(patcher: Patcher, example: Tensor) -> None:
    """Check that all paths together make the logits of other images those of the example."""
    paths = all_paths(patcher.net, patcher.paths)
    whole = replace(patcher, paths=paths)
    other = _other(example)
    with captured(whole.net, paths, copied) as features:
        expected = logits_of(run(whole.net, example.clone()))
    with whole.forward(other) as forward:
        forward()
        with hooked(whole.net, paths, lambda path, _: features[path].clone()):
            given = forward()
    if not _close(given, expected):
        raise ArgumentError(
            f"patching all of {listed(list(paths))} does not give the reference's logits: the "
            f"network reads more than these tensors; give paths as name -> address of each tensor "
            f"that its decoder reads"
        )


def _other(example: Tensor) -> Tensor:
    """Make images that differ from the example: with noise as large as its spread."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(example.shape, generator=rng).to(example.device)
    return (example.float() + (example.float().std().nan_to_num() + 0.1) * noise).to(example)


def _close(given: Tensor, expected: Tensor) -> bool:
    """Whether logits are equal but for rounding."""
    if torch.equal(given, expected):
        return True
    slack = 8 * torch.finfo(expected.dtype).eps * float(expected.abs().max())
    return bool(((given - expected).abs().max() <= slack).item())
