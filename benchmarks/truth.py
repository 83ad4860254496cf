"""Print what the statistics say of drawn features whose truth is known, before and after.

    python -m benchmarks.truth [REPEATS] [PART ...]

Features have 0.4 of their variance from the group, 0.2 from the image and 0.4 from the position;
16 channels, 100 bins. ``before`` is what issue 11 found with the estimators of 2026-11-24, in an
audit by the same kind of simulation; it is not computed again. Each part has its own seed. Parts
are ``rule``, ``groups``, ``scale``, ``few`` and ``layers``, and modules truth_NAME.py beside this
one, each with a function ``main(repeats)``.
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

import benchmarks
from skipshift.profile.layerwise import Compared, compare, draw
from skipshift.specs import ProfileSpec
from skipshift.statistics.layer_tests import ALPHA, layer_table
from skipshift.statistics.resampling import holm, p_value

CHANNELS = 16
SPEC = ProfileSpec(null_draws=60, permutation_draws=199)


@dataclass(frozen=True)
class Design:
    """Numbers of groups, images per group and positions per image, (reference, shifted) each."""

    groups: tuple[int, int]
    images: tuple[int, int] = (1, 1)
    positions: tuple[int, int] = (16, 16)

    def __str__(self) -> str:
        ways = (
            ("{} + {} groups", self.groups, (0, 0)),
            ("of {} | {} images", self.images, (1, 1)),
            ("of {} | {} positions", self.positions, (16, 16)),
        )
        return " ".join(form.format(*pair) for form, pair, usual in ways if pair != usual)


def features(
    rng: np.random.Generator,
    design: Design,
    side: int,
    shift: float = 0.0,
    group: np.ndarray | None = None,
    channels: int = CHANNELS,
) -> np.ndarray:
    """Features (images, K, D) of one set; ``group`` (groups, 1, 1, D) is what layers share."""
    shape = (design.groups[side], design.images[side], design.positions[side], channels)
    own = rng.normal(size=(shape[0], 1, 1, channels)) if group is None else group
    image, position = rng.normal(size=(*shape[:2], 1, channels)), rng.normal(size=shape)
    values = np.sqrt(0.4) * own + np.sqrt(0.2) * image + np.sqrt(0.4) * position + shift
    return values.reshape(-1, *shape[2:]).astype(np.float32)


def labels(design: Design) -> tuple[np.ndarray, np.ndarray]:
    own, others = (
        np.arange(g).repeat(i) for g, i in zip(design.groups, design.images, strict=True)
    )
    return own, others + 10_000


def measured(
    rng: np.random.Generator, design: Design, shift: float, spec: ProfileSpec = SPEC
) -> Compared:
    a, b = features(rng, design, 0), features(rng, design, 1, shift)
    return compare([a], [b], draw(labels(design), spec), spec)["hellinger"]


def truth(shift: float) -> float:
    """Hellinger distance of two normal distributions."""
    return float(np.sqrt(1 - np.exp(-(shift**2) / 8)))


def study(design: Design, shift: float, repeats: int, seed: int) -> Mapping[str, float]:
    """Mean excess, distance and null, share of p <= 0.05, and how often the interval is right."""
    rows = []
    for repeat in range(repeats):
        found = measured(np.random.default_rng((seed, repeat)), design, shift)
        assert found.excess is not None
        low, high = found.excess.interval()
        rows.append(
            {
                "excess": found.excess.value,
                "distance": found.value.mean(),
                "null": found.null.mean(),
                "p": p_value(found.permuted) <= 0.05,
                "cover": low <= truth(shift) <= high if np.isfinite(low) else np.nan,
                "width": high - low,
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def layers(
    rng: np.random.Generator,
    design: Design,
    shifts: list[float],
    channels: int = CHANNELS,
    spec: ProfileSpec = SPEC,
) -> tuple[list[Compared], np.ndarray]:
    """Layers that share half of what groups differ by; their adjusted p."""
    draws, found = draw(labels(design), spec), []
    common = [rng.normal(size=(size, 1, 1, channels)) for size in design.groups]
    for shift in shifts:
        mixed = [np.sqrt(0.5) * (g + rng.normal(size=g.shape)) for g in common]
        a = features(rng, design, 0, 0.0, mixed[0], channels)
        b = features(rng, design, 1, shift, mixed[1], channels)
        found.append(compare([a], [b], draws, spec)["hellinger"])
    table = layer_table([one.excess for one in found], [one.permuted for one in found])
    return found, table["p_adjusted"].to_numpy()


RULE = {
    Design((2, 2), (8, 8)): 0.63,
    Design((2, 7), (8, 8)): 0.65,
    Design((5, 5), (8, 8)): 0.30,
    Design((12, 12), (10, 2)): 0.97,
}


def rule(repeats: int) -> Iterator[str]:
    """Ten layers without a shift: how often one is called clear."""
    yield "no shift, 10 layers: share with a clear layer | before (page) | after (everywhere)"
    for design, before in RULE.items():
        found = [
            layers(np.random.default_rng((101, repeat)), design, [0.0] * 10)[1]
            for repeat in range(repeats)
        ]
        share = np.mean([(p < ALPHA).any() for p in found])
        yield f"{design!s:45} | {before:.2f} | {share:.3f}"


GROUPS = {
    Design((12, 12), (10, 2)): "+0.070, 0.19",
    Design((12, 12), (2, 10)): "-0.048, 0.20",
    Design((12, 12), (1, 1), (36, 169)): "not in the issue",
    Design((20, 20), (1, 1), (169, 36)): "not in the issue",
    Design((36, 12), (10, 2)): "not in the issue",
    Design((12, 36), (10, 2)): "not in the issue",
    Design((40, 10)): "not in the issue",
    Design((10, 40)): "not in the issue",
}


def groups(repeats: int) -> Iterator[str]:
    """Unequal groups: excess and p without a shift, excess and coverage under one."""
    yield (
        "unequal groups | before: excess, share of p <= .05 at 0 | after: the same, distance, null"
        " | excess (coverage) at .5 sigma, truth .175 | at 1 sigma, truth .343"
    )
    for number, (design, before) in enumerate(GROUPS.items()):
        none, some, more = (study(design, s, repeats, 200 + number) for s in (0, 0.5, 1))
        yield (
            f"{design!s:45} | {before} | {none['excess']:+.3f}, {none['p']:.3f}, "
            f"{none['distance']:.3f}, {none['null']:.3f} | {some['excess']:.3f} "
            f"({some['cover']:.2f}) | {more['excess']:.3f} ({more['cover']:.2f})"
        )


SCALE = {20: ("0.035", "0.85 to 0.91 at 1 sigma"), 60: ("0.063", ""), 200: ("0.095", "")}


def scale(repeats: int) -> Iterator[str]:
    """One shift with few and with many images: the excess is that of the populations."""
    yield "before, .5 sigma | after 0, .5 (truth .175), 1 sigma (.343): excess, p, coverage"
    for number, (size, before) in enumerate(SCALE.items()):
        design = Design((size, size))
        few = repeats if size < 100 else max(20, repeats // 5)
        rows = [study(design, s, few, 300 + number) for s in (0, 0.5, 1)]
        after = "; ".join(f"{r['excess']:+.3f}, {r['p']:.2f}, {r['cover']:.2f}" for r in rows)
        yield f"{design!s:45} | {' '.join(before)} | {after}"


def few(repeats: int) -> Iterator[str]:
    """Few groups of eight images: excess, share of p <= 0.05, coverage, width of the interval."""
    yield "few groups of 8 images | after 0, .5, 1 sigma: excess, p, coverage, width"
    for number, size in enumerate(((2, 7), (3, 3), (4, 4), (5, 5), (10, 10))):
        design = Design(size, (8, 8))
        rows = [study(design, s, repeats, 400 + number) for s in (0, 0.5, 1)]
        after = "; ".join(
            f"{r['excess']:+.3f}, {r['p']:.2f}, {r['cover']:.2f}, {r['width']:.2f}" for r in rows
        )
        yield f"{design!s:45} | {after}"


def many(repeats: int) -> Iterator[str]:
    """Thirty layers, five of them shifted: false and found layers by Holm and by step-down.

    With the 1,000 permutations and the threshold of 0.025 that the verdict had before.
    """
    spec = replace(SPEC, permutation_draws=1000)
    yield "30 layers | any false: Holm (before), step-down | share found of 5: the same"
    for number, (size, shift) in enumerate(((9, 0.0), (9, 1.5), (20, 0.0), (20, 0.5))):
        rows = []
        for repeat in range(repeats):
            rng = np.random.default_rng((500 + number, repeat))
            found, adjusted = layers(rng, Design((size, size)), [shift] * 5 + [0.0] * 25, 4, spec)
            before = holm(np.array([p_value(one.permuted) for one in found]))
            start = 5 if shift else 0
            ways = ((before, 0.025), (adjusted, ALPHA))
            rows.append([(p[start:] < level).any() for p, level in ways])
            rows[-1] += [(p[:5] < level).mean() for p, level in ways]
        mean = np.mean(rows, 0)
        hit = f"{mean[2]:.2f}, {mean[3]:.2f}" if shift else "none shifted"
        yield f"{size} + {size} groups, {shift} sigma | {mean[0]:.3f}, {mean[1]:.3f} | {hit}"


PARTS: Mapping[str, Callable[[int], Iterator[str]]] = {
    "rule": rule,
    "groups": groups,
    "scale": scale,
    "few": few,
    "layers": many,
}


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    others = sorted(
        found.name.removeprefix("truth_")
        for found in pkgutil.iter_modules(benchmarks.__path__)
        if found.name.startswith("truth_")
    )
    chosen = sys.argv[2:] or [*PARTS, *others]
    for name in chosen:
        if name in PARTS:
            for line in PARTS[name](repeats):
                print(line, flush=True)
        else:
            importlib.import_module(f"benchmarks.truth_{name}").main(repeats)


if __name__ == "__main__":
    main()
