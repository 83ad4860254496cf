"""Logits out of what a network returns: which of several outputs, and what it ends in."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from skipshift.errors import ArgumentError, SkipshiftWarning
from skipshift.names import shown
from skipshift.networks.addresses import unwrap
from skipshift.networks.inference import run
from skipshift.networks.unet import Unet
from skipshift.specs import Activation

_CONVENTIONS = ("out", "logits")
"""Names under which torchvision and transformers return the logits."""

_LAST_HEAD = ("BasicUNetPlusPlus",)
"""MONAI networks that list heads of one size, the deepest and final one last."""

_EDGE = 1e-6
"""Probabilities are kept this far from 0 and 1, so that logits are finite."""

_SLACK = 1e-3
"""How far rounding takes probabilities out of [0, 1], and their sum from 1."""

_STRETCH = -10.0
"""Factor on the images under which logits that lie in [0, 1] by chance leave it."""


@dataclass(frozen=True)
class Output:
    """Where a network's logits are, and how they are made; as a forward hook it returns them."""

    name: str = ""
    """Which output: ``out``, ``1``, or ``aux.0`` where they are nested; the only one if empty."""

    activation: Activation = "none"
    """What the network ends in: none (logits), sigmoid or softmax."""

    classes: int | None = None
    """Number of mask values, background included, where it is known."""

    last: str | None = None
    """Path of the module that is the activation, where it is one: its input are the logits."""

    def __call__(self, _net: nn.Module, inputs: tuple[Tensor, ...], returned: Any) -> Tensor:
        """Return the logits (N, classes, ...) of exclusive classes in place of what was returned.

        Sigmoids are not exclusive: each class is foreground above 0.5, class 0 is where none is,
        and where several are the largest counts. They stand for classes 1, 2, ... if there are
        fewer of them than classes, or a single one; else the first is that of the background, and
        is not used.
        """
        scores, sides = _tensors(returned)[self.name], inputs[0].shape[2:]
        if scores.shape[2:] != sides:
            mode = "bilinear" if len(sides) == 2 else "trilinear"
            scores = functional.interpolate(scores, sides, mode=mode, align_corners=False)
        if self.activation == "none":
            return scores
        exact = scores.float()
        if self.activation == "softmax":
            logits = exact if self.last else exact.clamp(min=_EDGE**2).log()
            return logits.to(scores.dtype)
        number = scores.shape[1]
        own = exact if number == 1 or number == (self.classes or 0) - 1 else exact[:, 1:]
        odds = own if self.last else own.clamp(_EDGE, 1 - _EDGE).logit()
        return torch.cat([torch.zeros_like(odds[:, :1]), odds], 1).to(scores.dtype)


@contextlib.contextmanager
def giving_logits(net: nn.Module, output: Output) -> Iterator[None]:
    """Make a network return its logits (N, classes, ...) as long as the context lasts.

    Copies of the network made meanwhile go on returning logits.
    """
    net = unwrap(net)
    with contextlib.ExitStack() as hooks:
        hooks.callback(net.register_forward_hook(output).remove)
        if output.last is not None:
            last = net.get_submodule(output.last)
            hooks.callback(last.register_forward_hook(_keep_input).remove)
        yield


def is_ours(hook: object) -> bool:
    """Whether a forward hook is one of `giving_logits`, which hands on nothing but the logits."""
    return hook is _keep_input or isinstance(hook, Output)


def _keep_input(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
    return inputs[0]


def find_output(
    net: nn.Module,
    images: Tensor,
    classes: int | None = None,
    name: str | None = None,
    activation: Activation = "auto",
) -> Output:
    """Find which output of a network holds the logits or probabilities of images, and of which.

    Parameters
    ----------
    images
        Input (N, C, H, W), or (N, C, D, H, W), as the network takes it, on its device.
    classes
        Number of mask values, background included, where it is known.
    name
        Name or index of the output. By default ``out`` (torchvision) or ``logits`` (transformers),
        the last head of MONAI's BasicUNetPlusPlus, else the only tensor of the images' size, which
        of deep supervision is the finest; of several the one with a channel per class.
    activation
        What the network ends in. By default sigmoid or softmax if all values lie in [0, 1], for
        these images and stretched ones; the second where the channels add up to 1.

    `ArgumentError` if no output or more than one can be meant, or the activation cannot be right.
    A `SkipshiftWarning` says that probabilities were found.
    """
    net = unwrap(net)
    if getattr(net, "overlapping", False):
        raise ArgumentError(
            "the network predicts overlapping regions (nnU-Net's region-based training), and masks "
            "of one class a pixel cannot judge those; profile it, or train it on classes"
        )
    if isinstance(net, Unet) and name is None and activation in ("auto", "none"):
        return Output(classes=classes)
    with torch.no_grad(), _last_activations(net) as activations:
        found = _tensors(run(net, images.clone()))
        chosen = _named(found, name) if name is not None else _conventional(net, found)
        if chosen is None:
            chosen = _fitting(found, images, classes)
        scores = found[chosen]
        _check_map(scores, images, resized=chosen in ("logits", name))
        last = next((path for path, output in activations.items() if output is scores), None)
        if activation != "auto":
            _check_activation(activation, scores)
        elif _add_up(scores):
            activation = "softmax"
        elif not _are_probabilities(scores):
            activation = "none"
        else:
            again = _tensors(run(net, images * _STRETCH))[chosen]
            activation = "sigmoid" if _are_probabilities(again) else "none"
            if activation == "sigmoid":
                warnings.warn(_told(scores, classes), SkipshiftWarning, stacklevel=2)
    return Output(chosen, activation, classes, None if activation == "none" else last)


@contextlib.contextmanager
def _last_activations(net: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield path -> output of each module that is a sigmoid or softmax and runs once."""
    outputs: dict[str, Any] = {}

    def keep(path: str, output: Any) -> None:
        outputs[path] = None if path in outputs else output

    with contextlib.ExitStack() as hooks:
        for path, module in net.named_modules():
            if type(module) in (nn.Sigmoid, nn.Softmax):
                handle = module.register_forward_hook(
                    lambda _module, _inputs, output, path=path: keep(path, output)
                )
                hooks.callback(handle.remove)
        yield outputs


def warn_if_constant(counts: npt.NDArray[np.int64]) -> None:
    """Warn if every pixel of several classes was predicted to be of one.

    ``counts`` (..., classes, 3) are true and false positives and false negatives.
    """
    tp, fp, fn = counts.reshape(-1, *counts.shape[-2:]).sum(0).T
    predicted = np.flatnonzero(tp + fp)
    if len(predicted) == 1 and np.count_nonzero(tp + fn) > 1:
        warnings.warn(
            f"every pixel was predicted to be of class {predicted[0]}: check preprocess, and the "
            f"output and activation of the network",
            SkipshiftWarning,
            stacklevel=3,
        )


def _tensors(returned: Any, name: str = "") -> dict[str, Tensor]:
    """Name every tensor in dicts, lists, tuples and dataclasses: ``out``, ``1``, ``aux.0``."""
    if isinstance(returned, Tensor):
        return {name: returned}
    if dataclasses.is_dataclass(returned) and not isinstance(returned, Mapping):
        returned = vars(returned)
    if isinstance(returned, list | tuple):
        returned = dict(enumerate(returned))
    items = returned.items() if isinstance(returned, Mapping) else ()
    nested = (_tensors(value, f"{name}.{key}".lstrip(".")) for key, value in items)
    return {key: tensor for part in nested for key, tensor in part.items()}


def _named(found: Mapping[str, Tensor], name: str) -> str:
    """Find an output by name or index, which may count from the end."""
    names = list(found)
    if name in found:
        return name
    if name.removeprefix("-").isdecimal() and -len(names) <= int(name) < len(names):
        return names[int(name)]
    raise ArgumentError(f"output: the network has no output {name!r}; it has {_listed(found)}")


def _conventional(net: nn.Module, found: Mapping[str, Tensor]) -> str | None:
    if any(kind.__name__ in _LAST_HEAD for kind in type(net).__mro__):
        return list(found)[-1]
    return next((name for name in _CONVENTIONS if name in found), None)


def _fitting(found: Mapping[str, Tensor], images: Tensor, classes: int | None) -> str:
    """Choose the output of the images' size, of several the one with as many channels as classes.

    One channel is enough for two classes, and sigmoids may leave out the background.
    """
    size = images.shape[:1] + images.shape[2:]
    maps = {k: v for k, v in found.items() if v.shape[:1] + v.shape[2:] == size}
    if len(found) == 1:
        return next(iter(found))
    if len(maps) > 1 and classes is not None:
        wanted = (classes, max(1, classes - 1))
        maps = {k: v for k, v in maps.items() if v.shape[1] in wanted} or maps
    if len(maps) == 1:
        return next(iter(maps))
    if maps:
        raise ArgumentError(
            f"output must be named: the network returns {_listed(maps)}; give the name or index of "
            f"its logits"
        )
    raise ArgumentError(
        f"the network must give logits (N, classes, {_sides(images)}), got "
        f"{_listed(found) if found else 'no tensor'}"
    )


def _check_map(scores: Tensor, images: Tensor, resized: bool) -> None:
    """Raise `ArgumentError` unless an output is a map of the images' size, or of any if resized."""
    if scores.ndim != images.ndim or not scores.is_floating_point():
        got = tuple(scores.shape) if scores.is_floating_point() else scores.dtype
        raise ArgumentError(
            f"the network must give logits (N, classes, {_sides(images)}), got {got}"
        )
    if scores.shape[2:] != images.shape[2:] and not resized:
        raise ArgumentError(
            f"the network gives maps of {_sides(scores)} for images of {_sides(images)}; its "
            f"output must have the size of the image"
        )


def _are_probabilities(scores: Tensor) -> bool:
    return bool(((scores >= -_SLACK) & (scores <= 1 + _SLACK)).all())


def _add_up(scores: Tensor) -> bool:
    near = (scores.float().sum(1) - 1).abs() <= scores.shape[1] * _SLACK
    return scores.shape[1] > 1 and _are_probabilities(scores) and bool(near.all())


def _check_activation(activation: Activation, scores: Tensor) -> None:
    """Raise `ArgumentError` if the values of an output cannot come of an activation."""
    if activation == "none":
        return
    if not _are_probabilities(scores):
        low, high = float(scores.min()), float(scores.max())
        raise ArgumentError(
            f"activation {activation} gives values in [0, 1], but the network's lie in "
            f"[{low:.3g}, {high:.3g}]; leave it out, or give none for logits"
        )
    if activation == "softmax" and not _add_up(scores):
        raise ArgumentError(
            "activation softmax gives channels that add up to 1, and the network's do not; "
            "give sigmoid"
        )


def _told(scores: Tensor, classes: int | None) -> str:
    number = scores.shape[1]
    background = number > 1 and number != (classes or 0) - 1
    what = "its channel is" if number == 1 else f"its {number} channels are"
    first = ", of which the first is the background's" if background else ""
    return (
        f"the network's output lies in [0, 1]: {what} taken as probabilities{first}, with "
        f"threshold 0.5; give activation none if these are logits"
    )


def _listed(found: Mapping[str, Tensor]) -> str:
    return shown(f"{name} {tuple(tensor.shape)}".strip() for name, tensor in found.items())


def _sides(images: Tensor) -> str:
    return " x ".join(map(str, images.shape[2:]))
