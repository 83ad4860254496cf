"""Mended networks on disk: the owner's own files with new weights, and the maps beside them."""

import io
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from skipshift.errors import SkipshiftError, unreadable
from skipshift.networks.changes import MAPS, Change, Mended, arguments, with_aliases
from skipshift.networks.outputs import Output
from skipshift.networks.weights import file_kind, load_pickle
from skipshift.records import OWNED, read_json, write_bytes, write_json

MENDED = "mended.json"
_MAPS = "maps.safetensors"
_CONFIG = "config.json"
_NOT_SMP = "mended by skipshift with maps of its input or features: load it by skipshift.load_net"


def is_mended(folder: Path) -> bool:
    """Whether a folder holds a mended network."""
    return (folder / MENDED).exists()


def save_mended(
    folder: Path,
    net: nn.Module,
    change: Change,
    source: Path,
    about: Mapping[str, Any],
    output: Output | None = None,
) -> None:
    """Write a changed network as its owner has it, with the maps of its input and features.

    The files of ``source`` are copied, with the weights that the change replaces. Where it has maps
    of the input or of features, too, they go to a folder ``network`` of their own, so that nobody
    takes them for the mended network: ``mended.json`` lists the maps.

    Parameters
    ----------
    net
        The unmended network.
    source
        The checkpoint that it was loaded from.
    output
        Where the network's logits are, if it does not just return them.
    about
        What else ``mended.json`` is to hold, such as the remedy and its place.

    `SkipshiftError` if the change replaces weights that are not in the source by their name, or as
    in `owners_source`.
    """
    source = owners_source(source)
    folder.mkdir(parents=True, exist_ok=True)
    inputs = [_record(f"inputs.{i}", part) for i, part in enumerate(change.inputs)]
    maps = [
        {"address": address, **_record(f"maps.{i}", part)}
        for i, (address, part) in enumerate(change.maps.items())
    ]
    tensors = {
        f"{prefix}.{i}.{name}": value.detach().cpu().contiguous()
        for prefix, parts in (("inputs", change.inputs), ("maps", change.maps.values()))
        for i, part in enumerate(parts)
        for name, value in arguments(part).items()
        if isinstance(value, Tensor)
    }
    whole = not (change.inputs or change.maps)
    place = folder if whole else folder / OWNED
    place.mkdir(exist_ok=True)
    base = write_like(source, place, with_aliases(net, change.weights))
    base = (place / base).relative_to(folder).as_posix()
    if tensors:
        write_bytes(folder / _MAPS, save(tensors))
    if not whole and "_model_class" in _config(place):
        # else smp would look for a model of the folder's name on the Hugging Face Hub
        write_json(folder / _CONFIG, {"_model_class": _NOT_SMP})
    # last, since its presence says that the rest is whole
    found = asdict(output or Output())
    record = {**about, "base": base, "inputs": inputs, "maps": maps, "output": found}
    write_json(folder / MENDED, record)


def owners_source(source: Path) -> Path:
    """Checkpoint in its owner's format: of a mended network, the one that was written.

    `SkipshiftError` for one that is mended by maps, which has no such checkpoint, or names a broken
    file.
    """
    if not is_mended(source):
        return source
    about = read_json(source / MENDED)
    try:
        maps, base = [*about["inputs"], *about["maps"]], source / str(about["base"])
    except (KeyError, TypeError) as error:
        raise unreadable(source / MENDED, "a mended network", error) from None
    if maps:
        raise SkipshiftError(
            f"{source}: is mended already, by a map of its input or features; mend the network "
            f"that it came from"
        )
    return base


def _config(folder: Path) -> Mapping[str, Any]:
    return read_json(folder / _CONFIG) if (folder / _CONFIG).exists() else {}


def write_like(source: Path, folder: Path, weights: Mapping[str, Tensor]) -> str:
    """Copy a checkpoint in its owner's format, with some weights replaced.

    Returns the name in ``folder`` that is to be loaded. `SkipshiftError` if the format has no
    weights that could be replaced by their name.
    """
    if source.is_file():
        _rewrite(source, folder / source.name, weights)
        return source.name
    root, files = _owners_files(source)
    for file in files:
        target = folder / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".json":
            shutil.copyfile(file, target)
        else:
            _rewrite(file, target, weights)
    return "."


_FORMATS = (
    ("run.json", "weights.safetensors"),
    ("config.json", "model.safetensors"),
    ("config.json", "model.safetensors", "model.pt2"),
    ("configs/inference.json", "models/model.pt"),
    ("plans.json", "dataset.json", "fold_*/checkpoint_final.pth"),
)
"""Files of a run folder, ``save_pretrained``, an export, a MONAI bundle, nnU-Net's results."""


def _owners_files(source: Path) -> tuple[Path, list[Path]]:
    """Folder of a checkpoint and the files in it that make it up."""
    # a fold of nnU-Net's lies in its results
    root = source if not (source.parent / "plans.json").exists() else source.parent
    for names in _FORMATS:
        found = [sorted(root.glob(name)) for name in names]
        if root != source:
            found = [[f for f in own if f.parent in (root, source)] for own in found]
        if all(len(own) == 1 for own in found):
            return root, [own[0] for own in found]
    raise SkipshiftError(f"{source}: a mended network cannot be written in this format")


def _rewrite(source: Path, target: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a file of weights again with some replaced, under the names that the file has."""
    kind = file_kind(source) if weights else ""
    if not weights:
        shutil.copyfile(source, target)
    elif kind == "safetensors":
        with safe_open(source, "pt") as file:
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        _replace(held, weights, source)
        write_bytes(target, save(held, metadata))
    elif kind == "torch":
        nested = load_pickle(source)
        _replace(_tensors_of(nested), weights, source)
        buffer = io.BytesIO()
        torch.save(nested, buffer)
        write_bytes(target, buffer.getvalue())
    else:
        raise SkipshiftError(
            f"{source}: weights cannot be replaced in an archive; take a remedy of the input or of "
            f"a feature map, or give the network as weights with a builder"
        )


def _tensors_of(held: Any) -> dict[str, Any]:
    """Find the dict of most tensors in a nest of dicts."""
    dicts, found = [held], []
    while dicts:
        one = dicts.pop()
        if isinstance(one, dict):
            found.append(one)
            dicts += list(one.values())
    return max(found, key=lambda one: sum(isinstance(v, Tensor) for v in one.values()), default={})


def _replace(held: dict[str, Any], weights: Mapping[str, Tensor], source: Path) -> None:
    for name, value in weights.items():
        same = [k for k in held if k == name or k.endswith(f".{name}")]
        same = [k for k in same if len(k) == min(map(len, same))]
        if len(same) != 1 or held[same[0]].shape != value.shape:
            raise SkipshiftError(f"{source}: holds no {name} that could be replaced")
        held[same[0]] = value.detach().cpu().to(held[same[0]].dtype).contiguous()


def _record(name: str, part: nn.Module) -> dict[str, Any]:
    values = {n: v for n, v in arguments(part).items() if not isinstance(v, Tensor)}
    return {"map": type(part).__name__, "tensors": name, "arguments": values}


def load_mended(folder: Path, load: Callable[[Path], nn.Module]) -> nn.Module:
    """Read a folder of `save_mended`; ``load`` reads the network of the owner's files.

    `SkipshiftError` names an absent or broken file.
    """
    about = read_json(folder / MENDED)
    try:
        base = folder / about["base"]
        named = [(entry, entry.get("address")) for entry in (*about["inputs"], *about["maps"])]
        tensors = load_file(folder / _MAPS) if (folder / _MAPS).exists() else {}
        parts = [_map_of(entry, tensors) for entry, _ in named]
        output = Output(**about["output"])
    except (KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        raise unreadable(folder / MENDED, "a mended network", error) from None
    net = load(base)
    if not parts:
        return net
    inputs = tuple(part for part, (_, at) in zip(parts, named, strict=True) if at is None)
    maps = {at: part for part, (_, at) in zip(parts, named, strict=True) if at is not None}
    return Mended(net, Change(inputs, maps), output).eval()


def _map_of(entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    prefix = f"{entry['tensors']}."
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return MAPS[entry["map"]](**own, **entry["arguments"])
