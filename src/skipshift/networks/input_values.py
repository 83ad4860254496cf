"""The preprocessing that a checkpoint brings: its own, or that of its pretrained encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from skipshift.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from skipshift.errors import ArgumentError
from skipshift.networks.checkpoints import trained_with
from skipshift.networks.mended import MENDED
from skipshift.records import RUN_RECORD, read_json

AUTO = "auto"

_TORCHVISION = ("resnet", "densenet", "vgg", "mobilenet_v2", "mit_b")
"""Encoders of smp whose ImageNet weights were made with torchvision's mean and std."""


def settle_preprocess(source: Path, net: nn.Module, given: str = AUTO) -> tuple[str, str]:
    """Name the preprocessing of a network, and where it comes from.

    ``auto`` takes what a run folder, a mended or exported network, nnU-Net's plans, a MONAI bundle,
    the ImageNet weights of smp's encoders or timm's ``pretrained_cfg`` say. `ArgumentError` asks
    for it where nothing does.
    """
    if given != AUTO:
        return given, "--preprocess"
    if (source / RUN_RECORD).exists():
        return "unit", "skipshift's training"
    if (source / MENDED).exists() and "preprocess" in (about := read_json(source / MENDED)):
        return str(about["preprocess"]), MENDED
    found = trained_with(source)
    if found is not None and found[0] is not None:
        return found[0], f"the checkpoint ({found[1]})"
    for where, statistics in _pretrained(source, net):
        return _named(statistics), where
    says = "does not say how its images were preprocessed"
    if found is not None:
        says = f"was trained with {found[1]}, which has no name here"
    raise ArgumentError(
        f"preprocess must be named, since {source} {says}: give preprocess unit (x / 255), "
        f"imagenet, minmax, zscore, none or module:function"
    )


def _pretrained(source: Path, net: nn.Module) -> "list[tuple[str, Mapping[str, Any]]]":
    """Mean and standard deviation of the weights that a network's encoder started from."""
    config = read_json(source / "config.json") if (source / "config.json").exists() else {}
    encoder = str(config.get("encoder_name", ""))
    started = config.get("encoder_weights")
    if "encoder_name" in config and started is None:
        return []
    if started == "imagenet" and encoder.startswith(_TORCHVISION):
        return [
            (f"the ImageNet weights of {encoder}", {"mean": IMAGENET_MEAN, "std": IMAGENET_STD})
        ]
    settings = [getattr(module, "pretrained_cfg", None) for module in net.modules()]
    return [
        (f"timm's pretrained_cfg of {one.get('architecture', 'the encoder')}", one)
        for one in settings
        if isinstance(one, Mapping) and {"mean", "std"} <= set(one)
    ]


def _named(statistics: Mapping[str, Any]) -> str:
    mean, std = (tuple(map(float, statistics[name])) for name in ("mean", "std"))
    if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD):
        return "imagenet"
    return f"standardise(mean={mean}, std={std})"
