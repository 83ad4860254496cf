"""Files of weights: what a file is, by its content; tensors out of it, and into a network."""

import hashlib
import pickletools
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from skipshift.errors import SkipshiftError, SkipshiftWarning, unreadable
from skipshift.names import listed
from skipshift.networks.addresses import unwrap

Weights = dict[str, Tensor]

FileKind = Literal["safetensors", "torch", "export", "torchscript"]

_SAVE = "save the network's state_dict: torch.save(net.state_dict(), file)"

_STRANGERS: Mapping[bytes, str] = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes; only networks of torch can be loaded",
    b"version https://git-lfs": "a pointer of Git LFS; run git lfs pull to get the file itself",
}
"""First bytes of files that are no weights, and what to say of them."""

_TRAINING = ("loss", "criterion", "metric")
"""Words in the names of modules of a training that are no part of the network."""

_FREE_CLASSES = ("collections.OrderedDict", "torch", "numpy", "_codecs.encode", "builtins.set")
"""Classes, or packages of classes, that a pickle of weights names."""


def file_kind(path: Path) -> FileKind:
    """Tell what a file is by its content.

    `SkipshiftError` if it does not exist, is a folder or nothing that a network can be loaded from.
    """
    if not path.exists():
        raise SkipshiftError(f"{path}: does not exist; give a file of weights")
    if path.is_dir():
        raise SkipshiftError(f"{path}: is a folder; with --builder give a file of weights")
    with path.open("rb") as file:
        head = file.read(64)
    if zipfile.is_zipfile(path):
        return _archive_kind(path)
    if head[:1] == b"\x80":  # a pickle: torch before 1.6
        return "torch"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    for start, said in _STRANGERS.items():
        if head.startswith(start):
            raise SkipshiftError(f"{path}: is {said}")
    if (
        head[:1] == b"\x08"
        and len(head) > 2
        and head[1] < 32
        and head[2] in b"\x12\x1a\x22\x3a\x42"
    ):
        raise SkipshiftError(
            f"{path}: is an ONNX file, which has no modules to look into; load what it was "
            f"exported from: its weights with --builder, or torch.export.save"
        )
    empty = "is empty" if not head else "is not a file of torch weights"
    raise SkipshiftError(f"{path}: {empty}; {_SAVE}")


def _archive_kind(path: Path) -> FileKind:
    with zipfile.ZipFile(path) as archive:
        inner = {name.partition("/")[2] for name in archive.namelist()}
    if any(name.startswith("models/") for name in inner):
        return "export"
    if any(name.startswith("code/") for name in inner):
        return "torchscript"
    if "data.pkl" in inner:
        return "torch"
    raise SkipshiftError(f"{path}: is not a file of torch weights; {_SAVE}")


def read_weights(path: Path, like: nn.Module | None = None) -> Weights:
    """Read a state_dict from safetensors or a torch file, without running what is in it.

    Of several in one file it is the one that fits ``like`` best, or the largest; its names lose
    what stands before those of ``like`` (``module.``, ``model.net.``).
    `SkipshiftError` if there is none, or names the class of an object that is not loaded.
    """
    if not path.exists():
        raise SkipshiftError(f"{path}: does not exist")
    kind = file_kind(path)
    if kind in ("export", "torchscript"):
        raise SkipshiftError(f"{path}: is a whole network; load it without --builder")
    if kind == "safetensors":
        try:
            content: Any = load_file(path)
        except (OSError, SafetensorError) as error:
            raise unreadable(path, "weights", error) from None
    else:
        content = load_pickle(path)
    found = dict(_state_dicts(content))
    if not found:
        raise SkipshiftError(f"{path}: contains no state_dict; {_SAVE}")
    return _best(found, like, path)


def load_pickle(path: Path) -> Any:
    """Load a torch file with ``weights_only=True``; NumPy's scalars, such as scores, are allowed.

    `SkipshiftError` names the class of an object in it that is not loaded.
    """
    # pickled under module names of NumPy 1 or 2
    scalar: Any = np._core.multiarray.scalar  # type: ignore[attr-defined]
    dtypes = [np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?"))]
    safe = [*dtypes, scalar, (scalar, "numpy.core.multiarray.scalar")]
    try:
        # opened here, since torch takes a path that ends in .safetensors for one
        with torch.serialization.safe_globals(safe), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise unreadable(path, "weights", error) from None
    except Exception as error:
        # torch raises UnpicklingError and many others
        reason = _pickled_objects(path) or f"cannot be read as weights ({type(error).__name__})"
        raise SkipshiftError(f"{path}: {reason}; {_SAVE}") from None


def _pickled_objects(path: Path) -> str:
    """Say which objects a pickle holds besides tensors; nothing if it holds none."""
    try:
        first, names = _classes(_pickle_of(path))
    except (ValueError, OSError, KeyError, zipfile.BadZipFile):
        return ""
    if any(name.startswith("fastai.") for name in names):
        return "is an exported learner of fastai; take its learn.model, and"
    others = [name for name in names if not name.startswith(_FREE_CLASSES)]
    layers = any(name.startswith("torch.nn.modules.") for name in names)
    if first and (layers or others) and not first.startswith("collections.OrderedDict"):
        return f"holds a whole pickled object, {first}, which is not loaded"
    if others:
        return f"contains more than weights, a pickled {others[0]}"
    return ""


def _pickle_of(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        return archive.read(name)


def _classes(content: bytes) -> tuple[str, list[str]]:
    """Name the class of a pickled object (``""`` for a dict), and all classes in it, unrun."""
    while content[:1] == b"\x80":  # torch before 1.6 wrote several pickles, one after the other
        opcodes = list(pickletools.genops(content))
        names = list(_globals(opcodes))
        if names:
            started = [code.name for code, _, _ in opcodes[:4]]
            return ("" if {"EMPTY_DICT", "EMPTY_LIST"} & set(started) else names[0]), names
        content = content[(opcodes[-1][2] or 0) + 1 :]
    return "", []


def _globals(opcodes: Iterable[tuple[Any, Any, int | None]]) -> Iterator[str]:
    """Names of classes and functions in the opcodes of a pickle: ``module.name``."""
    texts: list[str] = []
    for code, value, _ in opcodes:
        if code.name == "GLOBAL":
            yield str(value).replace(" ", ".")
        elif code.name == "STACK_GLOBAL":  # protocol 4, where both names may be recalled instead
            yield ".".join(texts[-2:])
        elif isinstance(value, str):
            texts.append(value)


def _state_dicts(content: Any, name: str = "", depth: int = 3) -> Iterator[tuple[str, Weights]]:
    """Yield every dict of tensors in nested dicts, with its name."""
    if not isinstance(content, Mapping) or depth == 0:
        return
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if tensors:
        yield name, tensors
    for key, value in content.items():
        yield from _state_dicts(value, f"{name}.{key}".lstrip("."), depth - 1)


def _best(found: Mapping[str, Weights], like: nn.Module | None, path: Path) -> Weights:
    if like is None:
        return max(found.values(), key=len)
    named = {name: without_prefix(weights, like) for name, weights in found.items()}
    known = set(like.state_dict())
    fits = {name: len(known & set(weights)) for name, weights in named.items()}
    best = max(fits, key=lambda name: fits[name])
    equal = [name for name, fit in fits.items() if fit == fits[best] > 0]
    if len(equal) > 1:
        warnings.warn(
            f"{path}: holds weights of this network as {listed(equal)}; {best} is taken",
            SkipshiftWarning,
            stacklevel=2,
        )
    return named[best]


def without_prefix(weights: Weights, net: nn.Module) -> Weights:
    """Take off what stands before the network's own names, and leave out a training's modules.

    What a wrapper keeps beside the network, such as ``loss_fn.weight``, is named in a warning.
    """
    known = list(net.state_dict())
    starts = {key.removesuffix(known[0]) for key in weights if known and key.endswith(known[0])}
    starts |= {key.removesuffix(known[-1]) for key in weights if known and key.endswith(known[-1])}

    def fit(start: str) -> int:
        return sum(f"{start}{name}" in weights for name in known)

    start = max(sorted({"", *starts}), key=fit)
    own = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
    beside = [key for key in weights if not key.startswith(start)]
    beside += [k for k in own if k not in known and any(w in k.split(".")[0] for w in _TRAINING)]
    if beside and fit(start):
        more = f" ({len(beside) - 3} more)" if len(beside) > 3 else ""
        warnings.warn(
            f"left out of the weights, since they are no part of the network: "
            f"{', '.join(beside[:3])}{more}",
            SkipshiftWarning,
            stacklevel=2,
        )
    return (
        {key: value for key, value in own.items() if key not in beside} if fit(start) else weights
    )


def load_weights(net: nn.Module, weights: Weights, source: str) -> None:
    """Load weights strictly; `SkipshiftError` names the source and the first keys that differ."""
    expected = net.state_dict()
    faults = [f"lacks {key}" for key in expected if key not in weights]
    faults += [f"has {key}, which the network lacks" for key in weights if key not in expected]
    faults += [
        f"has {key} as {tuple(weights[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in weights and weights[key].shape != tensor.shape
    ]
    if faults:
        more = f" ({len(faults) - 2} more)" if len(faults) > 2 else ""
        raise SkipshiftError(
            f"{source}: {', '.join(faults[:2])}{more}; these are weights of another network"
        )
    net.load_state_dict(weights)


def weights_hash(net: nn.Module) -> str:
    """SHA-256 of a network's weights: names, types, shapes and values, on any device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(unwrap(net).state_dict().items()):
        if isinstance(tensor, Tensor):
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
