"""Layers of any network: where they are by name, and which of them a profile looks at by default.

An address names a tensor of a forward pass: ``encoder.layer1`` is a module's output,
``encoder[2]`` or ``backbone[out]`` one of several, ``model.1[:16]`` its first 16 channels,
``decoder.blocks.0(skip)`` an argument of the module, ``decoder(skips)[0]`` a part of one, and
``shared@2`` what a module gives when it runs for the second time in one forward pass.
"""

import contextlib
import difflib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import attrgetter, mul
from string import ascii_lowercase
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError

Layers = Sequence[str] | Mapping[str, str]
"""Names of default layers, addresses, or patterns of either, in which ``*`` stands for any part of
one step of a path and ``**`` for any steps; as a mapping, name -> address."""

Kind = Literal["encoder", "bottleneck", "skip", "decoder"]

_LETTERS: Mapping[str, Kind] = {kind[0]: kind for kind in get_args(Kind)}

_Row = tuple[str, int, str, str]
"""Letter of the kind, stride, address; for a skip the address whose map it hands on unchanged."""


@dataclass(frozen=True)
class Tap:
    """One layer of an architecture that is known."""

    name: str
    """Letter of the kind and stride in pixels of the input: ``e4``, ``b32``, ``s4``, ``d4``."""

    address: str
    """Where it is in the network."""

    kind: Kind
    """What it is there for."""

    same_as: str = ""
    """The encoder stage whose map a skip hands on unchanged; empty where something is done to it,
    such as attention, a projection or nested nodes."""


@dataclass(frozen=True)
class Address:
    """An address, taken apart."""

    path: str
    argument: str | None
    call: int | None
    part: str | None

    def pick(self, value: Any) -> Any:
        """Take the part of a module's output or argument that is meant."""
        if self.part is None:
            return value
        if self.part.startswith(":"):
            return value[:, : int(self.part[1:])]
        return value[self.part if isinstance(value, Mapping) else int(self.part)]

    def put(self, value: Any, tensor: Tensor) -> Any:
        """Give the output or argument back with that part replaced; the counterpart of `pick`."""
        if self.part is None:
            return tensor
        if self.part.startswith(":"):
            return torch.cat([tensor, value[:, int(self.part[1:]) :]], 1)
        parts: Any = dict(value) if isinstance(value, Mapping) else list(value)
        parts[self.part if isinstance(value, Mapping) else int(self.part)] = tensor
        return type(value)(parts)


def parse(address: str) -> Address:
    """Take an address apart; `ArgumentError` if it is none.

    >>> parse("decoder(skips)[0]")
    Address(path='decoder', argument='skips', call=None, part='0')
    """
    found = re.fullmatch(r"([^][()@]*)(?:\((\w+)\))?(?:@(\d+))?(?:\[(:\d+|\w+)\])?", address)
    if found is None:
        raise ArgumentError(
            f"layer {address!r} is no address; write it as module, module[1], module(argument) "
            f"or module@2"
        )
    path, argument, call, part = found.groups()
    return Address(path, argument, None if call is None else int(call), part)


def unwrap(net: nn.Module) -> nn.Module:
    """Look through `DataParallel`, `DistributedDataParallel` and ``torch.compile``."""
    while True:
        if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        elif isinstance(inner := getattr(net, "_orig_mod", None), nn.Module):
            net = inner
        else:
            return net


def module_of(net: nn.Module, address: str) -> nn.Module:
    """Find the module of an address; `ArgumentError` names the nearest ones if there is none."""
    place = parse(address)
    try:
        module = net.get_submodule(place.path)
    except AttributeError:
        raise ArgumentError(_unknown(net, address)) from None
    if place.argument is not None:
        arguments = list(inspect.signature(module.forward).parameters)
        if place.argument not in arguments:
            raise ArgumentError(
                f"layer {address}: {type(module).__name__} has no argument {place.argument!r}, "
                f"only {', '.join(arguments)}"
            )
    return module


def taps_of(
    net: nn.Module, layers: Layers | None = None, example: Tensor | None = None
) -> dict[str, str]:
    """Addresses of the layers by name, in depth order.

    With no ``layers``, those of `known_taps` but for skips that hand on an encoder stage's map
    unchanged, which would be the same row twice; of an unknown architecture the last module at
    each spatial size, found in one forward pass of ``example`` (1, C, ...). Modules that match a
    pattern come in the order in which the network holds them.
    `ArgumentError` if a layer is not there, or if there is nothing to choose layers by.
    """
    net, wrapped = unwrap(net), net
    if layers is not None and wrapped is not net:
        layers = _without_wrapper(layers)
    if isinstance(layers, Mapping):
        taps = dict(layers)
        for address in taps.values():
            module_of(net, address)
    elif layers is not None:
        known = {tap.name: tap.address for tap in known_taps(net)}
        taps = {}
        for layer in layers:
            taps |= _matching(net, known, layer)
    else:
        taps = {tap.name: tap.address for tap in known_taps(net) if not tap.same_as}
        if not taps and example is not None:
            taps = _by_size(net, example)
        if not taps:
            some = ", ".join(name for name, _ in list(net.named_modules())[1:6])
            raise ArgumentError(
                f"layers must be named for a {type(net).__name__}; its modules begin with {some}"
            )
    if not taps:
        raise ArgumentError("layers must name at least one module")
    return taps


def known_taps(net: nn.Module) -> tuple[Tap, ...]:
    """Every layer of an architecture that is known by its structure, skips too, in depth order.

    The architecture may sit inside other modules. Empty for an unknown one, or if there are two.
    A skip stands before the decoder block that it enters. Two layers of one kind and stride are
    told apart by a letter: ``e16``, ``e16b``.
    """
    net = unwrap(net)
    found: list[tuple[str, list[_Row]]] = []
    for path, module in net.named_modules():
        if any(path.startswith(f"{outer}." if outer else "") for outer, _ in found):
            continue
        rows = next((rows for has, rows in _ARCHITECTURES if _has(module, has)), None)
        if rows is not None:
            found.append((path, rows(module)))
    if len(found) != 1:
        return ()
    path, rows_found = found[0]
    return _named(rows_found, f"{path}." if path else "")


def _named(rows: Iterable[_Row], prefix: str) -> tuple[Tap, ...]:
    rows = list(rows)
    letters = [letter for letter, *_ in rows]
    names: dict[str, str] = {}
    taps = []
    for i, (letter, stride, address, source) in enumerate(rows):
        again = [row[:2] for row in rows[:i]].count((letter, stride))
        names[address] = f"{letter}{stride}" + (ascii_lowercase[again] if again else "")
        deepest = letter == "e" and "b" not in letters and "e" not in letters[i + 1 :]
        kind = "bottleneck" if deepest else _LETTERS[letter]
        same_as = names[source] if source else ""
        taps.append(Tap(names[address], prefix + address, kind, same_as))
    return tuple(taps)


def _matching(net: nn.Module, known: Mapping[str, str], layer: str) -> dict[str, str]:
    """Layers by the name, address or pattern of one entry; names of default layers come first."""
    if layer in known:
        return {layer: known[layer]}
    if "*" not in layer:
        module_of(net, layer)
        return {layer: layer}
    parts = [re.escape(part).replace(r"\*", "[^.]*") for part in layer.split("**")]
    pattern = re.compile(".*".join(parts))
    containers = (nn.ModuleList, nn.ModuleDict)  # never run themselves
    modules = {n: n for n, m in net.named_modules() if n and not isinstance(m, containers)}
    for names in (known, modules):
        if found := {n: address for n, address in names.items() if pattern.fullmatch(n)}:
            return found
    raise ArgumentError(_unknown(net, layer))


def _without_wrapper(layers: Layers) -> Layers:
    if isinstance(layers, Mapping):
        return dict(zip(layers, _without_wrapper(list(layers.values())), strict=True))
    return [re.sub(r"^(module\.|_orig_mod\.)+", "", address) for address in layers]


def _unknown(net: nn.Module, layer: str) -> str:
    path = layer.split("[")[0].split("(")[0].split("@")[0]
    names = [tap.name for tap in known_taps(net)] + [name for name, _ in net.named_modules()][1:]
    near = [n for n in names if path and n.split(".")[-1] == path.split(".")[-1]]
    near = near or difflib.get_close_matches(path, names, n=4, cutoff=0.4) or names
    return f"layer {layer!r} is not in the network; the nearest are {', '.join(near[:4])}"


def _by_size(net: nn.Module, example: Tensor) -> dict[str, str]:
    """Last module at each change of the maps' size, in the order in which they run.

    Maps of one position are left out: they are gates and pooled vectors.
    """
    sizes: list[tuple[str, torch.Size]] = []
    calls: Counter[str] = Counter()

    def hook_for(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            calls[name] += 1
            if isinstance(output, Tensor) and output.ndim == example.ndim:
                sizes.append((f"{name}@{calls[name]}", output.shape[2:]))

        return hook

    with contextlib.ExitStack() as hooks, torch.inference_mode():
        for name, module in net.named_modules():
            if name:
                hooks.callback(module.register_forward_hook(hook_for(name)).remove)
        net(example)
    maps = [(address, size) for address, size in sizes if size.numel() > 1]
    ends = [size != after for (_, size), (_, after) in pairwise([*maps, ("", None)])]
    last = [address for (address, _), end in zip(maps, ends, strict=True) if end]
    plain = [a.removesuffix("@1") if calls[a.rpartition("@")[0]] == 1 else a for a in last]
    return {address: address for address in plain}


def _has(module: nn.Module, paths: str) -> bool:
    try:
        attrgetter(*paths.split())(module)
    except AttributeError:
        return False
    return True


def _skip(block: nn.Module) -> str:
    """Name of the argument by which a decoder block takes its skip: the last."""
    return list(inspect.signature(block.forward).parameters)[-1]


def _widest(strides: Iterable[int | Sequence[int]]) -> list[int]:
    """Stride of each stage against the input; the largest over axes where they differ."""
    steps = [max(step) if isinstance(step, Sequence) else step for step in strides]
    return list(accumulate(steps, mul))


def _smp_stages(net: Any) -> list[_Row]:
    # an encoder without a feature at some stride has zero channels there
    widths, deepest = net.encoder.out_channels, net.encoder.output_stride
    return [("e", min(2**i, deepest), f"encoder[{i}]", "") for i, w in enumerate(widths) if i and w]


def _smp_unet(net: Any) -> list[_Row]:
    """Unet, MAnet and Linknet of segmentation_models_pytorch, and our own U-net."""
    rows, widths = _smp_stages(net), net.encoder.out_channels
    blocks = list(net.decoder.blocks)
    if not isinstance(getattr(net.decoder, "center", nn.Identity()), nn.Identity):
        rows.append(("b", 2 ** len(blocks), "decoder.center", ""))
    kept = getattr(net, "skips", range(1, len(blocks)))
    for i, block in enumerate(blocks):
        level = len(blocks) - 1 - i
        stride, address = 2**level, f"decoder.blocks.{i}"
        if level in kept and widths[level]:
            rows.append(("s", stride, f"{address}({_skip(block)})", f"encoder[{level}]"))
        rows.append(("d", stride, address, ""))
    return rows


def _smp_unet_plus_plus(net: Any) -> list[_Row]:
    rows, depth = _smp_stages(net), net.decoder.depth
    for i in range(depth + 1):
        stride, address = 2 ** (depth - i), f"decoder.blocks.x_0_{i}"
        if i < depth:
            # beyond the first node a skip holds the nodes between as well
            source = "" if i else f"encoder[{depth}]"
            rows.append(("s", stride, f"{address}(skip)", source))
        rows.append(("d", stride, address, ""))
    return rows


def _smp_fpn(net: Any) -> list[_Row]:
    rows = _smp_stages(net)
    strides = [stride for _, stride, _, _ in rows]
    rows.append(("d", strides[-1], "decoder.p5", ""))
    for level, stride in zip((4, 3, 2), strides[-2::-1], strict=False):
        rows.append(("s", stride, f"decoder.p{level}.skip_conv", ""))
        rows.append(("d", stride, f"decoder.p{level}", ""))
    return [*rows, ("d", strides[-4], "decoder.merge", "")]


def _smp_deeplab_plus(net: Any) -> list[_Row]:
    skip: list[_Row] = [("s", 4, "decoder.block1", ""), ("d", 4, "decoder.block2", "")]
    return [*_smp_stages(net), ("b", net.encoder.output_stride, "decoder.aspp", ""), *skip]


def _monai_unet(net: Any) -> list[_Row]:
    strides = _widest(net.strides)
    down: list[_Row] = []
    up: list[_Row] = []
    path = "model"
    for stride, above, width in zip(strides, [1, *strides], net.channels, strict=False):
        down.append(("e", stride, f"{path}.0", ""))
        # a SkipConnection puts its input before what comes from below
        skip = ("s", stride, f"{path}.1[:{width}]", f"{path}.0")
        up = [skip, ("d", above, f"{path}.2", ""), *up]
        path += ".1.submodule"
    return [*down, ("b", strides[-1], path, ""), *up]


def _monai_attention_unet(net: Any) -> list[_Row]:
    strides = _widest(net.strides)
    down: list[_Row] = [("e", 1, "model.0", "")]
    up: list[_Row] = []
    path = "model.1"
    for i, (stride, above) in enumerate(zip(strides, [1, *strides], strict=False), 1):
        up = [("s", above, f"{path}.attention", ""), ("d", above, path, ""), *up]
        path += ".submodule" if i == len(strides) else ".submodule.0"
        down.append(("e", stride, path, ""))
        path = path.removesuffix("0") + "1"
    return down + up


def _monai_basic_unet(net: Any) -> list[_Row]:  # noqa: ARG001
    rows: list[_Row] = [("e", 1, "conv_0", "")]
    rows += [("e", 2**i, f"down_{i}", "") for i in range(1, 5)]
    for i in range(4, 0, -1):
        rows.append(("s", 2 ** (i - 1), f"upcat_{i}(x_e)", rows[i - 1][2]))
        rows.append(("d", 2 ** (i - 1), f"upcat_{i}", ""))
    return rows


def _monai_unet_plus_plus(net: Any) -> list[_Row]:  # noqa: ARG001
    rows: list[_Row] = [("e", 2**i, f"conv_{i}_0", "") for i in range(5)]
    for i in range(3, -1, -1):
        address = f"upcat_{i}_{4 - i}"
        rows.append(("s", 2**i, f"{address}(x_e)", "" if i < 3 else "conv_3_0"))
        rows.append(("d", 2**i, address, ""))
    return rows


def _monai_dynunet(net: Any) -> list[_Row]:
    strides, downs = _widest(net.strides), len(net.downsamples)
    places = ["input_block", *(f"downsamples.{i}" for i in range(downs)), "bottleneck"]
    rows: list[_Row] = [("e", *row, "") for row in zip(strides, places, strict=True)]
    for i, stride in enumerate(strides[-2::-1]):
        rows.append(("s", stride, f"upsamples.{i}(skip)", places[-2 - i]))
        rows.append(("d", stride, f"upsamples.{i}", ""))
    return rows


def _monai_flexible_unet(net: Any) -> list[_Row]:
    blocks = len(net.decoder.blocks)
    rows: list[_Row] = [("e", 2 ** (i + 1), f"encoder[{i}]", "") for i in range(blocks)]
    for i in range(blocks):
        stride = 2 ** (blocks - 1 - i)
        if i < net.skip_connect:
            source = f"encoder[{blocks - 2 - i}]"
            rows.append(("s", stride, f"decoder.blocks.{i}(x_e)", source))
        rows.append(("d", stride, f"decoder.blocks.{i}", ""))
    return rows


def _monai_swin_unetr(net: Any) -> list[_Row]:
    strides = [net.patch_size * 2**i for i in range(5)]
    rows: list[_Row] = [("e", stride, f"swinViT[{i}]", "") for i, stride in enumerate(strides)]
    rows.append(("b", strides[4], "encoder10", ""))
    rows.append(("s", strides[3], "decoder5(skip)", "swinViT[3]"))
    rows.append(("d", strides[3], "decoder5", ""))
    for i, stride in zip((4, 3, 2, 1), (*strides[2::-1], 1), strict=True):
        rows += [("s", stride, f"encoder{i}", ""), ("d", stride, f"decoder{i}", "")]
    return rows


def _nnunet(net: Any) -> list[_Row]:
    strides = _widest(net.encoder.strides)
    rows: list[_Row] = [("e", s, f"encoder.stages.{i}", "") for i, s in enumerate(strides)]
    for i, stride in enumerate(strides[-2::-1]):
        stage = len(strides) - 2 - i
        rows.append(("s", stride, f"decoder(skips)[{stage}]", f"encoder.stages.{stage}"))
        rows.append(("d", stride, f"decoder.stages.{i}", ""))
    return rows


def _torchvision(net: Any) -> list[_Row]:
    """FCN and DeepLabV3 on a ResNet; the last convolution of the head only makes logits of it."""
    steps = [2, 2, *(net.backbone[f"layer{i}"][0].stride for i in (2, 3, 4))]
    places = ["relu", "layer1", "layer2", "layer3", "layer4"]
    rows: list[_Row] = [
        ("e", stride, f"backbone.{place}", "")
        for stride, place in zip(_widest(steps), places, strict=True)
    ]
    deepest = rows[-1][1]
    if hasattr(net.classifier[0], "project"):
        rows.append(("b", deepest, "classifier.0", ""))
    return [*rows, ("d", deepest, f"classifier.{len(net.classifier) - 2}", "")]


_ARCHITECTURES: tuple[tuple[str, Callable[[Any], list[_Row]]], ...] = (
    ("encoder skip_connect decoder.blocks.0.convs", _monai_flexible_unet),
    ("encoder.out_channels decoder.blocks.x_0_0", _smp_unet_plus_plus),
    ("encoder.out_channels decoder.p5 decoder.merge", _smp_fpn),
    ("encoder.out_channels decoder.aspp decoder.block2", _smp_deeplab_plus),
    ("encoder.out_channels decoder.blocks.0", _smp_unet),
    ("strides model.1.attention model.1.submodule", _monai_attention_unet),
    ("strides channels model.1.submodule model.2", _monai_unet),
    ("conv_0_0 conv_4_0 upcat_0_4", _monai_unet_plus_plus),
    ("conv_0 down_4 upcat_1", _monai_basic_unet),
    ("strides input_block downsamples bottleneck upsamples", _monai_dynunet),
    ("patch_size swinViT encoder10 decoder5", _monai_swin_unetr),
    ("encoder.stages encoder.strides decoder.transpconvs decoder.stages", _nnunet),
    ("backbone.layer4 classifier.0", _torchvision),
)
"""Attributes by which an architecture is known -> its layers in depth order; the first that fits.

Attributes rather than classes, so that none of the libraries is imported and copies are known too.
"""
