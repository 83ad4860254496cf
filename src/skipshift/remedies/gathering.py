"""Statistics of places, gathered by fold in one pass: moments, samples, and sums of batch norms."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.networks.features import as_input, input_like
from skipshift.networks.hooks import captured
from skipshift.networks.inference import run
from skipshift.patching.feeds import picked
from skipshift.patching.labelled import Codes, Labelled, Masks
from skipshift.remedies.places import INPUT, Place

_SAMPLE = 2**14
"""Values per channel from which quantiles are estimated, spread over all images."""


@dataclass(frozen=True)
class Folded:
    """A set of images, its groups divided into folds."""

    data: Labelled

    folds: npt.NDArray[np.int64]
    """(groups,): fold of each group, in the order of their sorted labels."""

    @property
    def number(self) -> int:
        """Number of folds."""
        return int(self.folds.max()) + 1

    def batches(self, size: int) -> Iterator[tuple[int, Tensor, Masks | None, Codes]]:
        """Yield fold, images, masks and groups; a batch never mixes folds."""
        waiting: dict[int, list[tuple[Tensor, Any, Any]]] = {f: [] for f in range(self.number)}
        for images, masks, codes in self.data.batches(size):
            for i, image in enumerate(images):
                own = waiting[int(self.folds[codes[i]])]
                own.append((image, None if masks is None else masks[i], codes[i]))
                if len(own) == size:
                    yield _batch(int(self.folds[codes[i]]), own)
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
    net: nn.Module, places: Sequence[Place], data: Folded, batch_size: int, seed: int
) -> Gathered:
    """Gather the statistics of all places that have a tensor, in one pass over a set.

    `ArgumentError` names an image that holds NaN or infinity, by its group.
    """
    addresses = {place.name: place.address for place in places if place.address is not None}
    rng = torch.Generator().manual_seed(seed)
    each = max(1, _SAMPLE // len(data.data.groups))
    found, fold = Gathered(), 0

    def keep(name: str, value: Any) -> None:
        # a place without a map of features has nothing to be matched
        if isinstance(value, Tensor) and value.ndim > 2:
            _add(found, name, fold, value, picked(value, each, rng).cpu(), data.number)

    like = input_like(net)
    with torch.no_grad():
        for own, images, _, codes in data.batches(batch_size):
            fold = own
            batch = as_input(images, like)
            if odd := codes[~batch.flatten(1).isfinite().all(1).cpu().numpy()].tolist():
                group = np.unique(data.data.groups)[odd[0]]
                raise ArgumentError(
                    f"an image of the {data.data.name}, of group {group}, holds NaN or infinity"
                )
            keep(INPUT, batch)
            with captured(net, addresses, keep):
                run(net, batch)
    return found


def _add(found: Gathered, name: str, fold: int, value: Tensor, sample: Tensor, folds: int) -> None:
    if name not in found.sums:
        found.sums[name] = Sums(np.zeros((folds, 3, value.shape[1])))
        found.samples[name] = [[] for _ in range(folds)]
    found.sums[name].add(fold, value)
    found.samples[name][fold].append(sample)


def norm_sums(
    net: nn.Module, names: Sequence[str], data: Folded, batch_size: int
) -> Mapping[str, Sums]:
    """Add up what batch norms read, each normalising by its batch as in training.

    So a norm sees its input as it will be once those before it are recomputed (AdaBN, Li et al.
    2017). The running statistics are left as they were.
    """
    norms = {name: net.get_submodule(name) for name in names}
    sums = {n: Sums(np.zeros((data.number, 3, len(m.running_mean)))) for n, m in norms.items()}  # type: ignore[arg-type]
    fold = 0

    def hook_for(name: str) -> Callable[..., None]:
        def read(module: Any, inputs: tuple[Tensor, ...]) -> None:
            sums[name].add(fold, inputs[0])
            axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
            variance, mean = torch.var_mean(inputs[0], axes, correction=0)
            module.running_mean.copy_(mean)
            module.running_var.copy_(variance)

        return read

    like = input_like(net)
    kept = {n: (m.running_mean.clone(), m.running_var.clone()) for n, m in norms.items()}  # type: ignore[operator]
    with ExitStack() as stack, torch.no_grad():
        for name, module in norms.items():
            stack.callback(_restore, module, *kept[name])
            stack.callback(module.register_forward_pre_hook(hook_for(name)).remove)
        for own, images, _, _ in data.batches(batch_size):
            fold = own
            run(net, as_input(images, like))
    return sums


def _restore(module: Any, mean: Tensor, variance: Tensor) -> None:
    module.running_mean.copy_(mean)
    module.running_var.copy_(variance)
