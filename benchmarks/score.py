"""How well scores of single images tell odd ones, on real images.

    python -m benchmarks.score TRAINED

``TRAINED`` is the folder of `benchmarks.trained`. Prints, of its networks on smears and on
fluorescent nuclei that they were not trained on:

- false alarms: the share of images with p below 0.05 against a fingerprint of others of the same
  domain, of other slides than theirs or of any;
- five odd ones among fifty tiles of real smears, stained nuclei or darkened smears: how many have p
  below 0.05, and are among the five with the least p;
- AUROC for "this image has lost more than 0.1 IoU" to a shift of the paper, of p and of the mean
  entropy of the prediction.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata

import skipshift as ss
from benchmarks.trained import DATA, HOMES, NETWORKS, as_inputs, cases, load, seen
from skipshift.cli.estimate_commands import LEVEL
from skipshift.data.images import read_image
from skipshift.names import paper_shifts
from skipshift.networks.as_found import evaluating
from skipshift.networks.inference import logits_of, probabilities_of, run
from skipshift.statistics.counts import iou

SIDE, SMALLER, FOLDS = 128, 3, 4
LOST = 0.1

Images = npt.NDArray[np.uint8]
Table = tuple[Images, npt.NDArray[Any]]
"""Images (N, H, W, C), and the slide or image that each is cut from."""


def smears() -> Table:
    """Cut real smears, at a third of their resolution, into tiles: nine of each."""
    tiles, slides = [], []
    for file in sorted((DATA / "bbbc041/images").iterdir()):
        image = np.asarray(read_image(file))[..., :3].astype(np.float64)
        height, width = (SMALLER * SIDE * (side // (SMALLER * SIDE)) for side in image.shape[:2])
        small = image[:height, :width].reshape(
            height // SMALLER, SMALLER, width // SMALLER, SMALLER, 3
        )
        tiles += [*_tiles(small.mean((1, 3)).round().astype(np.uint8))][:9]
        slides += [file.stem] * 9
    return np.stack(tiles), np.array(slides)


def _tiles(image: Images) -> Iterator[Images]:
    for y in range(0, image.shape[0] - SIDE + 1, SIDE):
        for x in range(0, image.shape[1] - SIDE + 1, SIDE):
            yield image[y : y + SIDE, x : x + SIDE]


def nuclei(trained: Path, domain: str) -> Table:
    """Cut images of nuclei that were not trained on into four tiles each."""
    images, _, groups = cases(trained / "sets", "nuclei", domain, 2 * SIDE)
    new = ~seen(HOMES["nuclei"], groups) if domain == "fluo" else np.ones(len(groups), bool)
    tiles = [tile for image in images[new] for tile in _tiles(image)]
    return np.stack(tiles), np.repeat(groups[new], 4)


def scores(net: torch.nn.Module, known: Images, new: Images) -> npt.NDArray[np.float64]:
    """Return p of new images against a fingerprint of known ones."""
    fingerprint = ss.fingerprint(net, np.moveaxis(known, -1, 1).copy())
    return ss.score(net, fingerprint, np.moveaxis(new, -1, 1).copy())["p"].to_numpy()


def false_alarms(net: torch.nn.Module, table: Table) -> str:
    """Score each part of a domain against the others: parts of whole slides, and of tiles."""
    images, slides = table
    found = []
    for labels in (slides, np.arange(len(images))):
        order = np.random.default_rng(0).permutation(np.unique(labels))
        p = np.ones(len(images))
        for part in np.array_split(order, FOLDS):
            own = np.isin(labels, part)
            p[own] = scores(net, images[~own], images[own])
        found.append((p < LEVEL).mean())
    return "false alarms of {:.3f} of other slides, {:.3f} of any".format(*found)


def planted(net: torch.nn.Module, table: Table, odd: Images) -> str:
    """Count those found of five odd images among fifty, and of the others."""
    images, slides = table
    half = np.isin(slides, np.unique(slides)[::2])
    rest = images[~half]
    shown = []
    for name, five in (("nuclei", odd), ("darkened", ss.shifts.apply(rest[:5], "brightness:0.5"))):
        p = scores(net, images[half], np.concatenate([rest[5:50], five]))
        odd_p, others = p[45:], p[:45]
        first = np.isin(np.argsort(p, kind="stable")[:5], range(45, 50)).sum()
        shown.append(
            f"{name} {(odd_p < LEVEL).sum()} of 5, {first} of the five with the least p, "
            f"{(others < LEVEL).sum()} of 45 others"
        )
    return "planted: " + "; ".join(shown)


def lost(net: torch.nn.Module, trained: Path) -> tuple[npt.NDArray[np.float64], ...]:
    """Return IoU lost, p and entropy of held-out synthetic smears under each shift."""
    images, masks, groups = cases(trained / "sets", "malaria", "original", SIDE)
    new = np.flatnonzero(~seen(HOMES["malaria"], groups))
    known, rest = new[::2], new[1::2]
    before, rows = _looked(net, images[rest], masks[rest])[0], []
    for shift in paper_shifts():
        changed = ss.shifts.apply(images[rest], shift)
        after, entropy = _looked(net, changed, masks[rest])
        rows.append((before - after, scores(net, images[known], changed), entropy))
    gone, p, entropy = (np.concatenate(part) for part in zip(*rows, strict=True))
    return gone, p, entropy


def _looked(net: torch.nn.Module, images: Images, masks: Images) -> tuple[Any, Any]:
    with evaluating(net), torch.no_grad():
        chances = probabilities_of(logits_of(run(net, as_inputs(images))))
    found = chances.argmax(1)
    counts = [[((found == 1) & (masks == 1)), ((found == 1) & (masks != 1)),
               ((found != 1) & (masks == 1))]]  # fmt: skip
    entropy = -(chances * np.log(np.maximum(chances, 1e-9))).sum(1).mean((1, 2))
    return iou(np.array(counts).sum((-1, -2))[0].T), entropy


def auroc(odd: npt.NDArray[np.bool_], values: npt.NDArray[np.float64]) -> float:
    """Area under the ROC curve of values that are larger where they are odd; ties count half.

    NaN where all or none are odd.
    """
    ranks, number = rankdata(values), int(odd.sum())
    least = number * (number + 1) / 2
    pairs = number * (len(odd) - number)
    return float((ranks[odd].sum() - least) / pairs) if pairs else np.nan


def main(trained: Path) -> None:
    torch.set_num_threads(1)
    tables = {"malaria": smears(), "nuclei": nuclei(trained, "fluo")}
    odd = nuclei(trained, "purple")[0][:5]
    for name, (_, home, _) in NETWORKS.items():
        if home not in tables:
            continue
        net = load(trained, name)
        print(f"{name}: {false_alarms(net, tables[home])}", flush=True)
        if home == "malaria":
            print(f"  {planted(net, tables[home], odd)}", flush=True)
            gone, p, entropy = lost(net, trained)
            print(f"  lost more than {LOST}: {(gone > LOST).mean():.2f} of {len(gone)}; AUROC of "
                  f"p {auroc(gone > LOST, -p):.3f}, of entropy {auroc(gone > LOST, entropy):.3f}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
