"""Layers of known architectures: U-nets of segmentation_models_pytorch, MONAI, nnU-Net and others.

An architecture is recognised by its attributes rather than its class, so that none of these
libraries is imported and copies and subclasses are recognised too.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter, mul
from string import ascii_lowercase
from typing import Any, Literal, get_args

from torch import nn

from skipshift.networks.addresses import unwrap

Kind = Literal["encoder", "bottleneck", "skip", "decoder"]

_LETTERS: Mapping[str, Kind] = {kind[0]: kind for kind in get_args(Kind)}

_Row = tuple[str, int, str, str]
"""First letter of the kind, stride, address, and for an unchanged skip its source's address."""


@dataclass(frozen=True)
class KnownLayer:
    """One layer of a known architecture: a point at which a forward hook can be placed."""

    name: str
    """First letter of the kind and stride in input pixels: ``e4``, ``b32``, ``s4``, ``d4``."""

    address: str
    """Address of its tensor in the network."""

    kind: Kind
    """Role of the layer in the network."""

    same_as: str = ""
    """The encoder stage whose feature map a skip passes on unchanged; empty where the skip changes
    it, by attention, a projection or nested nodes."""


def known_layers(net: nn.Module) -> tuple[KnownLayer, ...]:
    """List every layer of a known architecture, including skips, in depth order.

    The architecture may be nested in other modules. Empty if there is none, or more than one.
    A skip precedes the decoder block that it enters. A second layer of the same kind and stride
    gets a letter: ``e16``, ``e16b``.
    """
    net = unwrap(net)
    matches: list[tuple[str, list[_Row]]] = []
    for path, module in net.named_modules():
        if any(path.startswith(f"{outer}." if outer else "") for outer, _ in matches):
            continue
        rows_of = next((rows_of for paths, rows_of in _ARCHITECTURES if _has(module, paths)), None)
        if rows_of is not None:
            matches.append((path, rows_of(module)))
    if len(matches) != 1:
        return ()
    path, rows = matches[0]
    return _named(rows, f"{path}." if path else "")


def _named(rows: Sequence[_Row], prefix: str) -> tuple[KnownLayer, ...]:
    letters = [letter for letter, *_ in rows]
    names: dict[str, str] = {}
    layers = []
    for i, (letter, stride, address, source) in enumerate(rows):
        again = [row[:2] for row in rows[:i]].count((letter, stride))
        names[address] = f"{letter}{stride}" + (ascii_lowercase[again] if again else "")
        deepest = letter == "e" and "b" not in letters and "e" not in letters[i + 1 :]
        kind = "bottleneck" if deepest else _LETTERS[letter]
        same_as = names[source] if source else ""
        layers.append(KnownLayer(names[address], prefix + address, kind, same_as))
    return tuple(layers)


def _has(module: nn.Module, paths: str) -> bool:
    try:
        attrgetter(*paths.split())(module)
    except AttributeError:
        return False
    return True


def _skip(block: nn.Module) -> str:
    """Name of the argument in which a decoder block takes its skip: the last one."""
    return list(inspect.signature(block.forward).parameters)[-1]


def _cumulative(strides: Iterable[int | Sequence[int]]) -> list[int]:
    """Cumulative stride of each stage; the largest over the axes where they differ."""
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
            # beyond the first node a skip contains the intermediate nodes as well
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
    strides = _cumulative(net.strides)
    down: list[_Row] = []
    up: list[_Row] = []
    path = "model"
    for stride, above, width in zip(strides, [1, *strides], net.channels, strict=False):
        down.append(("e", stride, f"{path}.0", ""))
        # a SkipConnection concatenates its input before the output of its submodule
        skip = ("s", stride, f"{path}.1[:{width}]", f"{path}.0")
        up = [skip, ("d", above, f"{path}.2", ""), *up]
        path += ".1.submodule"
    return [*down, ("b", strides[-1], path, ""), *up]


def _monai_attention_unet(net: Any) -> list[_Row]:
    strides = _cumulative(net.strides)
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
    strides, downs = _cumulative(net.strides), len(net.downsamples)
    stages = ["input_block", *(f"downsamples.{i}" for i in range(downs)), "bottleneck"]
    rows: list[_Row] = [("e", *row, "") for row in zip(strides, stages, strict=True)]
    for i, stride in enumerate(strides[-2::-1]):
        rows.append(("s", stride, f"upsamples.{i}(skip)", stages[-2 - i]))
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
    strides = _cumulative(net.encoder.strides)
    rows: list[_Row] = [("e", s, f"encoder.stages.{i}", "") for i, s in enumerate(strides)]
    for i, stride in enumerate(strides[-2::-1]):
        stage = len(strides) - 2 - i
        rows.append(("s", stride, f"decoder(skips)[{stage}]", f"encoder.stages.{stage}"))
        rows.append(("d", stride, f"decoder.stages.{i}", ""))
    return rows


def _torchvision(net: Any) -> list[_Row]:
    """FCN and DeepLabV3 on a ResNet, without the last convolution, which gives the logits."""
    steps = [2, 2, *(net.backbone[f"layer{i}"][0].stride for i in (2, 3, 4))]
    stages = ["relu", "layer1", "layer2", "layer3", "layer4"]
    rows: list[_Row] = [
        ("e", stride, f"backbone.{stage}", "")
        for stride, stage in zip(_cumulative(steps), stages, strict=True)
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
"""Attributes that identify an architecture -> its layers in depth order; the first match counts."""
