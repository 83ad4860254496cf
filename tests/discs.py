"""A small data set: dark discs on a bright ground."""

import numpy as np
import pandas as pd

from skipshift.data.images import write_png


def write_discs(folder, rng):
    """A manifest of 14 images of 64 x 64; 10 are for training."""
    rows = []
    for index in range(14):
        y, x = np.mgrid[:64, :64]
        disc = (y - rng.integers(16, 48)) ** 2 + (x - rng.integers(16, 48)) ** 2 < 12**2
        image = np.where(disc[..., None], [120, 60, 150], [230, 220, 235])
        image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
        name = f"case-{index:02d}"
        write_png(folder / "images" / f"{name}.png", image)
        write_png(folder / "masks" / f"{name}.png", disc.astype(np.uint8))
        split = "train" if index < 10 else "test"
        files = (f"images/{name}.png", f"masks/{name}.png")
        rows.append((name, *files, "original", name, split, ("low", "high")[index % 2]))
    columns = ["case", "image", "mask", "domain", "group", "split", "stratum"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"
