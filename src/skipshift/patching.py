"""Carry: how much of the lost accuracy returns when one path is fed the reference's features."""

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import segmentation_models_pytorch as smp
import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from skipshift.counts import Counts, count, iou
from skipshift.features import Layers, _module, _parse, as_input, taps_of, tapped
from skipshift.inference import labels_of
from skipshift.models import Unet, check_sides
from skipshift.names import LEVELS
from skipshift.profile import Groups, Images, _batches
from skipshift.statistics import percentile_interval, resamples

Sets = Sequence[tuple[str, ...]]
"""Sets of paths that are patched together, the empty set first and the full one last."""

_MOST_PATHS = 10
"""Paths of which all sets are run at most: 2^10 forward passes for each batch."""


@dataclass(frozen=True, kw_only=True)
class CarrySpec:
    """How carry is measured."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    sets: Literal["single", "all"] = "single"
    """Patch each path alone, or all 2^k sets of paths, from which Shapley values follow."""

    bootstrap_draws: int = 1000
    """Bootstrap resamples of the groups from which the 95 % interval is taken."""

    batch_size: int = 8
    """Images in one forward pass."""

    seed: int = 0
    """Seed of the resamples."""

    def __post_init__(self) -> None:
        if self.sets not in ("single", "all"):
            raise ValueError(f"sets must be single or all, got {self.sets!r}")
        for name in ("bootstrap_draws", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def carry(
    net: nn.Module,
    reference: Images,
    shifted: Images,
    masks: npt.NDArray[Any],
    paths: Layers | None = None,
    groups: Groups | None = None,
    spec: CarrySpec | None = None,
) -> pd.DataFrame:
    """Measure which path of a network carries the accuracy that a shift loses, without training.

    The network runs on the shifted images, but one path reads the features of the reference image
    of the same case. IoU is pooled over the set and averaged over the foreground classes that the
    masks hold. ``share = (iou - iou_none) / (iou_reference - iou_none)``; it may be negative, and
    the shares of single paths need not add up to one. Their Shapley values do (Shapley 1953)::

        shapley_i = sum over sets S without i of |S|! (k - |S| - 1)! / k! (share_{S+i} - share_S)

    A U-net's encoder runs once on each image, and its decoder once for each set of paths.

    Parameters
    ----------
    net
        Gives logits (N, classes, H, W), first of a tuple or alone; one channel is the logit of
        class 1 against class 0.
    reference, shifted
        Arrays (N, C, H, W) or loaders of the same cases in the same order; uint8 is divided by 255,
        floats go in as they are.
    masks
        (N, H, W) class indices.
    paths
        For a `Unet` or ``segmentation_models_pytorch.Unet`` the kept skips ``L1`` to ``L4`` and
        ``bottleneck``, all by default: what the decoder reads, not what the encoder's next stage
        does. For any network addresses as in `skipshift.features`: whatever reads that output reads
        the reference's, so ``encoder[2]`` is a path and ``encoder.layer1`` a stage.
    groups
        Label of each case's group; each case is its own by default.

    Returns
    -------
    ``path, iou, share, low, high``: a row ``none`` (shifted as it is), one per path, and ``all``
    (every path patched: the reference's IoU if these are all paths there are); for all sets also
    one per set, ``L1+L2``, and ``shapley, shapley_low, shapley_high`` in the rows of single paths,
    which add up to the share of ``all``. The limits are the 95 % percentile bootstrap of the
    share over groups. Shares are NaN where nothing was lost, limits also where there is one group
    or more than 2.5 % of the resamples lose nothing.
    """
    spec = spec or CarrySpec()
    masks = np.asarray(masks)
    _check_lengths({"reference": reference, "shifted": shifted, "masks": masks})
    taps = paths_of(net, paths)
    sets = _sets(tuple(taps), spec.sets)
    pairs = _pairs(
        _batches(reference, spec.batch_size, "reference"),
        _batches(shifted, spec.batch_size, "shifted"),
    )
    codes = _codes(groups, len(masks))
    cases = _count(net, pairs, masks, taps, sets)
    counts = np.zeros((codes.max() + 1, *cases.shape[1:]), np.int64)
    np.add.at(counts, codes, cases)
    return _table(counts, sets, spec)


def paths_of(net: nn.Module, paths: Layers | None = None) -> dict[str, str]:
    """Addresses of paths by name; by default the kept skips and the bottleneck of a U-net.

    >>> paths_of(Unet("resnet18", skips=(3, 4)))
    {'L3': 'encoder[3]', 'L4': 'encoder[4]', 'bottleneck': 'encoder[5]'}
    """
    known: dict[str, str] = {}
    if _is_unet(net):
        kept = getattr(net, "skips", LEVELS)
        channels: list[int] = net.encoder.out_channels  # type: ignore[assignment,union-attr]
        known = {f"L{i}": f"encoder[{i}]" for i in LEVELS if i in kept and channels[i]}
        known["bottleneck"] = "encoder[5]"
    if paths is None and known:
        return known
    if not paths:
        raise ValueError(f"paths must name at least one module of a {type(net).__name__}")
    named = paths if isinstance(paths, Mapping) else {name: known.get(name, name) for name in paths}
    try:
        return taps_of(net, named)
    except ValueError as error:
        hint = f", or the paths {', '.join(known)}" if known else ""
        raise ValueError(f"paths: {error}{hint}") from None


def _is_unet(net: nn.Module) -> bool:
    return isinstance(net, Unet) or (isinstance(net, smp.Unet) and len(net.decoder.blocks) == 5)


def _sets(paths: tuple[str, ...], which: str) -> Sets:
    if which == "all" and len(paths) > _MOST_PATHS:
        raise ValueError(f"paths must be at most {_MOST_PATHS} for all sets, got {len(paths)}")
    sizes = range(len(paths) + 1) if which == "all" else sorted({0, 1, len(paths)})
    return [chosen for size in sizes for chosen in itertools.combinations(paths, size)]


def _count(
    net: nn.Module,
    pairs: Iterable[tuple[Tensor, Tensor]],
    masks: npt.NDArray[Any],
    taps: Mapping[str, str],
    sets: Sets,
) -> Counts:
    """Count each case, (N, 1 + sets, C, 3): on the reference, then with each set patched."""
    place = next(net.parameters(), torch.empty(0))
    addresses = [[taps[name] for name in chosen] for chosen in sets]
    mode = net.training
    net.eval()
    counts, done = [], 0
    try:
        with torch.inference_mode():
            for pair in pairs:
                targets = masks[done : done + len(pair[0])]
                done += len(pair[0])
                _check_batch(net, *pair, targets)
                images = [as_input(batch, place) for batch in pair]
                runs = [
                    _count_batch(logits, targets)
                    for logits in _runs(net, images[0], images[1], addresses)
                ]
                counts.append(np.stack(runs, 1))
    finally:
        net.train(mode)
    if done != len(masks) or not counts:
        raise ValueError(f"masks must be one per image, got {len(masks)} for {done} images")
    return np.concatenate(counts)


def _runs(
    net: nn.Module, reference: Tensor, shifted: Tensor, sets: Sequence[Sequence[str]]
) -> Iterator[Any]:
    """Outputs for one batch: of the reference, then of the shifted with each set patched."""
    known, kept = {}, {}
    addresses = sets[-1]
    places = {place: place for place, _ in map(_parse, addresses)}
    for images, outputs in ((reference, known), (shifted, kept)):
        with tapped(net, places, _once(outputs)):
            result = net(images)
        if images is reference:
            yield result
    _check_outputs(addresses, known)
    for chosen in sets:
        if chosen:
            with _patched(net, chosen, known, kept):
                result = net(shifted)
        yield result


def _once(outputs: dict[str, Any]) -> Any:
    """Keep copies of outputs: what comes after may change them in place."""

    def keep(name: str, output: Any) -> Any:
        if name in outputs:
            raise ValueError(f"paths: {name} runs twice in a forward pass; name what runs once")
        outputs[name] = _copy(output)

    return keep


@contextlib.contextmanager
def _patched(
    net: nn.Module, addresses: Iterable[str], known: Mapping[str, Any], kept: Mapping[str, Any]
) -> Iterator[None]:
    """Let the modules at these addresses give the reference's outputs.

    A module that runs twice on the same input is not run: ``kept`` has what it gives.
    """
    entries: dict[str, list[int | None]] = {}
    for address in addresses:
        place, index = _parse(address)
        entries.setdefault(place, []).append(index)

    def forward_for(place: str, forward: Any) -> Any:
        def patched(*inputs: Any, **options: Any) -> Any:
            if None in entries[place]:
                return _copy(known[place])
            # its input is the shifted one only if no other module before it is patched
            alone = len(entries) == 1
            output = list(_copy(kept[place]) if alone else forward(*inputs, **options))
            for index in entries[place]:
                output[index] = _copy(known[place][index])
            return tuple(output) if isinstance(known[place], tuple) else output

        return patched

    with contextlib.ExitStack() as stack:
        for place in entries:
            module = _module(net, place)
            # a hook could change the output, but not save the time of the forward pass
            own = module.__dict__.get("forward")
            stack.callback(_restore, module, own)
            module.__dict__["forward"] = forward_for(place, module.forward)
        yield
