"""Trial of a network's paths on a few images: what is read, what is left out, which way is quick.

The plain way is one forward pass of the network as it is for each row of the table. A quicker way
is taken only if it gives the logits of the plain way with each path patched.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.names import listed
from skipshift.networks.crossing import left_out
from skipshift.networks.features import as_input, input_like
from skipshift.networks.hooks import captured
from skipshift.networks.inference import ROUGH, fast_copy, run, same_logits, unlike, use_bf16
from skipshift.networks.layers import module_of
from skipshift.patching.labelled import Labelled
from skipshift.patching.patcher import Maps, Patcher, copied
from skipshift.patching.paths import all_paths, blocks_behind
from skipshift.specs import CarrySpec
from skipshift.statistics.recovery import ALL, NONE

EXAMPLES = 1
"""Images of the first batch on which a trial is made."""

_LOG = logging.getLogger("skipshift")


@dataclass(frozen=True)
class _Trial:
    """Logits of the network itself for a batch, in rows that are fed tensors of other images."""

    images: Tensor
    others: Tensor
    features: Maps
    """Of the others, at each path."""
    fed: Mapping[str, Maps]
    """Row -> path -> tensor: noise in one path at a time, and the features in all together."""
    logits: Mapping[str, Tensor]
    """Row -> logits; `NONE` is the batch itself."""


def ready(net: nn.Module, paths: Mapping[str, str], data: Labelled, spec: CarrySpec) -> Patcher:
    """Return the quickest way to patch a network that gives what the network itself gives.

    The network is in evaluation mode. Paths that nothing reads are left out. `ArgumentError` names
    a path that did not run or gives no map, or says that no path is read, or, in modes paired and
    quantile, that all of them together do not give the reference's logits.
    """
    images, _, _ = next(data.batches(spec.batch_size))
    example = as_input(images[:EXAMPLES], input_like(net))
    others = unlike(example)
    plain = Patcher(net, paths, {}, spec, 2)
    features, logits = plain.features(others, paths)
    plain = replace(
        plain, classes=max(2, logits.shape[1]), behind=_maps_behind(net, paths, example)
    )
    fed = {**{path: {path: _noisy(value)} for path, value in features.items()}, ALL: features}
    responses = dict(_responses(plain, example, fed))
    unread = [path for path in paths if torch.equal(responses[path], responses[NONE])]
    plain = plain.without(unread)
    trial = _Trial(example, others, features, fed, responses)
    if spec.mode in ("paired", "quantile"):
        _check_whole(plain, trial)
    return _quickest(plain, trial)


def _noisy(value: Tensor) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(value.shape, generator=rng).to(value)
    return value + (10 * value.float().std().nan_to_num() + 1).to(value) * noise


def _responses(
    patcher: Patcher, images: Tensor, fed: Mapping[str, Maps]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the logits of each row of a path that is read, and those unpatched before and after."""
    with patcher.forward(images) as forward:
        yield NONE, forward()
        for row, maps in fed.items():
            paths = {path: patcher.paths[path] for path in maps if path in patcher.paths}
            if paths:
                yield row, patcher.fed(forward, paths, maps)
        yield NONE, forward()


def _maps_behind(net: nn.Module, paths: Mapping[str, str], example: Tensor) -> dict[str, str]:
    """Addresses of blocks behind paths, those that give one map in a forward pass."""
    blocks, found = blocks_behind(net, paths), dict[str, str]()
    # all in one pass, and one by one where a block is none
    for tried in [blocks, *({path: address} for path, address in blocks.items())]:
        with (
            contextlib.suppress(ArgumentError),
            captured(net, tried, copied) as maps,
        ):
            run(net, example.clone())
            if len(maps) == len(blocks):
                return blocks
            found |= {path: blocks[path] for path in maps}
    return found


def _check_whole(plain: Patcher, trial: _Trial) -> None:
    """Check that all paths together make the logits of the images those of the others."""
    paths = all_paths(plain.net, plain.paths)
    features, expected = plain.features(trial.others, paths)
    with plain.forward(trial.images) as forward:
        forward()
        given = plain.fed(forward, paths, features)
    if not _close(given, expected):
        missed = left_out(plain.net, trial.images[:1], paths.values())
        more = listed(missed[:4]) if missed else "more than these tensors"
        raise ArgumentError(
            f"patching all of {listed(list(paths))} does not give the reference's logits: the "
            f"network also reads {more}; give paths as name -> address of each tensor that its "
            f"decoder reads"
        )


def _quickest(plain: Patcher, trial: _Trial) -> Patcher:
    """Return the first of the quicker ways that gives the logits of the plain one, or that one."""
    cached = replace(plain, cache=True)
    if use_bf16(plain.spec.precision, trial.images.device.type):
        addresses = (*plain.paths.values(), *plain.behind.values())
        taps = {module_of(plain.net, address) for address in addresses}
        rough = fast_copy(plain.net, trial.images.float(), "bf16", taps)
        if input_like(rough).dtype == torch.bfloat16:
            for patcher in (replace(cached, net=rough), replace(plain, net=rough)):
                if _agrees(patcher, trial):
                    return patcher
        _LOG.warning("bf16 changes the logits of this network, so it runs in its own precision")
    if _agrees(cached, trial):
        return cached
    _LOG.warning(
        "this network hands tensors on unseen, so nothing is remembered: each row of the table "
        "takes a whole forward pass"
    )
    return plain


def _agrees(patcher: Patcher, trial: _Trial) -> bool:
    """Whether a quicker way gives the logits of the plain one, and the features that it feeds."""
    dtype = input_like(patcher.net).dtype
    same = _close if dtype == trial.images.dtype else same_logits
    try:
        if same is same_logits:
            features, _ = patcher.features(trial.others.to(dtype), patcher.paths)
            if not all(_near(features[path], trial.features[path]) for path in features):
                return False
        rows = _responses(patcher, trial.images.to(dtype), trial.fed)
        return all(same(logits, trial.logits[row]) for row, logits in rows)
    except (ArgumentError, RuntimeError):
        return False


def _near(found: Tensor, expected: Tensor) -> bool:
    """Whether bf16 features are those of fp32, but for `ROUGH` of their spread."""
    error = (found.float() - expected.float()).square().mean().sqrt()
    return bool((error <= ROUGH * expected.float().std(correction=0) + 1e-6).item())


def _close(given: Tensor, expected: Tensor) -> bool:
    """Whether logits are equal but for rounding."""
    if torch.equal(given, expected):
        return True
    slack = 8 * torch.finfo(expected.dtype).eps * float(expected.abs().max())
    return bool(((given - expected).abs().max() <= slack).item())
