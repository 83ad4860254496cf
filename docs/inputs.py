"""The example of the documentation: two scanners, and a network trained on one of them.

`python docs/inputs.py` writes docs/_inputs/ once:

    training/                       36 images of scanner A with their masks, for the network
    scanner-a/images, masks         24 more images of scanner A
    scanner-b/images, masks         24 images of scanner B: other cells, three quarters as bright
    manifest.csv                    all of them; the test cases of domains scanner-a and scanner-b
    net/                            the network as segmentation_models_pytorch saves it
    net.pt                          its weights alone, a state dict
    nets.py                         the function that builds it: `--builder nets.py:unet`
"""

import filecmp
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import segmentation_models_pytorch as smp
import torch
from PIL import Image

import skipshift as ss
from skipshift.cli.commands import synth

FOLDER = Path(__file__).parent / "_inputs"
BRIGHTNESS = 0.75
SETS = {"training": (36, 0), "scanner-a": (24, 1), "scanner-b": (24, 2)}
"""Images and seed of each set."""

NETS = '''\
import segmentation_models_pytorch as smp


def unet():
    """Build the network of net.pt."""
    return smp.Unet("resnet18", encoder_weights=None, classes=2)
'''


def make_set(folder: Path, images: int, seed: int) -> pd.DataFrame:
    """Draw images of blood cells with their masks; return their rows of the manifest."""
    drawn = ss.SynthSpec(folder, images=images, cells=(2, 14), canvas=512, size=128, seed=seed)
    synth(drawn)
    rows = pd.read_csv(folder / "manifest.csv")
    for column in ("image", "mask"):
        rows[column] = folder.name + "/" + rows[column]
    rows["case"] = rows["group"] = folder.name + "-" + rows["case"]
    if folder.name != "training":
        rows["domain"], rows["split"] = folder.name, "test"
        for extra in ("manifest.csv", "synth.json", "templates.png"):
            (folder / extra).unlink()
    else:
        rows["domain"], rows["split"] = "scanner-a", "train"
    return rows


def darken(folder: Path) -> None:
    """Make scanner B of scanner A: every image less bright (eq. 1 of the paper)."""
    for path in sorted(folder.glob("images/*.png")):
        image = np.asarray(Image.open(path))
        Image.fromarray(ss.shifts.brightness(image[None], BRIGHTNESS)[0]).save(path)


def train(folder: Path, epochs: int = 12) -> torch.nn.Module:
    """Train a U-net on the images of a folder, as anyone would."""
    names = sorted(path.name for path in folder.glob("images/*.png"))
    images = np.stack([np.asarray(Image.open(folder / "images" / name)) for name in names])
    masks = np.stack([np.asarray(Image.open(folder / "masks" / name)) for name in names])
    x, y = torch.tensor(images).permute(0, 3, 1, 2) / 255, torch.tensor(masks).long()

    torch.manual_seed(0)
    net = smp.Unet("resnet18", encoder_weights=None, classes=2)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(6):
            loss = torch.nn.functional.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def make(folder: Path) -> None:
    """Write the two scanners, the manifest and the network."""
    rows = [make_set(folder / name, *drawn) for name, drawn in SETS.items()]
    darken(folder / "scanner-b")
    pd.concat(rows).to_csv(folder / "manifest.csv", index=False)
    net = train(folder / "training")
    net.save_pretrained(str(folder / "net"))
    torch.save(net.state_dict(), folder / "net.pt")
    (folder / "nets.py").write_text(NETS, encoding="utf-8")


if __name__ == "__main__":
    ready = FOLDER / "ready"  # a copy of this file: the inputs are what it makes
    if not ready.exists() or not filecmp.cmp(ready, __file__, shallow=False):
        shutil.rmtree(FOLDER, ignore_errors=True)
        make(FOLDER)
        shutil.copy(__file__, ready)
