"""Loading of checkpoints: skipshift, smp, nnU-Net, MONAI, torch.export, TorchScript, weights."""

import inspect
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError, SkipshiftError, SkipshiftWarning
from skipshift.extras import load_extra
from skipshift.names import import_function, shown
from skipshift.networks.archives import read_exported
from skipshift.networks.mended import is_mended, load_mended
from skipshift.networks.unet import Unet
from skipshift.networks.weights import (
    file_kind,
    load_pickle,
    load_weights,
    read_weights,
    without_prefix,
)
from skipshift.records import RUN_RECORD, read_json

BUNDLE = "configs/inference.json"
"""File of a MONAI bundle that names its network."""

_BUNDLE_PACKAGES = ("monai.networks.", "torch.nn.")
"""A bundle is untrusted input: it may name networks and layers, and nothing else."""


def load_net(
    source: Path | str, builder: str | None = None, preprocess: str | None = "unit"
) -> nn.Module:
    """Load a network from a checkpoint, in evaluation mode on the CPU.

    Parameters
    ----------
    source
        A run folder of skipshift; a mended network; a folder written by ``save_pretrained`` of
        segmentation_models_pytorch; a fold of an nnU-Net v2 results folder, or the results folder
        if it has one fold; a MONAI bundle; an archive of ``torch.export`` or TorchScript; or, with
        a ``builder``, a file of weights. A file is told by its content. Pickles are loaded with
        ``weights_only=True``, and nothing that a checkpoint brings is run, but TorchScript's own
        operators.
    builder
        ``module:function`` or ``file.py:function`` that returns the network, with arguments in
        brackets if it needs any: ``nets:unet(classes=3)``.
    preprocess
        The preprocessing that images will get; ``unit`` is x / 255. A `SkipshiftWarning` says if
        the checkpoint names another one, unless this is None.

    `SkipshiftError` if the file cannot be loaded; names the file and its first wrong keys or
    shapes. `ArgumentError` if the builder lacks arguments or does not return a network.
    """
    source = Path(source)
    if is_mended(source):
        return load_mended(source, lambda base: _load(base, builder, preprocess))
    return _load(source, builder, preprocess)


def _load(source: Path, builder: str | None, preprocess: str | None) -> nn.Module:
    net: nn.Module
    if builder is not None:
        net = _built(builder)
        load_weights(net, read_weights(source, net), str(source))
        return net.eval()
    if not source.exists():
        raise SkipshiftError(f"{source}: does not exist")
    net = _file(source) if source.is_file() else _folder(source)
    found = trained_with(source)
    if preprocess is not None and found is not None and found[0] != preprocess:
        way = f"give preprocess {found[0]}" if found[0] else "give a preprocess function for it"
        warnings.warn(
            f"{source}: was trained with {found[1]}; {way}", SkipshiftWarning, stacklevel=2
        )
    return net.eval()


def _file(path: Path) -> nn.Module:
    kind = file_kind(path)
    if kind == "export":
        return read_exported(path)
    if kind == "torchscript":
        return _torchscript(path)
    if kind == "torch":
        load_pickle(path)  # says what is in it, if that is no weights
    if (path.parent.parent / "plans.json").exists():
        raise SkipshiftError(f"{path}: is a checkpoint of nnU-Net; give its folder, {path.parent}")
    raise SkipshiftError(
        f"{path}: contains only weights; name the function that builds the network as well, "
        f"--builder module:function"
    )


def _folder(folder: Path) -> nn.Module:
    if (folder / RUN_RECORD).exists():
        return Unet.load(folder)
    if (folder / BUNDLE).exists():
        return _bundle(folder)
    if any((each / "plans.json").exists() for each in (folder, folder.parent)):
        return _nnunet(folder)
    if (folder / "config.json").exists():
        exported = (folder / "model.pt2").exists()
        return _exported_folder(folder) if exported else _smp(folder)
    if (folder / "saved_model.pb").exists():
        raise SkipshiftError(
            f"{folder}: is a SavedModel of TensorFlow; only networks of torch can be loaded"
        )
    if folds := sorted([*folder.glob("*/fold_*"), *folder.glob("*/*/fold_*")]):
        raise SkipshiftError(
            f"{folder}: holds trainings of nnU-Net; give the folder of a fold, such as {folds[0]}"
        )
    raise SkipshiftError(
        f"{folder}: is not a run folder (no {RUN_RECORD}), nor an smp or nnU-Net folder or a MONAI "
        f"bundle"
    )


def _built(builder: str) -> nn.Module:
    build = import_function(builder)
    _check_no_arguments(builder, build)
    net = build()
    if not isinstance(net, nn.Module):
        raise ArgumentError(f"{builder} must return a torch.nn.Module, got {type(net).__name__}")
    return net


def _check_no_arguments(name: str, build: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(build)
    except (TypeError, ValueError):  # some built-in functions have none
        return
    try:
        signature.bind()
    except TypeError as error:
        bare = name.partition("(")[0]
        raise ArgumentError(
            f"{name} must take no arguments: {error}; give them in brackets, {bare}(...)"
        ) from None


_WRITES = re.compile(r"\b(torch\.(save|from_file|load)|ops\.(?!aten|prim)\w+)\b")
"""Operators of TorchScript that touch files, and those of other libraries."""


def _torchscript(path: Path) -> nn.Module:
    """Load a TorchScript archive, whose layers are hidden: it can be evaluated, not profiled."""
    with zipfile.ZipFile(path) as archive:
        code = [archive.read(n).decode() for n in archive.namelist() if n.endswith(".py")]
    if used := next(filter(None, map(_WRITES.search, code)), None):
        raise SkipshiftError(f"{path}: is not loaded: its code calls {used[0]}")
    try:
        with warnings.catch_warnings():
            # torch's advice to use torch.export is for who wrote the file
            warnings.simplefilter("ignore")
            net = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:
        # torch raises RuntimeError and others
        reason = " ".join(str(error).split())[:200]
        raise SkipshiftError(f"{path}: cannot be read as TorchScript: {reason}") from None
    # its copies would not be leaves of a graph of gradients, of which torch warns
    return _Script(net).requires_grad_(False)


class _Script(nn.Module):
    """A TorchScript network as a module that takes hooks, which its own modules do not."""

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script

    def forward(self, images: Tensor) -> Any:
        return self.script(images)


def _smp(folder: Path) -> nn.Module:
    config = read_json(folder / "config.json")
    kind = getattr(smp, str(config.pop("_model_class", None)), None)
    if not (isinstance(kind, type) and issubclass(kind, smp.base.SegmentationModel)):
        raise SkipshiftError(
            f"{folder / 'config.json'}: does not name a network of segmentation_models_pytorch; "
            f"save the network with save_pretrained"
        )
    try:
        net = cast(nn.Module, kind(**{**config, "encoder_weights": None}))
    except (TypeError, ValueError, KeyError) as error:
        raise SkipshiftError(
            f"{folder / 'config.json'}: does not describe a valid network: {error}"
        ) from None
    files = [folder / name for name in ("model.safetensors", "pytorch_model.bin")]
    weights = next((file for file in files if file.exists()), files[0])
    load_weights(net, read_weights(weights, net), str(weights))
    return net


def _exported_folder(folder: Path) -> nn.Module:
    """Load what `skipshift export` wrote: our own network by its settings, others as archive."""
    config = read_json(folder / "config.json")
    if "net" not in config:
        return read_exported(folder / "model.pt2")
    try:
        net = Unet(**config["net"])
    except (TypeError, ValueError) as error:
        raise SkipshiftError(
            f"{folder / 'config.json'}: does not describe a skipshift network: {error}"
        ) from None
    weights = folder / "model.safetensors"
    load_weights(net, read_weights(weights, net), str(weights))
    return net


def _bundle(folder: Path) -> nn.Module:
    """Build the network that a MONAI bundle names, without running the bundle."""
    config = read_json(folder / BUNDLE)
    definition = config.get("network_def", config.get("network"))
    file = folder / BUNDLE
    if not isinstance(definition, dict) or "_target_" not in definition:
        raise SkipshiftError(f"{file}: names no network (network_def); give weights and --builder")
    target = str(definition["_target_"])
    module, _, name = (target if "." in target else f"monai.networks.nets.{target}").rpartition(".")
    if not f"{module}.".startswith(_BUNDLE_PACKAGES):
        raise SkipshiftError(f"{file}: {target} is not part of monai.networks or torch.nn")
    kind = getattr(load_extra(module, "monai"), name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise SkipshiftError(f"{file}: {module} has no network {name}")
    arguments = {k: v for k, v in definition.items() if not k.startswith("_")}
    try:
        net = kind(**_resolved(arguments, config, file))
    except (TypeError, ValueError, KeyError) as error:
        raise SkipshiftError(f"{file}: does not describe a valid network: {error}") from None
    weights = folder / "models" / "model.pt"
    load_weights(net, read_weights(weights, net), str(weights))
    return net


def _resolved(value: Any, config: Mapping[str, Any], file: Path) -> Any:
    """Replace references such as ``@channels`` by what they name; expressions are not run."""
    if isinstance(value, dict):
        return {key: _resolved(item, config, file) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, config, file) for item in value]
    if not isinstance(value, str) or value[:1] not in ("$", "@", "%"):
        return value
    found = config.get(value[1:]) if value[0] == "@" else None
    if found is None or found == value:
        raise SkipshiftError(
            f"{file}: {value!r} would have to be run; give models/model.pt and --builder instead"
        )
    return _resolved(found, config, file)


def _nnunet(source: Path) -> nn.Module:
    """Build the network of nnU-Net plans; needs dynamic_network_architectures, not nnU-Net."""
    results = source if (source / "plans.json").exists() else source.parent
    folds = [source] if results != source else sorted(results.glob("fold_*"))
    if len(folds) != 1:
        names = ", ".join(fold.name for fold in folds) or "no folds"
        raise SkipshiftError(f"{source}: contains {names}; name the folder of one fold")
    path = folds[0] / "checkpoint_final.pth"
    checkpoint = _nnunet_checkpoint(path)
    plans, dataset = (read_json(results / name) for name in ("plans.json", "dataset.json"))
    try:
        configuration = checkpoint["init_args"]["configuration"]
        plan = _inherited(plans["configurations"], configuration)["architecture"]
        arguments = dict(plan["arch_kwargs"])
        for name in plan["_kw_requires_import"]:
            arguments[name] = _imported(arguments[name], "torch.nn.", results)
        kind = _imported(plan["network_class_name"], "dynamic_network_architectures.", results)
        net: nn.Module = kind(
            input_channels=len(dataset["channel_names"]),
            num_classes=_heads(dataset),
            **{**arguments, "deep_supervision": False},
        )
        weights = checkpoint["network_weights"]
    except (KeyError, TypeError) as error:
        raise SkipshiftError(
            f"{results}: plans.json, dataset.json and {path.name} do not describe a network: "
            f"{error}"
        ) from None
    load_weights(net, without_prefix(weights, net), str(path))
    # overlapping regions are no classes, of which a pixel has one
    cast(Any, net).overlapping = _has_regions(dataset)
    return net


def _nnunet_checkpoint(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise SkipshiftError(f"{path}: does not exist")
    try:
        return cast(dict[str, Any], load_pickle(path))
    except SkipshiftError as error:
        raise SkipshiftError(f"{path}: is not an nnU-Net v2 checkpoint: {error}") from None


def _inherited(configurations: dict[str, Any], name: str) -> dict[str, Any]:
    settings: dict[str, Any] = configurations[name]
    parent = settings.get("inherits_from")
    return {**_inherited(configurations, parent), **settings} if parent else settings


def _imported(name: str | None, package: str, results: Path) -> Any:
    if name is None:
        return None
    module, _, attribute = name.rpartition(".")
    # plans are untrusted input: they may name networks and layers, and nothing else
    if not name.startswith(package):
        raise SkipshiftError(f"{results / 'plans.json'}: {name} is not part of {package[:-1]}")
    found = getattr(load_extra(module, "nnunet"), attribute, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise SkipshiftError(f"{results / 'plans.json'}: {module} has no module {attribute}")
    return found


def _heads(dataset: dict[str, Any]) -> int:
    """Count the output channels: one per class, or one per region without the background."""
    labels = [name for name in dataset["labels"] if name != "ignore"]
    return len(labels) - _has_regions(dataset)


def _has_regions(dataset: dict[str, Any]) -> bool:
    return any(isinstance(value, list) for value in dataset["labels"].values())


_NNUNET = {
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RGBTo01Normalization": "unit",
}
_MONAI = {"NormalizeIntensityd": "zscore", "ScaleIntensityd": "minmax"}


def trained_with(source: Path) -> tuple[str | None, str] | None:
    """Find the preprocessing that a checkpoint names: ours, where there is one, and its own words.

    None if it names none. Of nnU-Net's and MONAI's the nearest of ours is taken, per image.
    """
    plans = next((p for p in (source, source.parent) if (p / "plans.json").exists()), None)
    if source.is_dir() and plans is not None:
        settings = read_json(plans / "plans.json").get("configurations", {}).values()
        schemes = {name for one in settings for name in one.get("normalization_schemes", ())}
        return _nearest(schemes, _NNUNET)
    if (source / BUNDLE).exists():
        text = json.dumps(read_json(source / BUNDLE).get("preprocessing", {}))
        return _nearest(set(re.findall(r"(\w*Intensity\w*d)\b", text)), _MONAI)
    if (source / "config.json").exists():
        told = read_json(source / "config.json").get("preprocess")
        return None if told is None else (str(told), f"preprocess {told}")
    return None


def _nearest(schemes: set[str], ours: Mapping[str, str]) -> tuple[str | None, str] | None:
    if not schemes:
        return None
    name = ours.get(next(iter(schemes))) if len(schemes) == 1 else None
    return name, shown(sorted(schemes))
