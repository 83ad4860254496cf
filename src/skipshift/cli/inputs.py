"""Networks and folders that commands are given, and the record of what a result was made from."""

import logging
import os
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import FINGERPRINTS
from skipshift.spec_files import to_plain

if TYPE_CHECKING:
    from torch import nn

    from skipshift.cli.arguments import RunningSpec
    from skipshift.page.u_drawing import Link

COMMAND: ContextVar[str | None] = ContextVar("command", default=None)
"""The command line; None where a command was called from Python."""

_LOG = logging.getLogger("skipshift")


class Network(NamedTuple):
    """A network as a command was given it."""

    net: "nn.Module"

    source: Path

    preprocess: str
    """Preprocessing of its images."""

    brought: str
    """Where the preprocessing comes from: an option, or what the checkpoint says."""

    device: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, of a run of a study; none of another network."""
        from skipshift.records import run_record

        return tuple(run_record(self.source).get("classes", ()))

    def told(self) -> str:
        """Say which preprocessing was used, and where it comes from."""
        return f"preprocessing: {self.preprocess}, from {self.brought}"


def check_folder(path: Path) -> None:
    """Raise a `SkipshiftError` unless a path is that of a folder."""
    if not path.is_dir():
        raise SkipshiftError(f"{path}: {'is not a folder' if path.exists() else 'does not exist'}")


def check_out(out: Path) -> None:
    """Raise a `SkipshiftError` for a place that cannot be written, before anything is computed."""
    folder = out.absolute().parent if out.name.endswith(FINGERPRINTS) else out.absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise SkipshiftError(f"{there}: is a file; choose a folder to write")
    if not os.access(there, os.W_OK):
        raise SkipshiftError(f"{there}: cannot be written; choose a folder that you may write to")


def check_network(source: Path, running: "RunningSpec") -> None:
    """Check what can be checked before anything is read.

    `SkipshiftError` if there is no such network, `ArgumentError` for an unknown preprocessing, or
    where the files of the network tell that it must be named.
    """
    from skipshift.data.preprocess import preprocess_of
    from skipshift.networks.input_values import AUTO, preprocess_on_file

    if running.preprocess != AUTO:
        preprocess_of(running.preprocess)
    if not source.exists():
        raise SkipshiftError(
            f"{source}: does not exist; NET must be a run folder, an smp or nnU-Net folder, a "
            f"MONAI bundle, an archive of torch.export or TorchScript, or weights"
        )
    if running.preprocess == AUTO:
        preprocess_on_file(source)


def load_network(source: Path, running: "RunningSpec") -> Network:
    """Load a network onto its device, and settle the preprocessing of its images.

    `SkipshiftError` as in `load_net` and `check_network`; `ArgumentError` for a device that is not
    there, or where the preprocessing must be named.
    """
    import torch

    from skipshift.networks.checkpoints import load_net
    from skipshift.networks.inference import best_device
    from skipshift.networks.input_values import AUTO, settle_preprocess

    check_network(source, running)
    if running.jobs is not None:
        torch.set_num_threads(running.jobs)
    device = running.device or best_device()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise ArgumentError(
            f"device must be one that this machine has, such as cpu, got {device!r}"
        ) from None
    net = load_net(
        source, running.builder, None if running.preprocess == AUTO else running.preprocess
    )
    name, brought = settle_preprocess(source, net, running.preprocess)
    network = Network(net.to(device), source, name, brought, device)
    _LOG.info("%s on %s, %s", type(net).__name__, device, network.told())
    return network


def drawn_parts(net: "nn.Module") -> "tuple[list[str], list[Link]]":
    """Layers and skips of a network that a page draws; none of an unknown architecture."""
    from skipshift.networks.architectures import known_layers
    from skipshift.page.u_drawing import Link
    from skipshift.patching.paths import links_of

    layers = [layer.name for layer in known_layers(net) if layer.kind != "skip"]
    return layers, [Link(*link) for link in links_of(net)]


def made_from(
    network: Network, sets: Mapping[str, Mapping[str, Any]], **settings: object
) -> dict[str, Any]:
    """Record what a result was made from: network, sets, preprocessing, settings, versions.

    ``sets`` are those of `skipshift.data.sets.sources.FoundSet.about`, by their part.
    """
    from importlib.metadata import version

    from skipshift.networks.weights import weights_hash

    return {
        "network": {
            "name": str(network.source),
            "class": type(network.net).__name__,
            "sha256": weights_hash(network.net),
        },
        **sets,
        "preprocess": network.preprocess,
        "preprocess_from": network.brought,
        **{name: to_plain(value) for name, value in settings.items()},
        "versions": {name: version(name) for name in ("skipshift", "torch")},
        "device": network.device,
        "command": COMMAND.get(),
    }


def units(network: Network, sets: Mapping[str, Mapping[str, Any]]) -> str:
    """Say what the unit of each set was, and how its images were preprocessed."""
    return "\n".join([*(f"{name}: {one['unit']}" for name, one in sets.items()), network.told()])


def as_text(record: Mapping[str, Any]) -> dict[str, str]:
    """Flatten a record for a page: the sets by name and size, all else in one line each."""
    text = {"net": str(record["network"]["name"])}
    for name, value in record.items():
        if isinstance(value, Mapping) and "unit" in value:
            text[name] = f"{value['name']} ({value['images']} images, {value['groups']} groups)"
        elif isinstance(value, Mapping):
            shown = ((key, one) for key, one in value.items() if one not in (None, [], ""))
            text[name] = ", ".join(f"{key} {one}" for key, one in shown)
        else:
            text[name] = str(value)
    return text
