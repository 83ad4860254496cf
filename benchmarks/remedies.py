"""What remedies claim where nothing is shifted, what they cost, and whether carry predicts them.

    python -m benchmarks.remedies null NET MANIFEST [SPLITS [CROP]]
    python -m benchmarks.remedies cost NET MANIFEST [CROP [SHIFT]]
    python -m benchmarks.remedies trained FOLDER NAME DOMAIN
    python -m benchmarks.remedies slides FOLDER NAME SLIDES SLIDES [SLIDES ...]
    python -m benchmarks.remedies question CROP MANIFEST NET [NET ...]

``null`` divides the test cases into random halves, with and without masks of the second, and counts
how often a remedy is recommended. ``cost`` prints what all label-free remedies take, in bare
forward passes of both sets. ``question`` asks whether the place of the largest headroom is that of
the largest gain: a row per network, shift and place as CSV, then the tests of `answer`. All on
centred crops of CROP pixels, by default 128. ``trained`` prints what remedies do for a network of
`benchmarks.trained` on another domain of its set; its reference are the groups it was not trained
on. ``slides`` does so without masks, between tiles of folders of slides; each tile is a group, so
intervals are those of a slide's tiles and say nothing of other slides.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

import skipshift as ss
from benchmarks.trained import HOMES, NETWORKS, SIDE, cases, load, seen
from skipshift.data.sets.sources import find_pair
from skipshift.names import paper_shifts
from skipshift.networks.features import as_input
from skipshift.remedies.inputs import RemedyInputs, read_inputs
from skipshift.specs import ReadingSpec

CROP = 128
FEATURES = ("adabn", "moments", "quantile")
"""Label-free remedies that act at any place, from which `question` takes the best."""

TIED = 1e-3
"""Difference of IoU that does not tell two places apart."""

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


def cost(net: Path, manifest: str, crop: int = CROP, shift: str = "brightness:0.75") -> None:
    """Print what all label-free remedies cost in passes over both sets, by operations and by time.

    Operations are those of convolutions and matrix products going forward; the backward passes of
    `tent` are in the time alone.
    """
    network = ss.load_net(net)
    given = _read(network, manifest, shift, crop)
    sets = [np.concatenate(list(batches)) for batches in given.images]

    def bare() -> None:
        with torch.no_grad():
            for images in sets:
                for first in range(0, len(images), 8):
                    batch = torch.from_numpy(images[first : first + 8])
                    network(as_input(batch, next(network.parameters())))

    for kind, masks in (("with masks", given.masks), ("without masks", None)):
        found, *whole = _cost(partial(ss.remedy, network, *sets, masks, given.groups))
        _, *once = _cost(bare)
        places = len(found.setting.places)
        print(f"{kind}, {len(found.table)} remedies at {places} places; passes over both sets:")
        for what, all_, one in zip(("operations", "time"), whole, once, strict=True):
            passes = all_ / one
            print(f"by {what} {passes:.1f}, {passes / (places + 2):.2f} times (places + 2)")
        sys.stdout.flush()


def _cost(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result of a function, its operations, and the seconds it takes uncounted."""
    with FlopCounterMode(display=False) as counter:
        found = function()
    counts = counter.get_flop_counts()["Global"]
    forward = sum(number for name, number in counts.items() if "backward" not in str(name))
    start = time.perf_counter()
    function()
    return found, float(forward), time.perf_counter() - start


def trained(folder: Path, name: str, domain: str) -> None:
    """Print what label-free remedies gain and cost for a trained network on another domain."""
    at = NETWORKS[name][1]
    home = HOMES[at]
    sets = [cases(folder / "sets", at, which, SIDE) for which in (home.domain, domain)]
    unseen = ~seen(home, sets[0][2])
    images, masks, groups = zip(tuple(part[unseen] for part in sets[0]), sets[1], strict=True)
    inputs = [np.moveaxis(one, -1, 1) for one in images]
    found = ss.remedy(load(folder, name), *inputs, masks, groups)
    _show(found, f"{name} on {domain}")


def slides(folder: Path, name: str, reference: str, *shifted: str) -> None:
    """Print what label-free remedies leave of the excess between tiles of slides, without masks."""
    for slide in shifted:
        reading = ReadingSpec(tile=256, tissue=0.02, sample=12)
        network = load(folder, name)
        given = read_inputs(network, find_pair(reference, slide, reading))
        _show(ss.remedy(network, *given.images), f"{name} on {Path(slide).name}")


def _show(found: ss.Remedies, what: str) -> None:
    print(f"{what}: {found.verdict()}")
    columns = ["remedy", "place", "iou", "gain", "low", "high", "p_adjusted", "in_domain", "harm"]
    columns += ["excess_left", "excess_low", "excess_high", "unchanged"]
    print(found.table[columns].dropna(axis=1, how="all").head(8).round(3).to_string(index=False))
    sys.stdout.flush()


def question(crop: int, manifest: str, *nets: str) -> None:
    """Print headroom and largest gain of every network, shift and place, and what they answer."""
    rows = []
    for cells in places_asked(crop, manifest, nets, paper_shifts()):
        rows.append(cells)
        print(cells.to_csv(index=False, header=len(rows) == 1), end="", flush=True)
    for by in ("headroom", "excess"):
        print(answer(pd.concat(rows, ignore_index=True), by).to_string(index=False))


def places_asked(
    crop: int, manifest: str, nets: Sequence[str], shifts: Sequence[str]
) -> Iterator[pd.DataFrame]:
    """Yield headroom, excess and largest gain at each place, for each network and shift that costs.

    Only shifts that cost more than `LOST`.
    """
    for shift, net in product(shifts, nets):
        network = ss.load_net(net)
        given = _read(network, manifest, shift, crop)
        tried = (network, *given.images, given.masks, given.groups)
        # a search of one remedy tells what is lost
        facts = ss.remedy(*tried, ss.RemedySpec(remedies=("minmax",), folds=2)).facts
        if facts.in_domain - facts.iou <= LOST:
            continue
        found = ss.remedy(*tried, ss.RemedySpec(remedies=FEATURES, paired=True, folds=2))
        best = found.table.groupby("place", as_index=False)[["gain", "headroom"]].max()
        layers = {p.name: p.address for p in found.setting.places if p.address is not None}
        profile = ss.profile_shift(network, *given.images, layers, given.groups, QUICK).of()
        best["excess"] = best["place"].map(profile.set_index("layer")["excess"])
        known = best.query("place not in ('input', 'all')").dropna()
        loss = found.facts.in_domain - found.facts.iou
        yield known.assign(net=Path(net).name, shift=shift, loss=loss)


def answer(cells: pd.DataFrame, by: str, draws: int = 9999) -> pd.DataFrame:
    """Test whether a column predicts gain within network and shift, by permuting it over places.

    Of all places, and of skips and bottleneck alone: what is fed to the last block is all that the
    logits see, so its headroom is all that was lost. The statistic is the slope of gain on the
    column with a mean for each network and shift. Places are permuted in each network and shift by
    itself (``p``), and alike in all (``p_alike``), since all share what is typical of a place. Then
    how often the place of the largest value, one drawn of those that tie, is that of the largest
    gain, beside chance.
    """
    crossing = cells["place"].str.fullmatch(r"L\d|bottleneck")
    rows = []
    for what, own in (("all places", cells), ("skips and bottleneck", cells[crossing])):
        wide = [own.pivot(index=["net", "shift"], columns="place", values=v) for v in ("gain", by)]
        gain, told = (table.to_numpy() for table in wide)
        centred = [values - values.mean(1, keepdims=True) for values in (gain, told)]
        slope = (centred[0] * centred[1]).sum() / (centred[1] ** 2).sum()
        rng = np.random.default_rng(0)
        alone = [rng.permuted(centred[1], axis=1) for _ in range(draws)]
        width = told.shape[1]
        orders = (rng.permutation(width) for _ in range(draws))
        if every := math.factorial(width) <= draws:
            orders = (list(order) for order in permutations(range(width)))
        alike = [centred[1][:, order] for order in orders]
        observed = (centred[0] * centred[1]).sum()
        larger = [
            sum((centred[0] * m).sum() >= observed for m in drawn) for drawn in (alone, alike)
        ]
        # of all permutations the observed one is among them
        p = [(1 + larger[0]) / (draws + 1)]
        p += [larger[1] / len(alike) if every else (1 + larger[1]) / (draws + 1)]
        best, top = (values >= values.max(1, keepdims=True) - TIED for values in (gain, told))
        hits = ((best & top).sum(1) / top.sum(1)).mean()
        rows.append({
            "by": by, "places": f"{what} ({told.shape[1]})", "cells": len(told), "slope": slope,
            "p": p[0], "p_alike": p[1], "same place": hits, "chance": best.mean(),
        })  # fmt: skip
    return pd.DataFrame(rows)


if __name__ == "__main__":
    part, *words = sys.argv[1:]
    if part == "null":
        null(Path(words[0]), words[1], *map(int, words[2:]))
    elif part == "cost":
        cost(Path(words[0]), words[1], *map(int, words[2:3]), *words[3:])
    elif part in ("trained", "slides"):
        {"trained": trained, "slides": slides}[part](Path(words[0]), *words[1:])
    else:
        question(int(words[0]), *words[1:])
