from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from skipshift.data.images import write_png

SHARED = Path(__file__).parents[2] / "shared"

# two workers on two cores: more threads than that only get in each other's way
torch.set_num_threads(1)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip("needs the shared folder with real data beside the project")
    return SHARED


@pytest.fixture
def small_set(tmp_path, rng):
    """A manifest of 14 images of 64 x 64, dark discs on a bright ground; 10 are for training."""
    rows = []
    for index in range(14):
        y, x = np.mgrid[:64, :64]
        disc = (y - rng.integers(16, 48)) ** 2 + (x - rng.integers(16, 48)) ** 2 < 12**2
        image = np.where(disc[..., None], [120, 60, 150], [230, 220, 235])
        image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
        name = f"case-{index:02d}"
        write_png(tmp_path / "images" / f"{name}.png", image)
        write_png(tmp_path / "masks" / f"{name}.png", disc.astype(np.uint8))
        split = "train" if index < 10 else "test"
        files = (f"images/{name}.png", f"masks/{name}.png")
        rows.append((name, *files, "original", name, split, ("low", "high")[index % 2]))
    columns = ["case", "image", "mask", "domain", "group", "split", "stratum"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "manifest.csv", index=False)
    return tmp_path / "manifest.csv"
