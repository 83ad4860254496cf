"""Which causes are named, of mistakes that are made and of real scanners.

    python -m benchmarks.causes OUT SEED [NAME ...]

Takes the networks of `benchmarks.trained` in ``OUT``. For each, the groups of its home domain are
divided in two halves, at random by SEED; one is the reference, the other is damaged by one mistake
at a time, and `find_cause` is asked. Then come the real shifts, where no mistake was made, and no
shift at all. Prints a row for each question, keeps those of each network in ``OUT/causes/SEED``,
and prints rates. Pairs of other sets, which no division changes, are asked of seed 0 alone. A
mistake that does not lift the profile from its null cannot be named, and is counted apart.
``passes`` is the time of the search in bare forward passes of a set.
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.trained import DATA, HOMES, NETWORKS, as_inputs, cases, load
from skipshift.data.images import centre_crop, read_image
from skipshift.networks.as_found import evaluating
from skipshift.networks.changes import Affine, Axes, Channels, ImageMoments
from skipshift.remedies.causes import find_cause
from skipshift.remedies.input_remedies import IMAGENET
from skipshift.remedies.mistakes import Respaced, centred
from skipshift.remedies.remedy import setting_of
from skipshift.specs import RemedySpec

Set = tuple[Tensor, npt.NDArray[Any]]
"""Images (N, C, H, W) and their groups (N,)."""

IMAGES = 16
"""Images of a set, as many of each group."""

MISTAKES: Mapping[str, Callable[[int], nn.Module]] = {
    "turn": lambda _: Axes((1, 0), (0,)),
    "flip": lambda _: Axes((0, 1), (1,)),
    "axis order": lambda _: Axes((1, 0)),
    "channel order": lambda _: Channels((2, 1, 0)),
    "inversion": lambda _: Affine(torch.tensor([-1.0]), torch.tensor([1.0])),
    "range": lambda _: Affine(torch.tensor([255.0]), torch.tensor([0.0])),
    "normalisation": lambda channels: (
        Affine(1 / IMAGENET[1], -IMAGENET[0] / IMAGENET[1])
        if channels == 3
        else ImageMoments(torch.zeros(1), torch.ones(1))
    ),
    "spacing": lambda _: Respaced(1 / 1.5),
}
"""Cause -> the mistake, for a number of channels."""


def main(out: Path, seed: int, names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    (out / "causes" / str(seed)).mkdir(parents=True, exist_ok=True)
    rates(pd.concat([of_network(out, seed, name) for name in names or NETWORKS], ignore_index=True))


def of_network(out: Path, seed: int, name: str) -> pd.DataFrame:
    """Ask of one network, and keep each row; what is kept is not asked again."""
    file, net = out / "causes" / str(seed) / f"{name}.csv", load(out, name)
    known = set(pd.read_csv(file)["shift"]) if file.exists() else set()
    for what, cause, reference, shifted in questions(out, NETWORKS[name][1], seed):
        if what not in known:
            row = pd.DataFrame([{"net": name, **ask(net, what, cause, reference, shifted)}])
            row.to_csv(file, mode="a", header=not file.exists(), index=False)
            print(row.to_csv(header=False, index=False), end="", flush=True)
    return pd.read_csv(file, keep_default_na=False)


def questions(out: Path, home: str, seed: int) -> Iterator[tuple[str, str, Set, Set]]:
    """Yield the shift, its cause, the reference and the shifted set."""
    first, (images, groups) = halves(everything(out, home, HOMES[home].domain), seed)
    yield "nothing", "nothing", first, (images, groups)
    for cause, make in MISTAKES.items():
        if cause != "channel order" or HOMES[home].channels == 3:
            yield cause, cause, first, (make(HOMES[home].channels)(images), groups)
    for what, shifted in elsewhere(out, home):
        yield what, "scanner", first, shifted
    for what, reference, shifted in pairs() if home != "hearts" and seed == 0 else ():
        yield what, "scanner", reference, shifted


def everything(out: Path, home: str, domain: str) -> Set:
    images, _, groups = cases(out / "sets", home, domain, 160 if home == "hearts" else 128)
    return as_inputs(images), groups


def few(images: Tensor, groups: npt.NDArray[Any]) -> Set:
    """Keep as many images of each group, of at most `IMAGES` groups."""
    names = np.unique(groups)[:IMAGES]
    each = max(1, IMAGES // len(names))
    kept = np.concatenate([spread(np.flatnonzero(groups == group), each) for group in names])
    return images[kept], groups[kept]


def spread(index: npt.NDArray[np.int64], number: int) -> npt.NDArray[np.int64]:
    return index[np.linspace(0, len(index) - 1, min(number, len(index))).astype(int)]


def halves(data: Set, seed: int) -> tuple[Set, Set]:
    """Divide the groups at random."""
    images, groups = data
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    one = np.isin(groups, names[: len(names) // 2])
    return few(images[one], groups[one]), few(images[~one], groups[~one])


def elsewhere(out: Path, home: str) -> Iterator[tuple[str, Set]]:
    """Real shifts of a home domain: name, and the shifted set."""
    if home == "hearts":
        for vendor in "BC":
            yield f"vendor {vendor}", few(*everything(out, home, vendor))
        table = pd.read_csv(DATA / "sunnybrook/index.csv")
        pictures = [read_image(DATA / "sunnybrook/images" / file) for file in table["file"]]
        images = np.stack([centre_crop(picture, 160) for picture in pictures])
        yield "Sunnybrook", few(as_inputs(images), table["patient"].to_numpy(str))
    if home in ("nuclei", "purple"):
        other = "purple" if home == "nuclei" else "fluo"
        yield other, few(*everything(out, home, other))


def pairs() -> Iterator[tuple[str, Set, Set]]:
    """Real shifts between two scanners: name, reference, shifted."""
    for sets in (slides(), figures()):
        for (one, first), (two, second) in itertools.combinations(sets.items(), 2):
            yield f"{one}, {two}", first, second


def slides() -> dict[str, Set]:
    """One slide by four scanners: tiles of tissue, each a group."""
    found = {}
    for file in sorted((DATA / "histology/wsi_4scanner").glob("*/*")):
        picture = read_image(file)
        rows, columns = (side // 128 for side in picture.shape[:2])
        tiles = picture[: rows * 128, : columns * 128].reshape(rows, 128, columns, 128, 3)
        tiles = tiles.swapaxes(1, 2).reshape(-1, 128, 128, 3)
        tissue = np.sort(np.argsort(tiles.mean((1, 2, 3)))[:IMAGES])
        groups = np.array([f"{file.parent.name} {tile}" for tile in tissue])
        found[file.parent.name] = as_inputs(tiles[tissue]), groups
    return found


def figures() -> dict[str, Set]:
    """Mitotic figures by three scanners, by slide."""
    folder = DATA / "histology/ami_br_patches"
    table = pd.read_csv(folder / "index.csv")
    table = table[[(folder / file).exists() for file in table["file"]]]
    found = {}
    for scanner, rows in table.groupby("scanner"):
        images = as_inputs(np.stack([read_image(folder / file) for file in rows["file"]]))
        found[str(scanner)] = few(images, rows["slide"].to_numpy(str))
    return found


def ask(net: nn.Module, what: str, cause: str, reference: Set, shifted: Set) -> dict[str, Any]:
    """Ask for the cause of one shift."""
    (home, groups), (away, others) = reference, shifted
    home = centred(home, away.shape[2:]) if cause == "scanner" else home
    away = centred(away, home.shape[2:]).contiguous()
    with evaluating(net), torch.inference_mode():
        start = time.perf_counter()
        for batch in home.split(8):
            net(batch)
        bare = time.perf_counter() - start
        setting = setting_of(net, (home, away), (groups, others), RemedySpec())
        start = time.perf_counter()
        found = find_cause(setting)
        spent = time.perf_counter() - start
    return {
        "shift": what, "cause": cause, "named": found.name, "by": found.undone_by,
        "asked": len(found.table), "passes": round(spent / bare, 2), "clear": found.clear,
    }  # fmt: skip


def rates(rows: pd.DataFrame) -> None:
    """Print how often the right cause is named, a wrong one, and none."""
    rows = rows.assign(
        home=[NETWORKS[net][1] for net in rows["net"]],
        library=[net.partition("-")[0] for net in rows["net"]],
        right=rows["named"] == rows["cause"],
        none=rows["named"] == "none",
    )
    rows["wrong"] = ~rows["right"] & ~rows["none"]
    made = rows[rows["cause"].isin(list(MISTAKES))]
    for by in ("cause", "library", "home"):
        table = made[made["clear"]].groupby(by, sort=False)[["right", "wrong", "none"]].sum()
        table["cannot be named"] = made[~made["clear"]].groupby(by).size()
        print(table.fillna(0).astype(int).to_string(), "\n")
    seen = made[made["clear"]]
    print(f"mistakes that show: {seen['right'].sum()} of {len(seen)} named, "
          f"{seen['wrong'].sum()} named wrong; {len(made) - len(seen)} do not show, "
          f"{made.loc[~made['clear'], 'wrong'].sum()} of them named wrong")  # fmt: skip
    for kind in ("scanner", "nothing"):
        part = rows[rows["cause"] == kind]
        print(f"{kind}: {part['clear'].sum()} of {len(part)} show, {part['wrong'].sum()} named")
    print(f"median of {rows['passes'].median():.1f} passes, most {rows['passes'].max():.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
