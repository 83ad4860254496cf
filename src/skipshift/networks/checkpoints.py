"""Loading of checkpoints: skipshift, smp, nnU-Net, torch.export, or a file of weights."""

import inspect
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError, SkipshiftError, unreadable
from skipshift.extras import load_extra
from skipshift.names import import_function
from skipshift.networks.mended import is_mended, load_mended
from skipshift.networks.unet import Unet, load_weights, read_weights
from skipshift.records import RUN_RECORD, read_json

_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""Prefixes that data-parallel, compiled and Lightning modules add to parameter names."""


def load_net(source: Path | str, builder: str | None = None) -> nn.Module:
    """Load a network from a checkpoint, in evaluation mode on the CPU.

    Parameters
    ----------
    source
        A run folder of skipshift; a mended network; a folder written by ``save_pretrained`` of
        segmentation_models_pytorch; a fold of an nnU-Net v2 results folder, or the results folder
        if it has one fold; a ``torch.export`` archive (.pt2); or, with a ``builder``, a file with a
        ``state_dict``. Pickles are loaded with ``weights_only=True``.
    builder
        ``module:function`` that returns the network when called without arguments; the module may
        lie in the current folder.

    `SkipshiftError` if the file cannot be loaded; names the file and its first wrong keys or
    shapes. `ArgumentError` if the builder needs arguments or does not return a network.
    """
    source = Path(source)
    if is_mended(source):
        return load_mended(source, lambda base: _load(base, builder))
    return _load(source, builder)


def _load(source: Path, builder: str | None) -> nn.Module:
    net: nn.Module
    if builder is not None:
        build = import_function(builder)
        _check_no_arguments(builder, build)
        net = build()
        if not isinstance(net, nn.Module):
            raise ArgumentError(
                f"{builder} must return a torch.nn.Module, got {type(net).__name__}"
            )
        _check_weights(source)
        load_weights(net, _matching_names(net, read_weights(source)), str(source))
    elif not source.exists():
        raise SkipshiftError(f"{source}: does not exist")
    elif source.suffix == ".pt2":
        net = _exported(source)
    elif (source / "config.json").exists():
        net = _smp(source)
    elif any((folder / "plans.json").exists() for folder in (source, source.parent)):
        net = _nnunet(source)
    elif source.is_file():
        _check_weights(source)
        raise SkipshiftError(
            f"{source}: contains only weights; name the function that builds the network as well, "
            f"--builder module:function"
        )
    elif (source / RUN_RECORD).exists():
        net = Unet.load(source)
    else:
        raise SkipshiftError(
            f"{source}: is not a run folder (no {RUN_RECORD}), nor an smp or nnU-Net folder"
        )
    return net.eval()


def _check_no_arguments(name: str, build: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(build)
    except (TypeError, ValueError):  # some built-in functions have none
        return
    try:
        signature.bind()
    except TypeError as error:
        raise ArgumentError(f"{name} must take no arguments: {error}") from None


def _check_weights(path: Path) -> None:
    """Raise a `SkipshiftError` unless a file looks like weights, safetensors or torch's."""
    if not path.exists():
        raise SkipshiftError(f"{path}: does not exist; give a file of weights")
    if path.is_dir():
        raise SkipshiftError(f"{path}: is a folder; with --builder give a file of weights")
    if path.suffix == ".safetensors":
        return
    if not zipfile.is_zipfile(path):
        # before version 1.6 torch wrote pickles, which start with this byte
        with path.open("rb") as file:
            head = file.read(1 << 20)
        torch_file, whole = head[:1] == b"\x80", b"ctorch.nn.modules." in head
    else:
        torch_file, whole = _torch_archive(path)
    if not torch_file:
        raise SkipshiftError(f"{path}: is not a file of torch weights")
    if whole:
        raise SkipshiftError(
            f"{path}: holds a whole pickled network, which is not loaded; save its state_dict"
        )


def _torch_archive(path: Path) -> tuple[bool, bool]:
    """Whether a zip file is torch's, and whether it holds a whole network."""
    try:
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        # torch raises many kinds of errors for a zip file of another kind
        return False, False
    return True, any(name.startswith("torch.nn.modules.") for name in classes)


def _matching_names(net: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    names = set(net.state_dict())
    stripped = [{k.removeprefix(p): v for k, v in weights.items()} for p in ("", *_WRAPPERS)]
    return max(stripped, key=lambda named: len(names & set(named)))


def _exported(path: Path) -> nn.Module:
    try:
        # unflattened, the original modules exist again and layers can be addressed
        net: nn.Module = torch.export.unflatten(torch.export.load(path))
    except Exception as error:
        # torch raises many kinds of errors for a file that is not an archive
        reason = " ".join(str(error).split())[:200]
        raise SkipshiftError(
            f"{path}: cannot be read as a torch.export archive: {reason}"
        ) from None
    return net


def _smp(folder: Path) -> nn.Module:
    config = read_json(folder / "config.json")
    kind = getattr(smp, str(config.pop("_model_class", None)), None)
    if kind is None:
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
    load_weights(net, read_weights(weights), str(weights))
    return net


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
    load_weights(net, _matching_names(net, weights), str(path))
    return net


def _nnunet_checkpoint(path: Path) -> dict[str, Any]:
    # the log of losses contains NumPy scalars, pickled under module names of NumPy 1 or 2
    scalar: Any = np._core.multiarray.scalar  # type: ignore[attr-defined]
    dtypes = [np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8"))]
    safe = [*dtypes, scalar, (scalar, "numpy.core.multiarray.scalar")]
    try:
        with torch.serialization.safe_globals(safe):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise unreadable(path, "weights", error) from None
    except Exception as error:
        # torch raises UnpicklingError and many others
        raise SkipshiftError(
            f"{path}: is not an nnU-Net v2 checkpoint ({type(error).__name__})"
        ) from None
    return cast(dict[str, Any], checkpoint)


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
    try:
        return getattr(load_extra(module, "nnunet"), attribute)
    except AttributeError:
        raise SkipshiftError(f"{results / 'plans.json'}: {module} has no {attribute}") from None


def _heads(dataset: dict[str, Any]) -> int:
    """Count the output channels: one per class, or one per region without the background."""
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    regions = any(isinstance(value, list) for value in labels.values())
    return len(labels) - regions
