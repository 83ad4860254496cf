"""Networks as their owners saved them: skipshift's, smp's and nnU-Net's, weights, exported ones."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.extras import load_extra
from skipshift.names import function_of
from skipshift.networks.unet import Unet, load_weights, read_weights
from skipshift.records import read_json

_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""What data-parallel, compiled and Lightning modules put before each name."""


def load_net(source: Path | str, builder: str | None = None) -> nn.Module:
    """Rebuild a network from what was saved of it, in evaluation mode on the CPU.

    Parameters
    ----------
    source
        A run folder of skipshift; a folder of ``save_pretrained`` of segmentation_models_pytorch;
        a fold of an nnU-Net v2 results folder, or the results folder if it has one fold; an
        archive of ``torch.export`` (.pt2); or with a ``builder`` a file with a ``state_dict``.
        Pickles are read as weights only.
    builder
        ``module:function`` that makes the network without arguments; modules of the current
        folder can be named.

    Returns
    -------
    The network. `SkipshiftError` names the file and its first wrong keys or shapes.
    """
    source = Path(source)
    net: nn.Module
    if builder is not None:
        net = function_of(builder)()
        if not isinstance(net, nn.Module):
            raise ArgumentError(
                f"{builder} must return a torch.nn.Module, got {type(net).__name__}"
            )
        load_weights(net, _own_names(net, read_weights(source)), str(source))
    elif source.suffix == ".pt2":
        net = _exported(source)
    elif (source / "config.json").exists():
        net = _smp(source)
    elif any((folder / "plans.json").exists() for folder in (source, source.parent)):
        net = _nnunet(source)
    elif source.is_file():
        raise SkipshiftError(
            f"{source}: holds weights alone; name the function that makes the network as well, "
            f"--builder module:function"
        )
    else:
        net = Unet.load(source)
    return net.eval()


def _own_names(net: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    own = set(net.state_dict())
    stripped = [{k.removeprefix(p): v for k, v in weights.items()} for p in ("", *_WRAPPERS)]
    return max(stripped, key=lambda named: len(own & set(named)))


def _exported(path: Path) -> nn.Module:
    try:
        # the modules of the original come back, so that layers can be named
        net: nn.Module = torch.export.unflatten(torch.export.load(path))
    except Exception as error:
        # torch raises whatever its parts raise for a file that is no archive
        reason = " ".join(str(error).split())[:200]
        raise SkipshiftError(f"{path}: cannot be read as torch.export archive: {reason}") from None
    return net


def _smp(folder: Path) -> nn.Module:
    config = read_json(folder / "config.json")
    kind = getattr(smp, str(config.pop("_model_class", None)), None)
    if kind is None:
        raise SkipshiftError(
            f"{folder / 'config.json'}: names no network of segmentation_models_pytorch; "
            f"save it with save_pretrained"
        )
    try:
        net = cast(nn.Module, kind(**{**config, "encoder_weights": None}))
    except (TypeError, ValueError, KeyError) as error:
        raise SkipshiftError(f"{folder / 'config.json'}: builds no network: {error}") from None
    files = [folder / name for name in ("model.safetensors", "pytorch_model.bin")]
    weights = next((file for file in files if file.exists()), files[0])
    load_weights(net, read_weights(weights), str(weights))
    return net


def _nnunet(source: Path) -> nn.Module:
    """Build what the plans name, without nnU-Net itself; its networks come from their library."""
    results = source if (source / "plans.json").exists() else source.parent
    folds = [source] if results != source else sorted(results.glob("fold_*"))
    if len(folds) != 1:
        known = ", ".join(fold.name for fold in folds) or "no fold"
        raise SkipshiftError(f"{source}: holds {known}; name one fold")
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
            f"{results}: plans.json, dataset.json and {path.name} describe no network: {error}"
        ) from None
    load_weights(net, _own_names(net, weights), str(path))
    return net


def _nnunet_checkpoint(path: Path) -> dict[str, Any]:
    # its log of losses holds NumPy's numbers, by the module names of NumPy 1 or 2
    scalar: Any = np._core.multiarray.scalar  # type: ignore[attr-defined]
    numbers = [np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8"))]
    safe = [*numbers, scalar, (scalar, "numpy.core.multiarray.scalar")]
    try:
        with torch.serialization.safe_globals(safe):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SkipshiftError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:
        # torch raises pickle's UnpicklingError and more
        raise SkipshiftError(
            f"{path}: is no checkpoint of nnU-Net v2 ({type(error).__name__})"
        ) from None
    return cast(dict[str, Any], checkpoint)


def _inherited(configurations: dict[str, Any], name: str) -> dict[str, Any]:
    own: dict[str, Any] = configurations[name]
    parent = own.get("inherits_from")
    return {**_inherited(configurations, parent), **own} if parent else own


def _imported(name: str | None, home: str, results: Path) -> Any:
    if name is None:
        return None
    module, _, attribute = name.rpartition(".")
    # plans come from elsewhere: they may name networks and layers, and nothing else
    if not name.startswith(home):
        raise SkipshiftError(f"{results / 'plans.json'}: names {name}, which is not of {home[:-1]}")
    try:
        return getattr(load_extra(module, "nnunet"), attribute)
    except AttributeError:
        raise SkipshiftError(f"{results / 'plans.json'}: {module} has no {attribute}") from None


def _heads(dataset: dict[str, Any]) -> int:
    """Channels of the output: a class each, or with regions a region each without background."""
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    regions = any(isinstance(value, list) for value in labels.values())
    return len(labels) - regions
