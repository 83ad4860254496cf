"""Archives of torch.export, checked and written anew before torch reads them.

``torch.export.load`` trusts an archive: it unpickles members, evaluates expressions of sizes,
generates Python from names in the graph and loads compiled libraries. What it is given here holds
tensors that were read with ``weights_only=True``, and a graph of known operators and plain names.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import nn
from torch.utils._sympy import functions as sympy_functions  # torch has no public place for them

from skipshift.errors import SkipshiftError

Members = dict[str, bytes]
"""Content by name, without the folder in which torch puts all members."""

_GRAPH = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_HEADERS = ("archive_format", "archive_version", "byteorder", ".data/version")
_TENSORS = {
    "data/weights/": "model_weights_config.json",
    "data/constants/": "model_constants_config.json",
}
_OBJECTS = ("custom_obj", "opaque_obj")

_OPERATORS = re.compile(
    r"torch\.ops\.(aten\.(?!from_file)|prims\.|quantized_decomposed\.|torchvision\.)\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.(cond|while_loop|map_impl|scan|wrap_with_\w+)"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|neg|pow|lt|le|eq|ne|ge|gt|and_|or_)"
    r"|math\.\w+|torch\.sym_\w+"
)
_NAME = re.compile(r"[\w.+-]*")
_STACK = re.compile(r"[\w.,;@<>\[\]()' -]*")
_FREE = ("as_string", "as_strings")
"""Strings that generated code holds in quotes."""


def read_exported(path: Path) -> nn.Module:
    """Load a network from an archive of ``torch.export.save``, with its modules.

    Nothing in the archive is run. `SkipshiftError` if it holds anything but tensors and a graph of
    known operators, or cannot be read.
    """
    try:
        content = _rewritten(_members(path))
        # unflattened, the original modules exist again and layers can be addressed
        net: nn.Module = torch.export.unflatten(torch.export.load(io.BytesIO(content)))
    except _HostileError as error:
        raise SkipshiftError(f"{path}: is not loaded: {error}") from None
    except Exception as error:
        # torch raises many kinds of errors for a file that is not an archive
        reason = " ".join(str(error).split())[:200]
        raise SkipshiftError(
            f"{path}: cannot be read as a torch.export archive: {reason}"
        ) from None
    return net


class _HostileError(Exception):
    """An archive holds what could run code."""


def is_exported(names: list[str]) -> bool:
    """Whether the members of a zip file are those of a torch.export archive."""
    return any(name.partition("/")[2].startswith("models/") for name in names)


def _members(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def _rewritten(members: Members) -> bytes:
    """Write an archive of the members that are needed, each checked; samples are left out."""
    if any(name.startswith("data/aotinductor/") for name in members):
        raise _HostileError("it holds compiled code; export the network without compiling it")
    kept = {name: members[name] for name in _HEADERS if name in members}
    kept[_SAMPLES] = b""
    kept[_GRAPH] = json.dumps(_checked_graph(json.loads(members[_GRAPH]))).encode()
    for folder, config in _TENSORS.items():
        kept |= dict(_checked_tensors(members, folder, config))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in kept.items():
            archive.writestr(f"net/{name}", content)
    buffer.seek(0)
    return buffer.getvalue()


def _checked_tensors(members: Members, folder: str, config: str) -> Iterator[tuple[str, bytes]]:
    """Yield the tensors of a folder and their list; pickled ones are read and saved anew."""
    whole = f"{folder}model.pt"  # all in one, before torch 2.9
    if whole in members:
        yield whole, _saved_anew(whole, members[whole])
        return
    listed = json.loads(members[folder + config])
    yield folder + config, json.dumps(listed).encode()
    for payload in listed["config"].values():
        name = folder + payload["path_name"]
        if payload["path_name"].startswith(_OBJECTS):
            raise _HostileError(f"{name} is a pickled object; export a network of tensors alone")
        pickled = payload["use_pickle"]
        yield name, _saved_anew(name, members[name]) if pickled else members[name]


def _saved_anew(name: str, content: bytes) -> bytes:
    try:
        value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        # UnpicklingError for anything but tensors, many others for a broken file
        raise _HostileError(
            f"{name} holds more than tensors ({type(error).__name__}); export a network of "
            f"tensors alone"
        ) from None
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _checked_graph(graph: dict[str, Any]) -> Any:
    # guards are Python that is executed; the network itself checks the sizes of its inputs
    return {**_checked("", graph), "guards_code": []}


def _checked(key: str, value: Any) -> Any:
    """Copy a part of the graph without the notes of its nodes; names and text must be harmless."""
    if isinstance(value, Mapping):
        if "nn_module_stack" in value or key == "metadata":
            value = {k: v for k, v in value.items() if k == "nn_module_stack"}
        return {_plain(k, _NAME, "name"): _checked(k, v) for k, v in value.items()}
    if isinstance(value, list):
        return [_checked(key, item) for item in value]
    if not isinstance(value, str) or key in _FREE or key == "guards_code":
        return value
    if key == "target":
        return _plain(value, _OPERATORS, "operator")
    if key == "nn_module_stack":
        return _plain(value, _STACK, "path of a module")
    if key == "expr_str":
        return _checked_size(value)
    if key in ("in_spec", "out_spec"):
        if "__enum__" in value:
            raise _HostileError(f"it imports a class: {value[:60]!r}")
        return value
    return _plain(value, _NAME, "name")


def _plain(text: str, pattern: re.Pattern[str], what: str) -> str:
    if not pattern.fullmatch(text):
        raise _HostileError(f"{text[:60]!r} is no {what} that a network needs")
    return text


def _checked_size(text: str) -> str:
    """Return an expression of sizes, such as ``Mul(Integer(2), Symbol('s0', integer=True))``."""
    bare = re.sub(r"\w+=(True|False)|'\w+'", "", text)
    names = set(re.findall(r"[A-Za-z_]\w*", bare))
    symbols = {name for name in names if re.fullmatch(r"z?[suf]+\d+", name)}
    attributes = re.search(r"(?<!\d)\.|\.(?!\d)", bare)
    unknown = [name for name in names - symbols if not _is_expression(name)]
    if attributes or unknown or not re.fullmatch(r"[\w\s,.()+*/<>=!-]*", bare):
        raise _HostileError(f"{text[:60]!r} is no expression of sizes")
    return text


def _is_expression(name: str) -> bool:
    """Whether a name is that of a class of expressions, of sympy or of torch."""
    found = getattr(sympy_functions, name, getattr(sympy, name, None))
    return isinstance(found, type) and issubclass(found, sympy.Basic)
