"""Statistics of places, gathered by fold in one pass: moments, samples, and sums of batch norms."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.networks.changes import Change
from skipshift.networks.features import as_input, input_like
from skipshift.networks.hooks import EnoughError, captured
from skipshift.networks.inference import run
from skipshift.networks.pooling import cells_of, pooled
from skipshift.patching.feeds import picked
from skipshift.patching.labelled import Codes, Labelled, Masks
from skipshift.profile.fingerprints import Fingerprint
from skipshift.remedies.places import INPUT, Place
from skipshift.specs import RemedySpec

_SAMPLE = 2**14
"""Values per channel from which quantiles are estimated, spread over all images."""


@dataclass(frozen=True)
class Folded:
    """A set of images, its groups divided into folds."""

    data: Labelled

    folds: npt.NDArray[np.int64]
    """(groups,): fold of each group, in the order of their sorted labels."""

    before: Change = field(default_factory=Change)
    """Change of the input that the images go through."""

    without: int | None = None
    """Fold whose images are left out."""

    @property
    def number(self) -> int:
        """Number of folds."""
        return int(self.folds.max()) + 1

    @property
    def in_one(self) -> "Folded":
        """The same set in one fold: its batches are full."""
        return replace(self, folds=np.zeros_like(self.folds))

    def batches(
        self, net: nn.Module, size: int
    ) -> Iterator[tuple[int, Tensor, Masks | None, Codes]]:
        """Yield fold, images as a network takes them, masks and groups; no batch mixes folds.

        `ArgumentError` names an image that holds NaN or infinity, by its group.
        """
        like = input_like(net)
        for fold, images, masks, codes in self._stored(size):
            batch = as_input(images, like)
            if odd := codes[~batch.flatten(1).isfinite().all(1).cpu().numpy()].tolist():
                group = np.unique(self.data.groups)[odd[0]]
                raise ArgumentError(
                    f"an image of the {self.data.name}, of group {group}, holds NaN or infinity"
                )
            yield fold, self.before.images(batch), masks, codes

    def _stored(self, size: int) -> Iterator[tuple[int, Tensor, Masks | None, Codes]]:
        waiting: dict[int, list[tuple[Tensor, Any, Any]]] = {f: [] for f in range(self.number)}
        for images, masks, codes in self.data.batches(size):
            for i, image in enumerate(images):
                fold = int(self.folds[codes[i]])
                if fold == self.without:
                    continue
                own = waiting[fold]
                own.append((image, None if masks is None else masks[i], codes[i]))
                if len(own) == size:
                    yield _batch(fold, own)
                    own.clear()
        for fold, own in waiting.items():
            if own:
                yield _batch(fold, own)


def _batch(fold: int, items: list[Any]) -> tuple[int, Tensor, Masks | None, Codes]:
    images, masks, codes = zip(*items, strict=True)
    return fold, torch.stack(images), None if masks[0] is None else np.stack(masks), np.array(codes)


def folded(data: Labelled, number: int, seed: int) -> Folded:
    """Divide the groups of a set into folds at random, at most as many as there are groups."""
    groups = len(np.unique(data.groups))
    order = np.random.default_rng(seed).permutation(groups)
    return Folded(data, order % min(number, groups))


@dataclass
class Sums:
    """Number, sum and sum of squares of each channel, by fold."""

    parts: npt.NDArray[np.float64]
    """(folds, 3, D)"""

    def add(self, fold: int, values: Tensor) -> None:
        """Add the values (N, D, ...) of some images."""
        flat = values.detach().movedim(1, 0).flatten(1).double()
        sums = torch.stack(
            [torch.full_like(flat[:, 0], flat.shape[1]), flat.sum(1), flat.square().sum(1)]
        )
        self.parts[fold] += sums.cpu().numpy()

    def moments(self, without: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean and variance (D,) of each channel over all folds but one."""
        kept = np.delete(self.parts, [] if without is None else without, 0).sum(0)
        mean = kept[1] / kept[0]
        variance = np.maximum(kept[2] / kept[0] - mean**2, 0)
        return torch.from_numpy(mean).float(), torch.from_numpy(variance).float()


@dataclass
class Gathered:
    """Moments and samples of the tensors at places, by fold."""

    sums: dict[str, Sums] = field(default_factory=dict)

    samples: dict[str, list[list[Tensor]]] = field(default_factory=dict)
    """Place -> fold -> values (M, D) at random positions of its images."""

    pooling: str | None = None
    """Pooling of the features, as in a fingerprint; None for features as they are."""

    def moments(self, place: str, without: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (D,) of each channel over all folds but one."""
        mean, variance = self.sums[place].moments(without)
        return mean, variance.sqrt()

    def values(self, place: str, without: int | None = None) -> Tensor:
        """Return samples (M, D) of all folds but one."""
        return torch.cat(
            [t for f, own in enumerate(self.samples[place]) if f != without for t in own]
        )


def gather(
    net: nn.Module,
    places: Sequence[Place],
    data: Folded,
    spec: RemedySpec,
    pooling: str | None = None,
) -> Gathered:
    """Gather the statistics of all places that have a tensor, in one pass over a set.

    The samples of two sets take at most half of ``spec.memory``, but one position of each image.
    With a ``pooling`` those of pooled features are gathered, and of the input none.
    """
    addresses = {place.name: place.address for place in places if place.address is not None}
    rng = torch.Generator().manual_seed(spec.seed)
    found, fold, each = Gathered(pooling=pooling), 0, 0

    def keep(name: str, value: Any) -> None:
        # a place without a map of features has nothing to be matched
        if isinstance(value, Tensor) and value.ndim > 2:
            maps = value if pooling is None else pooled(value.float(), cells, pooling, rngs)
            _add(found, name, fold, maps, picked(maps, each, rng).cpu(), data.number)

    rngs = np.random.default_rng(spec.seed)
    with torch.no_grad():
        for own, batch, _, _ in data.batches(net, spec.batch_size):
            fold, cells = own, cells_of(batch)
            if not each:
                most = min(_SAMPLE, spec.memory * 2**30 / (16 * _channels(net, addresses, batch)))
                each = max(1, int(most / len(data.data.groups)))
            if pooling is None:
                keep(INPUT, batch)
            with captured(net, addresses, keep, whole=False):
                run(net, batch)
    return found


def _channels(net: nn.Module, addresses: Mapping[str, str], batch: Tensor) -> int:
    """Channels of the input and of all places together."""
    with captured(net, addresses, lambda _, value: value.shape[1], whole=False) as channels:
        run(net, batch[:1])
    return int(batch.shape[1] + sum(channels.values()))


def gathered_of(given: Fingerprint, places: Sequence[Place]) -> Gathered:
    """Moments and samples of the places that a fingerprint has, from its histograms.

    Where features were averaged their spread is that of averages, which a scaling scales alike; a
    distribution of averages is not that of the features, so there are no samples.
    """
    layers = {address: name for name, address in given.making.layers}
    channels = dict(given.layers())
    found = Gathered(pooling=given.making.pooling)
    for place in places:
        if place.address not in layers:
            continue
        own = channels[layers[place.address]]
        counts, low = given.counts[:, own].sum(0).astype(np.float64), given.low[own, None]
        width = (given.high[own, None] - low) / counts.shape[1]
        middle = low + (np.arange(counts.shape[1]) + 0.5) * width
        sums = np.stack([(counts * middle**power).sum(1) for power in range(3)])
        found.sums[place.name] = Sums(sums[None])
        if given.making.pooling != "average":
            found.samples[place.name] = [[_drawn(counts, low, width)]]
    return found


def _drawn(counts: npt.NDArray[np.float64], low: Any, width: Any) -> Tensor:
    """Evenly spaced quantiles (M, D) of histograms (D, B) whose bins are filled evenly."""
    shares = (np.arange(_SAMPLE) + 0.5) / _SAMPLE
    ends = counts.cumsum(1) / counts.sum(1, keepdims=True)
    bins = np.stack([np.searchsorted(own, shares) for own in ends])
    before = np.take_along_axis(np.pad(ends, ((0, 0), (1, 0))), bins, 1)
    filled = np.take_along_axis(ends, bins, 1) - before
    values = low + (bins + (shares - before) / filled) * width
    return torch.from_numpy(values.T).float()


def _add(found: Gathered, name: str, fold: int, value: Tensor, sample: Tensor, folds: int) -> None:
    if name not in found.sums:
        found.sums[name] = Sums(np.zeros((folds, 3, value.shape[1])))
        found.samples[name] = [[] for _ in range(folds)]
    found.sums[name].add(fold, value)
    found.samples[name][fold].append(sample)


def has_statistics(module: nn.Module) -> bool:
    """Whether a module keeps running statistics, as a batch norm does."""
    return getattr(module, "running_mean", None) is not None


def norm_sums(
    net: nn.Module, names: Sequence[str], data: Folded, batch_size: int
) -> Mapping[str, Sums]:
    """Add up what batch norms read, each normalising by its batch as in training.

    So a norm sees its input as it will be once those before it are recomputed (AdaBN, Li et al.
    2017). The running statistics are left as they were.
    """
    norms = {name: net.get_submodule(name) for name in names}
    sums = {n: Sums(np.zeros((data.number, 3, len(m.running_mean)))) for n, m in norms.items()}  # type: ignore[arg-type]
    fold, read_so_far, all_read = 0, 0, 0

    def hook_for(name: str) -> Callable[..., None]:
        def read(module: Any, inputs: tuple[Tensor, ...]) -> None:
            nonlocal read_so_far
            sums[name].add(fold, inputs[0])
            read_so_far += 1
            # what comes behind the last of them need not run
            if read_so_far == all_read:
                raise EnoughError
            axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
            variance, mean = torch.var_mean(inputs[0], axes, correction=0)
            module.running_mean.copy_(mean)
            module.running_var.copy_(variance)

        return read

    kept = {n: (m.running_mean.clone(), m.running_var.clone()) for n, m in norms.items()}  # type: ignore[operator]
    with ExitStack() as stack, torch.no_grad():
        for name, module in norms.items():
            stack.callback(_restore, module, *kept[name])
            stack.callback(module.register_forward_pre_hook(hook_for(name)).remove)
        for own, images, _, _ in data.batches(net, batch_size):
            fold, read_so_far = own, 0
            with suppress(EnoughError):
                run(net, images)
            all_read = read_so_far
    return sums


def _restore(module: Any, mean: Tensor, variance: Tensor) -> None:
    module.running_mean.copy_(mean)
    module.running_var.copy_(variance)
