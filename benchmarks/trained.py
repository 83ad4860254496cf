"""Networks of five libraries, trained on three image sets.

    python -m benchmarks.trained OUT [NAME ...]

Prepares the sets in ``OUT/sets`` and trains each network of `NETWORKS` on the first groups of its
set's home domain, some forty seconds each on one core. What is there already is kept. ``OUT`` gets
NAME.pt, and NAME.json with the IoU on the groups that were held out, and with what `load_net` and
the command line need: weights file, builder and preprocessing. Without NAME all are trained.
"""

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import segmentation_models_pytorch
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import skipshift as ss
from skipshift.data.batches import stack_cases
from skipshift.data.manifest import read_cases, read_manifest
from skipshift.networks.inference import logits_of

DATA = Path(__file__).parents[2] / "shared/data"

AREA, CROP, SIDE = 160, 96, 128
"""Centre of the images from which crops are trained on, those crops, and that of evaluation."""


@dataclass(frozen=True)
class Home:
    """A domain on which networks are trained."""

    prepared: str
    """Folder of the set."""

    domain: str
    channels: int
    classes: int
    groups: int
    """How many groups are trained on; the others are held out."""
    steps: int


HOMES = {
    "malaria": Home("malaria", "original", 3, 2, 24, 120),
    "nuclei": Home("nuclei", "fluo", 3, 2, 8, 120),
    "hearts": Home("hearts", "A", 1, 4, 6, 320),
    "purple": Home("nuclei", "purple", 3, 2, 8, 120),
}
"""Cells in synthetic smears, fluorescent nuclei, hearts in MR of one vendor, stained nuclei."""


def ours(channels: int = 3, classes: int = 2) -> nn.Module:
    """Build skipshift's own U-net."""
    return ss.Unet("resnet18", classes, encoder_weights=None, in_channels=channels)


def smp(channels: int = 3, classes: int = 2) -> nn.Module:
    """Build a U-net of segmentation_models_pytorch, with a decoder of its own widths."""
    return segmentation_models_pytorch.Unet(
        "resnet18", encoder_weights=None, in_channels=channels, classes=classes,
        decoder_channels=(128, 64, 32, 16, 16),
    )  # fmt: skip


def monai(channels: int = 3, classes: int = 2, norm: str = "batch") -> nn.Module:
    """Build MONAI's residual U-net; ``norm`` is batch, or instance, which is MONAI's default."""
    from monai.networks.nets import UNet

    widths, strides = (16, 32, 64, 128), (2, 2, 2)
    return UNet(2, channels, classes, widths, strides, num_res_units=2, norm=norm)


def torchvision(channels: int = 3, classes: int = 2) -> nn.Module:
    """Build torchvision's LR-ASPP on a MobileNetV3."""
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes)
    net.backbone["0"][0] = nn.Conv2d(channels, 16, 3, 2, 1, bias=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # 0.01 needs more steps than are trained
    return net


def nnunet(channels: int = 3, classes: int = 2) -> nn.Module:
    """Build the plain U-net of nnU-Net's plans, with few channels."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    return PlainConvUNet(
        channels, 4, [16, 32, 64, 128], nn.Conv2d, 3, [1, 2, 2, 2], 2, classes, 2,
        conv_bias=True, norm_op=nn.InstanceNorm2d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip


LIBRARIES: tuple[Callable[..., nn.Module], ...] = (ours, smp, monai, torchvision, nnunet)

NETWORKS = {
    **{f"{build.__name__}-{home}": (build, home, {}) for home in list(HOMES)[:3]
       for build in LIBRARIES},
    "monai-instance-hearts": (monai, "hearts", {"norm": "instance"}),
    "smp-purple": (smp, "purple", {}),
}  # fmt: skip
"""Name -> builder, home domain, and arguments of the builder beside channels and classes."""


def main(out: Path, names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    prepare(out / "sets")
    for name in names or NETWORKS:
        record = out / f"{name}.json"
        if not record.exists():
            found = trained(out, name)
            record.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, json.loads(record.read_text(encoding="utf-8"))["iou"], flush=True)


def prepare(sets: Path) -> None:
    """Make the manifests that are not there yet."""
    smears, nuclei = sorted((DATA / "bbbc041").rglob("*.png")), DATA / "dsb2018_stage1"
    commands = {
        "malaria": f"synth OUT --smear {smears[0]} --images 64 --size 256 --canvas 750 "
        "--cells 5 25",
        "nuclei": f"prepare folder {nuclei} OUT --images images/{{case}}.png --masks "
        "labels/{case}.png --instances --classes background --classes nucleus --table index.csv "
        "--columns case=id --columns domain=kind --train fluo",
        "hearts": f"prepare mms {DATA / 'mnms'} OUT",
    }
    for name, command in commands.items():
        if not (sets / name / "manifest.csv").exists():
            words = [str(sets / name) if word == "OUT" else word for word in command.split()]
            subprocess.run([sys.executable, "-m", "skipshift", *words], check=True)


@functools.cache
def cases(sets: Path, home: str, domain: str, side: int) -> tuple[npt.NDArray[Any], ...]:
    """Read centred crops of all cases of a domain: images (N, H, W, C), masks, groups (N,)."""
    rows = read_manifest(sets / HOMES[home].prepared / "manifest.csv")
    own = rows[rows["domain"] == domain]
    images, masks, groups = stack_cases(list(read_cases(own, HOMES[home].classes, side)))
    return images, masks, np.array(groups)


def seen(home: Home, groups: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell which images are of groups that are trained on."""
    return np.isin(groups, np.unique(groups)[: home.groups])


def trained(out: Path, name: str, batch: int = 8) -> dict[str, Any]:
    """Train a network by cross-entropy on random crops, and save it."""
    build, at, options = NETWORKS[name]
    home = HOMES[at]
    images, masks, groups = cases(out / "sets", at, home.domain, AREA)
    lessons = seen(home, groups)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    net = build(home.channels, home.classes, **options).train()
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=home.steps)
    for _ in range(home.steps):
        picked = rng.choice(np.flatnonzero(lessons), batch)
        corners = rng.integers(0, AREA - CROP + 1, (batch, 2))
        parts = [(i, slice(y, y + CROP), slice(x, x + CROP))
                 for i, (y, x) in zip(picked, corners, strict=True)]  # fmt: skip
        crops = as_inputs(np.stack([images[part] for part in parts]))
        wanted = torch.from_numpy(np.stack([masks[part] for part in parts])).long()
        optimizer.zero_grad()
        cross_entropy(logits_of(net(crops)), wanted).backward()
        optimizer.step()
        schedule.step()
    torch.save(net.state_dict(), out / f"{name}.pt")
    arguments = {"channels": home.channels, "classes": home.classes, **options}
    told = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return {
        "weights": f"{name}.pt",
        "builder": f"benchmarks.trained:{build.__name__}({told})",
        "preprocess": "unit",
        "home": f"sets/{home.prepared}/manifest.csv#{home.domain}",
        "iou": iou(net.eval(), images[~lessons], masks[~lessons], home.classes),
    }


def as_inputs(images: npt.NDArray[Any]) -> Tensor:
    """Turn stored images (N, H, W, C) into what the networks see: (N, C, H, W) in [0, 1]."""
    return torch.from_numpy(np.moveaxis(images, -1, 1)).float().div_(255)


def iou(net: nn.Module, images: npt.NDArray[Any], masks: npt.NDArray[Any], classes: int) -> float:
    """IoU of centred crops, pooled over images, mean over the classes of the foreground."""
    near = slice((images.shape[1] - SIDE) // 2, (images.shape[1] + SIDE) // 2)
    images, masks = images[:, near, near], masks[:, near, near]
    with torch.inference_mode():
        parts = [logits_of(net(as_inputs(images[i : i + 8]))) for i in range(0, len(images), 8)]
    found = torch.cat(parts).argmax(1).numpy()
    return float(np.mean([
        np.sum((found == c) & (masks == c)) / np.sum((found == c) | (masks == c))
        for c in range(1, classes)
    ]))  # fmt: skip


def load(out: Path, name: str) -> nn.Module:
    """Load a trained network."""
    record = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    return ss.load_net(out / record["weights"], record["builder"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
