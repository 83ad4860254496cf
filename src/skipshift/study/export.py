"""A network as files for other programs, each loaded again and compared before it counts."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from skipshift.errors import SkipshiftError
from skipshift.extras import load_extra
from skipshift.networks.addresses import unwrap
from skipshift.networks.archives import read_exported
from skipshift.networks.inference import labels_of, run
from skipshift.networks.outputs import Output, find_output
from skipshift.networks.unet import Unet
from skipshift.networks.weights import load_weights, weights_hash
from skipshift.records import atomic_folder, write_bytes, write_json

CONFIG = "config.json"
CARD = "README.md"

_LARGEST = 1e-3
"""Largest difference of logits to the network's, relative to the largest of its logits."""

_LABELS = 0.999
"""Smallest share of pixels whose label is that of the network."""

Predict = Callable[[Tensor], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class About:
    """What a network's files say of it, besides its weights."""

    name: str

    preprocess: str = "unit"
    """What was done to the images."""

    classes: tuple[str, ...] = ()
    """Names of the mask values, background first."""

    domains: pd.DataFrame | None = None
    """``domain, class, iou, low, high, cases`` of the study that the network is of."""


class _Logits(nn.Module):
    """A network that returns its logits alone."""

    def __init__(self, net: nn.Module, output: Output) -> None:
        super().__init__()
        self.net, self.output = net, output

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.net, (images,), self.net(images))


def export_net(net: nn.Module, images: Tensor, out: Path, about: About) -> pd.DataFrame:
    """Write model.safetensors, model.pt2, model.onnx, config.json and README.md.

    ``model.safetensors`` has the network's own names; the other two return its logits
    (N, classes, H, W) for any number and, where the network allows it, size of images.

    Parameters
    ----------
    images
        Preprocessed images (N, C, H, W) float32, on which each file is compared.
    out
        Folder to write, which must not exist: it appears whole or not at all.

    Returns
    -------
    ``file, images, largest_difference, equal_labels``: of the logits, and of all pixels.

    `SkipshiftError` if a file computes something else than the network, if the network cannot be
    exported, or if onnx is not installed.
    """
    if out.exists():
        raise SkipshiftError(f"{out}: exists; choose a new folder")
    for package in ("onnxruntime", "onnxscript"):
        load_extra(package, "export")
    net = copy.deepcopy(unwrap(net)).cpu().float().eval()
    output = find_output(net, images, len(about.classes) or None)
    plain = output.name == "" and output.activation == "none"
    whole = net if plain else _Logits(net, output).eval()
    with torch.no_grad():
        expected = run(whole, images).numpy()
    with atomic_folder(out) as folder, _quiet():
        weights = {k: v.detach().clone().contiguous() for k, v in net.state_dict().items()}
        write_bytes(folder / "model.safetensors", save(weights))
        program = _exported(whole, images, about.name)
        torch.export.save(program, folder / "model.pt2")
        torch.onnx.export(
            program,
            (),
            folder / "model.onnx",
            input_names=["images"],
            output_names=["logits"],
            external_data=False,
        )
        checks = pd.DataFrame(
            [
                _compared(file, predict(folder / file, whole), images, expected)
                for file, predict in _READERS.items()
            ]
        )
        config = _config(net, about, images, output, checks)
        write_json(folder / CONFIG, config)
        write_bytes(folder / CARD, _card(config, about).encode())
    return checks


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' notes to themselves; what they come to is compared."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _exported(net: nn.Module, images: Tensor, name: str) -> torch.export.ExportedProgram:
    """Export with any batch and size, or of the given size where the network needs it."""
    # a batch of one would be taken for a constant
    example = torch.cat([images[:1], images[:1]])
    auto = torch.export.Dim.AUTO
    reason: Exception | None = None
    for axes in ((0, *range(2, images.ndim)), (0,)):
        try:
            shapes = (dict.fromkeys(axes, auto),)
            return torch.export.export(net, (example,), dynamic_shapes=shapes)
        except Exception as error:
            # torch raises many kinds of errors for code that it cannot trace
            reason = error
    text = " ".join(str(reason).split())[:200]
    raise SkipshiftError(f"{name}: torch.export cannot trace this network: {text}")


def _from_weights(path: Path, net: nn.Module) -> Predict:
    """Fill a copy of the network, whose own weights are gone, from the file."""
    blank = copy.deepcopy(net)
    with torch.no_grad():
        for tensor in blank.state_dict().values():
            tensor.zero_()
    inner = blank.net if isinstance(blank, _Logits) else blank
    load_weights(inner, load_file(path), str(path))
    return _of_module(blank)


def _from_archive(path: Path, _net: nn.Module) -> Predict:
    return _of_module(read_exported(path))


def _from_onnx(path: Path, _net: nn.Module) -> Predict:
    session = load_extra("onnxruntime", "export").InferenceSession(
        path, providers=["CPUExecutionProvider"]
    )

    def predict(images: Tensor) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = session.run(None, {"images": images.numpy()})[0]
        return logits

    return predict


def _of_module(net: nn.Module) -> Predict:
    def predict(images: Tensor) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            logits: npt.NDArray[np.float32] = net(images).numpy()
        return logits

    return predict


_READERS: Mapping[str, Callable[[Path, nn.Module], Predict]] = {
    "model.safetensors": _from_weights,
    "model.pt2": _from_archive,
    "model.onnx": _from_onnx,
}


def _compared(
    file: str, predict: Predict, images: Tensor, expected: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """Compare the logits of a file; `SkipshiftError` if they are not the network's."""
    given = predict(images)
    difference = float(np.abs(given - expected).max())
    labels = [labels_of(torch.from_numpy(logits)) for logits in (given, expected)]
    equal = float((labels[0] == labels[1]).mean())
    if not (difference <= _LARGEST * max(1.0, float(np.abs(expected).max())) and equal >= _LABELS):
        raise SkipshiftError(
            f"{file}: computes something else than the network: logits differ by up to "
            f"{difference:.3g}, and {equal:.2%} of the labels are equal; nothing was written"
        )
    shown = {"largest_difference": difference, "equal_labels": equal}
    return {"file": file, "images": len(images), **shown}


def _config(
    net: nn.Module, about: About, images: Tensor, output: Output, checks: pd.DataFrame
) -> dict[str, Any]:
    return {
        "name": about.name,
        "hash": weights_hash(net),
        "version": version("skipshift"),
        "preprocess": about.preprocess,
        "classes": list(about.classes),
        "input": {"channels": images.shape[1], "compared_at": list(images.shape[2:])},
        "output": {"name": output.name, "activation": output.activation},
        "architecture": type(net).__name__,
        **({"net": net.config} if isinstance(net, Unet) else {}),
        "checks": checks.to_dict("records"),
    }


def _card(config: Mapping[str, Any], about: About) -> str:
    """Write the model card, with the header that the Hugging Face hub reads."""
    checked = [
        f"| `{one['file']}` | {one['largest_difference']:.2g} | {one['equal_labels']:.3%} |"
        for one in config["checks"]
    ]
    number = config["checks"][0]["images"]
    sides = " x ".join(map(str, config["input"]["compared_at"]))
    named = ", ".join(about.classes) or "not named"
    lines = [
        "---",
        "library_name: pytorch",
        "pipeline_tag: image-segmentation",
        "tags: [image-segmentation, skipshift]",
        "---",
        f"# {about.name}",
        "",
        f"A segmentation network, {config['architecture']}, exported by skipshift "
        f"{config['version']}.",
        "",
        f"- Input: (N, {config['input']['channels']}, H, W) float32, preprocessing "
        f"`{about.preprocess}`" + (" (x / 255)" if about.preprocess == "unit" else "") + ".",
        f"- Output of `model.onnx` and `model.pt2`: logits; the classes are: {named}.",
        f"- Weights: SHA-256 `{config['hash']}`.",
        "",
        f"Each file was loaded again and compared with the network on {number} images of {sides}:",
        "",
        "| file | largest difference of logits | equal labels |",
        "|---|---|---|",
        *checked,
    ]
    if about.domains is not None:
        lines += ["", "## Domains", "", *_domain_table(about.domains)]
    return "\n".join(lines) + "\n"


def _domain_table(domains: pd.DataFrame) -> list[str]:
    """IoU of each domain and class, with its interval, as lines of Markdown."""
    rows = ["| domain | class | IoU | 95 % interval | cases |", "|---|---|---|---|---|"]
    for row in domains.to_dict("records"):
        ends = "" if np.isnan(row["low"]) else f"{row['low']:.3f} to {row['high']:.3f}"
        rows.append(
            f"| {row['domain']} | {row['class']} | {row['iou']:.3f} | {ends} | {row['cases']} |"
        )
    return rows
