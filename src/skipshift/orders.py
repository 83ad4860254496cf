"""What a command is asked to do: the arguments and options of the command line.

This module must stay free of torch, so that help starts at once.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from skipshift.specs import CarrySpec, Precision


@dataclass(frozen=True)
class EvaluateSpec:
    """Evaluate one network on every domain of a manifest and every shift of its test cases."""

    net: Path
    """Run folder with weights.safetensors and run.json."""

    manifest: Path
    """Manifest whose test cases are evaluated."""

    out: Path
    """Folder to write: cases.parquet and iou.csv."""

    shifts: tuple[str, ...] = field(default=(), kw_only=True)
    """Synthetic shifts to apply as well, e.g. brightness:0.75."""

    crop: int | None = field(default=None, kw_only=True)
    """Side of a centred crop of the images, a multiple of 32; whole images without it."""

    precision: Precision = field(default="auto", kw_only=True)
    """bf16, fp32, or bf16 wherever the processor computes in it (auto)."""


@dataclass(frozen=True)
class CarryRunSpec:
    """Measure which path of a network carries the IoU that a shift costs, without training.

    One skip at a time, or the bottleneck, is fed what the reference has there while the rest of the
    network sees the shifted image. The IoU that returns is what that path carries.
    """

    net: Annotated[Path, Parameter(name="NET")]
    """Run folder, smp or nnU-Net folder, torch.export archive, or weights with a builder."""

    reference: str
    """Manifest, or MANIFEST#domain, whose test cases are of the domain the network knows."""

    shifted: str
    """Shift of the reference such as brightness:0.75, or MANIFEST#domain, cases paired by name."""

    out: Path
    """Folder to write: carry.csv, carry.json, carry.svg, carry.png."""

    # the positional NET has no option of its own, so that --net can name what makes it
    builder: Annotated[str | None, Parameter(name="--net")] = field(default=None, kw_only=True)
    """Function that makes the network for a file of weights, module:function."""

    preprocess: str = field(default="unit", kw_only=True)
    """What is done to each image: unit, minmax, zscore, imagenet, none or module:function."""

    crop: int | None = field(default=None, kw_only=True)
    """Side of a centred crop of the images, a multiple of 32; whole images without it."""

    settings: Annotated[CarrySpec, Parameter(name="*")] = field(
        default_factory=CarrySpec, kw_only=True
    )
    """How it is measured."""


@dataclass(frozen=True)
class ReportSpec:
    """Draw the figures and write the page again, from a study's tables alone."""

    out: Path
    """Study folder."""
