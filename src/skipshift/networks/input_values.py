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
    if (found := preprocess_on_file(source)) is not None:
        return found
    for module in net.modules():
        known = getattr(module, "pretrained_cfg", None)
        if isinstance(known, Mapping) and {"mean", "std"} <= set(known):
            where = f"timm's pretrained_cfg of {known.get('architecture', 'the encoder')}"
            return _named(known), where
    raise _unsaid(source)


def preprocess_on_file(source: Path) -> tuple[str, str] | None:
    """Name the preprocessing that the files of a checkpoint tell, and where it comes from.

    None if only the network can tell; `ArgumentError` if they tell that it must be named.
    """
    if (source / RUN_RECORD).exists():
        return "unit", "skipshift's training"
    if (source / MENDED).exists() and "preprocess" in (about := read_json(source / MENDED)):
        return str(about["preprocess"]), MENDED
    found = trained_with(source)
    if found is not None and found[0] is None:
        raise _unsaid(source, f"was trained with {found[1]}, which has no name here")
    if found is not None:
        return str(found[0]), f"the checkpoint ({found[1]})"
    config = read_json(source / "config.json") if (source / "config.json").exists() else {}
    if "encoder_name" not in config:
        return None
    if config.get("encoder_weights") is None:
        raise _unsaid(source)
    encoder = str(config["encoder_name"])
    if config["encoder_weights"] == "imagenet" and encoder.startswith(_TORCHVISION):
        return "imagenet", f"the ImageNet weights of {encoder}"
    return None


def _unsaid(
    source: Path, says: str = "does not say how its images were preprocessed"
) -> ArgumentError:
    return ArgumentError(
        f"preprocess must be named, since {source} {says}: give preprocess unit (x / 255), "
        f"imagenet, minmax, zscore, none or module:function"
    )


def _named(statistics: Mapping[str, Any]) -> str:
    mean, std = (tuple(map(float, statistics[name])) for name in ("mean", "std"))
    if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD):
        return "imagenet"
    return f"standardise(mean={mean}, std={std})"
