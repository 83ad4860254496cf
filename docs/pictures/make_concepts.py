"""Draw the pictures of docs/concepts from computed values, as SVG files beside this script.

    python docs/pictures/make_concepts.py [FOLDER]

A small U-net (ResNet18, from scratch) is trained for some hundred steps on synthetic smears drawn
with procedural templates, and is then profiled, patched, mended and estimated by the library's own
functions. It takes some minutes on two cores. The numbers belong to this one small network: they
show what a word means and are no finding.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.special import stdtrit

import skipshift as ss
from skipshift.data.manifest import read_cases, read_manifest
from skipshift.data.prepare.synthetic import write_synthetic
from skipshift.estimate.estimating import calibrate, labelled_sets
from skipshift.names import PAPER_SHIFTS
from skipshift.networks.hooks import captured
from skipshift.networks.layers import layers_of
from skipshift.networks.losses import segmentation_loss
from skipshift.networks.pooling import POOLINGS
from skipshift.page.style import INK, MUTED, NULL, styled, to_svg
from skipshift.page.u_drawing import Box, Drawing, Item, Link, Text, draw_u, unmeasured
from skipshift.page.u_picture import u_figure
from skipshift.profile.layerwise import compare, draw
from skipshift.remedies.places import places_of
from skipshift.specs import ProfileSpec
from skipshift.statistics.counts import count, iou
from skipshift.statistics.resampling import Groups, smallest_permutation_p

HERE = Path(__file__).parent
SIDE, SCALE, BINS = 64, 3, 20
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
SHIFT = "brightness:0.75"
LINKS = [Link(f"L{k}", f"e{2**k}", f"d{2**k}") for k in (1, 2, 3, 4)]


@dataclass(frozen=True)
class Example:
    """A trained network and images that it has not seen, all (N, 3, SIDE, SIDE) uint8."""

    net: ss.Unet
    images: np.ndarray
    masks: np.ndarray

    def shifted(self, shift: str) -> np.ndarray:
        """Apply a synthetic shift to the images."""
        return ss.shifts.apply(self.images.transpose(0, 2, 3, 1), shift).transpose(0, 3, 1, 2)


def example(steps: int, images: int) -> Example:
    """Draw smears, train on all but 20 of them, and keep these 20."""
    with TemporaryDirectory() as folder:
        spec = ss.SynthSpec(
            Path(folder) / "set", images=images, size=SIDE, canvas=SCALE * SIDE, cells=(1, 3)
        )
        cases = list(read_cases(read_manifest(write_synthetic(spec)), classes=2))
    every = np.stack([case.image for case in cases]).transpose(0, 3, 1, 2)
    masks = np.stack([case.mask for case in cases])
    torch.manual_seed(0)
    net = ss.Unet("resnet18", encoder_weights=None)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        chosen = rng.integers(20, len(every), 8)
        flip = -1 if rng.random() < 0.5 else 1
        inputs = torch.from_numpy(every[chosen, :, ::flip].copy()).float() / 255
        targets = torch.from_numpy(masks[chosen, ::flip].copy()).long()
        optimizer.zero_grad()
        segmentation_loss(net(inputs), targets).backward()
        optimizer.step()
    return Example(net.eval(), every[:20], masks[:20])


def shift(data: Example) -> Figure:
    """One image under eq. 1-3, and its grey levels."""
    shifts = ["original", SHIFT, "brightness:1.5", "contrast:0.5", "contrast:1.75", "saturation:0"]
    figure = Figure((8.4, 2.9))
    for number, name in enumerate(shifts):
        image = data.shifted(name)[3].transpose(1, 2, 0)
        axes = figure.add_subplot(2, len(shifts), number + 1)
        axes.imshow(image[:40, 8:48], interpolation="none")  # embedded as it is
        axes.set_title(name.replace(":", " "))
        axes.set_axis_off()
        axes = figure.add_subplot(2, len(shifts), len(shifts) + number + 1)
        for channel, colour in enumerate((ORANGE, GREEN, BLUE)):
            counts = np.histogram(image[..., channel], 32, (0, 256))[0]
            axes.stairs(counts / counts.sum(), np.linspace(0, 256, 33), color=colour, lw=1)
        axes.set(xlim=(0, 256), ylim=(0, 1), xticks=(0, 128, 255), yticks=())
        if number:
            axes.set_xticklabels(["", "128", ""])
        else:
            axes.set_ylabel("share of pixels")
    figure.text(0.5, 0.01, "level of red, green and blue", ha="center", color=MUTED)
    figure.subplots_adjust(0.04, 0.17, 0.99, 0.91, 0.12, 0.12)
    return figure


def skip_levels(_: Example) -> Figure:
    """Draw the L1-pruned network with the shape of each feature map for an image of 512 x 512."""
    net = ss.Unet.variant("L1-pruned", encoder_weights=None).eval()
    with torch.no_grad(), captured(net, layers_of(net), lambda _, value: value.shape) as shapes:
        net(torch.zeros(1, 3, 64, 64))
    told = {name: f"{s[1]} x {s[2] * 8} x {s[3] * 8}" for name, s in shapes.items()}
    drawing = _lettered(draw_u(unmeasured(net.layers()), LINKS[1:]), told)
    return u_figure(drawing._replace(height=drawing.height - 60))


def places(data: Example) -> Figure:
    """Draw the U with the number of weights that each place owns."""
    found = places_of(data.net, torch.zeros(1, 3, 64, 64))
    modules = dict(data.net.named_modules())
    numbers = {
        place.name: sum(
            p.numel() for name in place.modules for p in modules[name].parameters(recurse=False)
        )
        for place in found
    }
    told = {name: f"{number:,}" for name, number in numbers.items()}
    told["e32"] = told["bottleneck"]
    drawing = _lettered(draw_u(unmeasured(data.net.layers()), LINKS), told)
    rest = [n for n in numbers if not n.startswith(("d", "e", "L", "b")) or "." in n or len(n) > 3]
    lines = [f"{name}: {told[name]} weights" for name in rest if numbers[name]]
    text = ["input: images, no weights", *(line for line in lines if "bottleneck" not in line)]
    items = [
        Item("", (Text(20 + 250 * (i // 2), drawing.height - 30 + 18 * (i % 2), line),))
        for i, line in enumerate(text)
    ]
    return u_figure(drawing._replace(items=(*drawing.items, *items)))


def _lettered(drawing: Drawing, told: Mapping[str, str]) -> Drawing:
    """Add a second line to each block."""
    added = []
    for item in drawing.items:
        for box, title, *_ in [item.shapes] if len(item.shapes) > 1 else []:
            if isinstance(box, Box) and isinstance(title, Text) and title.text in told:
                line = title._replace(y=title.y + 17, text=told[title.text], bold=False, size=11)
                added.append(Item("", (line,)))
    return drawing._replace(items=(*drawing.items, *added))


def profile(data: Example) -> Figure:
    """Histograms of one channel in three layers, and the profile that they end in."""
    # few images have few values, and an excess needs more than two a bin
    spec = ss.ProfileSpec(bins=BINS)
    found = ss.profile_shift(data.net, data.images, data.shifted(SHIFT), spec=spec)
    figure = Figure((8.4, 3.0))
    grid = figure.add_gridspec(2, 4, width_ratios=(1, 1, 1, 2.2))
    shown = ("e2", "e16", "d2")
    sides = [_features(data, shown, name) for name in ("original", SHIFT)]
    for column, layer in enumerate(shown):
        per_channel = ss.hellinger(sides[0][layer], sides[1][layer], BINS)
        channel = int(np.argsort(per_channel)[len(per_channel) // 2])
        values = [side[layer][:, channel] for side in sides]
        low, high = min(map(np.min, values)), max(map(np.max, values))
        for row, (own, colour) in enumerate(zip(values, (BLUE, ORANGE), strict=True)):
            axes = figure.add_subplot(grid[row, column])
            counts = np.histogram(own, BINS, (low, high))[0]
            axes.stairs(
                counts / counts.sum(), np.linspace(low, high, BINS + 1), fill=True, color=colour
            )
            axes.set(yticks=(), xlim=(low, high))
            if row == 0:
                axes.set_title(f"{layer}: distance {per_channel[channel]:.2f}")
                axes.tick_params(labelbottom=False)
            if column == 0:
                axes.set_ylabel(("reference", "shifted")[row], color=colour)
    axes = figure.add_subplot(grid[:, 3])
    rows = found.layers
    at = np.arange(len(rows))
    axes.plot(at, rows["distance"], "o-", color=INK, label="distance", ms=4)
    axes.plot(at, rows["null"], "s--", color=NULL, label="noise floor", ms=3)
    axes.errorbar(
        at, rows["excess"], [rows["excess"] - rows["low"], rows["high"] - rows["excess"]],
        fmt="o", color=ORANGE, label="excess", ms=4, capsize=2,
    )  # fmt: skip
    axes.set(xticks=at, ylim=(-0.05, 1), title="mean over channels")
    axes.set_xticklabels(rows["layer"])
    axes.legend(loc="upper right", ncols=3, handletextpad=0.3, columnspacing=0.8)
    figure.subplots_adjust(0.05, 0.1, 0.99, 0.91, 0.25, 0.12)
    return figure


def _features(data: Example, layers: tuple[str, ...], shift: str) -> dict[str, np.ndarray]:
    """Averages of the cells of each layer, (M, D)."""
    addresses = {name: layers_of(data.net)[name] for name in layers}
    cells, rng = [SIDE // 32] * 2, np.random.default_rng(0)
    pool = POOLINGS["average"]
    with torch.no_grad(), captured(data.net, addresses, lambda _, v: pool(v, cells, rng)) as found:
        data.net(torch.from_numpy(data.shifted(shift)).float() / 255)
    return {k: v.movedim(1, -1).reshape(-1, v.shape[1]).numpy() for k, v in found.items()}


def pooling(_: Example) -> Figure:
    """Show what averaging does to a shift of 0.1 standard deviations."""
    figure = Figure((6.4, 2.9))
    axes = figure.add_subplot()
    rng, samples, delta = np.random.default_rng(0), 50_000, 0.1
    positions = np.array([1, 4, 16, 64, 256, 1024])
    for shared, colour in ((0.0, ORANGE), (0.1, GREEN), (1.0, BLUE)):
        spread = np.sqrt(shared + (1 - shared) / positions)
        exact = np.sqrt(1 - np.exp(-((delta / spread) ** 2) / 8))
        means = rng.normal(size=(2, samples, len(positions))) * spread
        measured = [
            ss.hellinger(means[0, :, i : i + 1], means[1, :, i : i + 1] + delta).item()
            for i in range(len(positions))
        ]
        axes.plot(positions, exact, color=colour, label=f"{shared:.0%} of the variance shared")
        axes.plot(positions, measured, "o", color=colour, ms=4)
    axes.set_xscale("log", base=2)
    axes.set(
        xticks=positions, xlabel="positions averaged in a cell", ylabel="Hellinger distance",
        ylim=(0, 1),
    )  # fmt: skip
    axes.set_xticklabels([f"{n:,}" for n in positions])
    axes.legend(title="within an image", alignment="left")
    figure.subplots_adjust(0.09, 0.16, 0.99, 0.97)
    return figure


def excess(_: Example) -> Figure:
    """Distance, null and excess of drawn features, by the number of images in each set."""
    sizes, spec = (6, 10, 20, 40, 80), ProfileSpec(null_draws=60, permutation_draws=0)
    figure = Figure((8.4, 2.9))
    for column, delta in enumerate((0.0, 0.5)):
        rows = np.array([_drawn_excess(size, delta, spec) for size in sizes])
        axes = figure.add_subplot(1, 2, column + 1)
        for values, colour, label, mark in zip(
            rows.T, (INK, NULL, ORANGE), ("distance", "noise floor", "excess"), "os^", strict=True
        ):
            axes.plot(sizes, values, f"{mark}-", color=colour, label=label, ms=4)
        truth = np.sqrt(1 - np.exp(-(delta**2) / 8))
        axes.axhline(truth, color=GREEN, ls=":", label="distance of the populations")
        axes.set_xscale("log")
        axes.set(
            title=("no shift", f"shift of {delta} standard deviations")[column], ylim=(-0.08, 0.7),
            xlabel="images in each set", xticks=sizes,
        )  # fmt: skip
        axes.set_xticks([], minor=True)
        axes.set_xticklabels(sizes)
        if column == 0:
            axes.legend()
            axes.set_ylabel("Hellinger distance")
    figure.subplots_adjust(0.07, 0.16, 0.99, 0.92, 0.12)
    return figure


def _drawn_excess(size: int, delta: float, spec: ProfileSpec, repeats: int = 12) -> Any:
    """Mean distance, null and excess; half of the variance is that of the image."""
    found = []
    for repeat in range(repeats):
        rng = np.random.default_rng((size, repeat))
        a, b = (
            (rng.normal(size=(size, 1, 8)) + rng.normal(size=(size, 16, 8))) / np.sqrt(2) + move
            for move in (0.0, delta)
        )
        draws = draw((np.arange(size), size + np.arange(size)), spec)
        one = compare([a], [b], draws, spec)["hellinger"]
        assert one.excess is not None
        found.append((one.value.mean(), one.null.mean(), one.excess.value))
    return np.mean(found, 0)


def carry(data: Example) -> Figure:
    """IoU with one path patched at a time, its share of the loss, and Shapley's."""
    spec = ss.CarrySpec(subsets=True, precision="fp32")
    table = ss.carry(data.net, data.images, data.shifted(SHIFT), data.masks, spec=spec)
    table = table.set_index("path")
    paths = ["none", "L1", "L2", "L3", "L4", "bottleneck", "all"]
    figure = Figure((8.4, 2.8))
    left, right = figure.subplots(1, 2, sharey=True)
    at = np.arange(len(paths))
    left.barh(at, table.loc[paths, "iou"], color=[NULL, *[BLUE] * 5, GREEN])
    home = table.loc["none", "in_domain"]
    left.axvline(home, color=INK, ls=":")
    left.text(home - 0.01, -0.75, "reference", ha="right", va="center", color=MUTED)
    left.set(yticks=at, xlim=(0, 1), xlabel="IoU with this path fed the reference's features")
    left.set_yticklabels(paths)
    left.invert_yaxis()
    single = paths[1:-1]
    for column, move, colour, label in (
        ("share", -0.18, BLUE, "share: what the path brings back alone"),
        ("missing", 0.0, ORANGE, "missing: what stays lost without it"),
        ("shapley", 0.18, GREEN, "Shapley value: these add up to 1"),
    ):
        rows = table.loc[single]
        low, high = ("low", "high") if column == "share" else (f"{column}_low", f"{column}_high")
        ends = [rows[column] - rows[low], rows[high] - rows[column]]
        right.errorbar(
            rows[column], at[1:-1] + move, xerr=ends, fmt="o", color=colour, ms=4, label=label
        )
    right.axvline(0, color=NULL, lw=0.8)
    right.set(xlabel="part of the lost IoU, with its 95 % interval", xlim=(-0.2, 1.2))
    right.legend(loc="lower right", bbox_to_anchor=(1.0, 0.12))
    figure.subplots_adjust(0.11, 0.16, 0.98, 0.97, 0.1)
    return figure


def remedies(data: Example) -> Figure:
    """Gain of recomputed and of matched statistics at each place, beside the headroom there."""
    spec = ss.RemedySpec(remedies=("adabn", "moments"), paired=True)
    table = ss.remedy(data.net, data.images, data.shifted(SHIFT), data.masks, spec=spec).table
    single = table[~table["place"].str.contains(r"\+")]
    order = [place.name for place in places_of(data.net, torch.zeros(1, 3, 64, 64))]
    order = [place for place in order if place in set(single["place"])]
    at = np.arange(len(order))
    figure = Figure((8.4, 3.0))
    axes = figure.add_subplot()
    headroom = single.dropna(subset="headroom").groupby("place")["headroom"].first()
    axes.bar(at, headroom.reindex(order), color="#e4e6e9", width=0.8, label="headroom")
    for name, move, colour in (("adabn", -0.15, BLUE), ("moments", 0.15, ORANGE)):
        rows = single[single["remedy"] == name].set_index("place").reindex(order)
        ends = [rows["gain"] - rows["low"], rows["high"] - rows["gain"]]
        label = f"gain of {name}"
        axes.errorbar(at + move, rows["gain"], ends, fmt="o", color=colour, ms=4, label=label)
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set(xticks=at, ylabel="IoU")
    axes.set_xticklabels(order, rotation=40, ha="right", rotation_mode="anchor")
    axes.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1.14))
    figure.subplots_adjust(0.07, 0.27, 0.99, 0.9)
    return figure


def estimates(data: Example) -> Figure:
    """Estimated IoU with its interval, beside the truth, under the paper's shifts."""
    wanted = [f"{kind}:{factor:g}" for kind, all_ in PAPER_SHIFTS.items() for factor in all_[::2]]
    figure = Figure((8.4, 3.0))
    axes = figure.add_subplot()
    half = len(data.images) // 2
    home, _ = labelled_sets((data.images[:half], data.images[half:]), data.masks[:half], None, None)
    calibration = calibrate(data.net, home, ss.EstimateSpec())
    for number, name in enumerate(["original", *wanted]):
        images = data.shifted(name)[half:]
        _, away = labelled_sets((data.images[:half], images), data.masks[:half], None, None)
        found = calibration.estimate(calibration.measured(away)).table.iloc[1]
        with torch.no_grad():
            labels = data.net(torch.from_numpy(images).float() / 255).argmax(1).numpy()
        truth = iou(count(data.masks[half:], labels, 2).sum(0))[1]
        if found["answered"]:
            axes.plot([number] * 2, [found["low"], found["high"]], color=BLUE, lw=5, alpha=0.35)
            axes.plot(number, found["iou"], "_", color=BLUE, ms=11, mew=2)
        else:
            axes.text(number, 0.05, "cannot\nbe said", ha="center", color=MUTED)
        axes.plot(number, truth, "o", color=ORANGE, ms=5)
    axes.plot([], [], color=BLUE, lw=5, alpha=0.35, label="95 % interval, no masks used")
    axes.plot([], [], "_", color=BLUE, ms=11, mew=2, label="estimate")
    axes.plot([], [], "o", color=ORANGE, ms=5, label="truth")
    axes.set(xticks=range(1 + len(wanted)), ylim=(-0.02, 1.02), ylabel="IoU")
    names = [name.replace(":", " ") for name in ("original", *wanted)]
    axes.set_xticklabels(names, rotation=30, ha="right", rotation_mode="anchor")
    axes.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1.16))
    figure.subplots_adjust(0.07, 0.26, 0.99, 0.89)
    return figure


def groups(_: Example) -> Figure:
    """Coverage of two intervals, and the least p, by the number of groups."""
    numbers = np.array([2, 3, 4, 5, 6, 8, 10, 15, 20])
    figure = Figure((8.4, 2.9))
    left, right = figure.subplots(1, 2)
    rng, images, repeats = np.random.default_rng(0), 20, 4000
    cover = []
    for number in numbers:
        shape = (repeats, number, images)
        values = rng.normal(size=(*shape[:2], 1)) + rng.normal(size=shape)
        means, flat = values.mean(2), values.reshape(repeats, -1)
        error = means.std(1, ddof=1) / np.sqrt(number)
        by_group = np.abs(means.mean(1)) < stdtrit(number - 1, 0.975) * error
        error = flat.std(1, ddof=1) / np.sqrt(flat.shape[1])
        by_image = np.abs(flat.mean(1)) < stdtrit(flat.shape[1] - 1, 0.975) * error
        cover.append((by_group.mean(), by_image.mean()))
    for values, colour, label in zip(
        np.transpose(cover), (BLUE, ORANGE), ("groups as units", "images as units"), strict=True
    ):
        left.plot(numbers, values, "o-", color=colour, label=label, ms=4)
    left.axhline(0.95, color=INK, ls=":", lw=1)
    left.set(ylim=(0, 1), xlabel="groups of 20 images", title="a 95 % interval holds the truth")
    left.set_xticks((2, 5, 10, 15, 20))
    left.legend(loc="lower right")
    swaps = 2.0 ** (1 - numbers)
    every = np.arange(2, 11)
    apart = [smallest_permutation_p(Groups(np.arange(n), n + np.arange(n)), 1000) for n in every]
    right.semilogy(numbers[:7], swaps[:7], "o-", color=BLUE, ms=4, label="two networks swapped")
    right.semilogy(every, apart, "s-", color=GREEN, ms=4, label="two sets of n groups permuted")
    right.axhline(0.05, color=INK, ls=":", lw=1)
    right.set_yticks(ticks := (0.5, 0.05, 0.005, 0.001), [f"{tick:g}" for tick in ticks])
    right.minorticks_off()
    right.set(xlabel="groups n", title="the least p that any data can give")
    right.legend()
    figure.subplots_adjust(0.06, 0.16, 0.99, 0.91, 0.16)
    return figure


PICTURES: Mapping[str, Callable[[Example], Figure]] = {
    "shift": shift,
    "skip-levels": skip_levels,
    "places": places,
    "profile": profile,
    "pooling": pooling,
    "excess": excess,
    "carry": carry,
    "remedies": remedies,
    "estimates": estimates,
    "groups": groups,
}
"""Name of each page of docs/concepts and the function that draws its picture."""


def make(folder: Path, steps: int = 200, images: int = 100) -> None:
    """Write concept-NAME.svg for each of `PICTURES`."""
    torch.set_num_threads(1)
    data = example(steps, images)
    with styled():
        for name, picture in PICTURES.items():
            (folder / f"concept-{name}.svg").write_bytes(to_svg(picture(data)))


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
