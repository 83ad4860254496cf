"""What remedies claim where nothing is shifted, what they cost, and whether carry predicts them.

    python -m benchmarks.remedies null NET MANIFEST [SPLITS [CROP]]
    python -m benchmarks.remedies cost NET MANIFEST [CROP]
    python -m benchmarks.remedies question CROP MANIFEST NET [NET ...]

``null`` divides the test cases into random halves, with and without masks of the second, and counts
how often a remedy is recommended. ``cost`` prints what all label-free remedies take, in bare
forward passes of both sets. ``question`` asks whether the place of the largest headroom is that of
the largest gain: a row per network, shift and place as CSV, then the tests of `answer`. All on
centred crops of CROP pixels, by default 128.
"""

import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import skipshift as ss
from skipshift.data.sets.sources import find_pair
from skipshift.names import paper_shifts
from skipshift.networks.features import as_input
from skipshift.remedies.inputs import RemedyInputs, read_inputs
from skipshift.remedies.pairs import JOIN
from skipshift.specs import ReadingSpec

CROP = 128
FEATURES = ("adabn", "moments", "quantile")
"""Label-free remedies that act at any place, from which `question` takes the best."""

QUICK = ss.ProfileSpec(permutation_draws=0)

LOST = 0.02
"""IoU that a shift must cost for `question` to ask where it comes back."""


def _read(net: torch.nn.Module, reference: str, shifted: str, crop: int = CROP) -> RemedyInputs:
    return read_inputs(net, find_pair(reference, shifted, ReadingSpec(crop=crop)))


def null(net: Path, manifest: str, splits: int = 20, crop: int = CROP) -> None:
    """Print how often a remedy is recommended between halves of the same cases."""
    network = ss.load_net(net)
    given = _read(network, manifest, manifest, crop)
    images = np.concatenate(list(given.images[0]))
    masks, groups = given.masks[0], np.array(given.groups[0])
    assert masks is not None
    claimed = {"masks": 0, "no masks": 0}
    for split in range(splits):
        names = np.random.default_rng(split).permutation(np.unique(groups))
        half = np.isin(groups, names[: len(names) // 2])
        sets = (images[half], images[~half])
        for kind, truth in (("masks", (masks[half], masks[~half])), ("no masks", None)):
            found = ss.remedy(network, *sets, truth, (groups[half], groups[~half]))
            claimed[kind] += found.best is not None
            print(f"split {split}, {kind}: {found.best}, {found.facts.chosen}", flush=True)
    print({kind: f"{number} of {splits}" for kind, number in claimed.items()})


def cost(net: Path, manifest: str, crop: int = CROP) -> None:
    """Print what all label-free remedies cost, in passes over both sets: by pixels, and by time.

    Pixels are counted as they enter the network, those of resampled and flipped images too. The
    backward passes of `tent` are in the time alone.
    """
    network = ss.load_net(net)
    given = _read(network, manifest, "brightness:0.75", crop)
    sets = [np.concatenate(list(batches)) for batches in given.images]
    pixels = 0

    def counted(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal pixels
        pixels += inputs[0][:, 0].numel()

    network.register_forward_pre_hook(counted)
    start = time.perf_counter()
    with torch.no_grad():
        for images in sets:
            for first in range(0, len(images), 8):
                batch = torch.from_numpy(images[first : first + 8])
                network(as_input(batch, next(network.parameters())))
    seconds, bare, pixels = time.perf_counter() - start, pixels, 0
    start = time.perf_counter()
    found = ss.remedy(network, *sets, given.masks, given.groups)
    whole = time.perf_counter() - start
    places = sum(JOIN not in place for place in found.table["place"].unique())
    print(f"{len(found.table)} remedies at {places} places; passes over both sets:")
    for what, passes in (("pixels", pixels / bare), ("time", whole / seconds)):
        print(f"by {what} {passes:.1f}, {passes / (places + 2):.2f} times (places + 2)", flush=True)


def question(crop: int, manifest: str, *nets: str) -> None:
    """Print headroom and largest gain of every network, shift and place, and what they answer."""
    rows = []
    for net, shift in product(nets, paper_shifts()):
        network = ss.load_net(net)
        given = _read(network, manifest, shift, crop)
        # a search of one remedy tells what is lost
        specs = [ss.RemedySpec(remedies=r, paired=True, folds=2) for r in (("minmax",), FEATURES)]
        tried = (network, *given.images, given.masks, given.groups)
        facts = ss.remedy(*tried, specs[0]).facts
        if facts.in_domain - facts.iou <= LOST:
            print(
                f"# {Path(net).name}, {shift}: lost {facts.in_domain - facts.iou:.3f}", flush=True
            )
            continue
        found = ss.remedy(*tried, specs[1])
        best = found.table.groupby("place", as_index=False)[["gain", "headroom"]].max()
        profile = ss.profile_shift(network, *given.images, None, given.groups, QUICK).of()
        excess = profile.set_index("layer")["excess"]
        best["excess"] = [excess.get(_layer(place), np.nan) for place in best["place"]]
        known = best.query("place not in ('input', 'all')").dropna()
        loss = found.facts.in_domain - found.facts.iou
        rows.append(known.assign(net=Path(net).name, shift=shift, loss=loss))
        print(rows[-1].to_csv(index=False, header=len(rows) == 1), end="", flush=True)
    for by in ("headroom", "excess"):
        answer(pd.concat(rows, ignore_index=True), by)


def _layer(place: str) -> str:
    """Layer of the profile whose tensor a place maps: a skip is the encoder's map at its stride."""
    return f"e{2 ** int(place[1:])}" if place.startswith("L") else place


def answer(cells: pd.DataFrame, by: str, draws: int = 9999) -> None:
    """Test whether a column predicts gain within network and shift, by permuting it over places.

    The statistic is the slope of gain on it with a mean for each network and shift; and how often
    the place of its largest value is that of the largest gain.
    """
    keys, both = cells["net"] + cells["shift"], cells[["gain", by]]
    centred = both - both.groupby(keys).transform("mean")
    gain, headroom = centred["gain"].to_numpy(), centred[by].to_numpy()
    slope = gain @ headroom / (headroom @ headroom)
    rng, parts = np.random.default_rng(0), [np.flatnonzero(keys == key) for key in keys.unique()]
    larger = 1
    for _ in range(draws):
        mixed = headroom.copy()
        for part in parts:
            mixed[part] = rng.permutation(mixed[part])
        larger += gain @ mixed >= gain @ headroom
    tops = [cells.iloc[part] for part in parts]
    same = [one["gain"].idxmax() == one[by].idxmax() for one in tops]
    chance = np.mean([1 / len(one) for one in tops])
    print(f"{by}: slope {slope:.3f}, p {larger / (draws + 1):.4f}, {len(parts)} networks x shifts")
    print(f"same place in {np.mean(same):.2f}, by chance {chance:.2f}")


if __name__ == "__main__":
    part, *words = sys.argv[1:]
    if part == "null":
        null(Path(words[0]), words[1], *map(int, words[2:]))
    elif part == "cost":
        cost(Path(words[0]), words[1], *map(int, words[2:]))
    else:
        question(int(words[0]), *words[1:])
