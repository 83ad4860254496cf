"""Variants, shifts and functions by name: what they are called, and what a name means."""

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, cast

from skipshift.errors import ArgumentError

LEVELS = (1, 2, 3, 4)
"""Skip levels: the skip at stride 2, 4, 8, 16 of the input (paper Fig. 1)."""

STRIDE = 32
"""Input sides must be multiples of this, the stride of the bottleneck."""

VARIANTS: Mapping[str, tuple[int, ...]] = {
    "baseline": (1, 2, 3, 4),
    "L1-pruned": (2, 3, 4),
    "L2-pruned": (3, 4),
    "L3-pruned": (4,),
    "L4-pruned": (),
}
"""The five networks of the paper and the skip levels that each keeps."""

BASELINE = "baseline"
"""The variant with which the others of its encoder are compared."""

PAPER_SHIFTS: Mapping[str, tuple[float, ...]] = {
    "brightness": (0.5, 0.75, 1.25, 1.5, 1.75),
    "contrast": (0.5, 0.75, 1.25, 1.5, 1.75),
    "saturation": (0.0, 0.25, 0.5, 0.75),
}
"""The grid of Fig. 7; factor 1 of each shift is the column ``original``."""

ORIGINAL = "original"
"""Domain name of images that no synthetic shift has touched."""


DISTANCES = (
    "hellinger",
    "jensen-shannon",
    "kullback-leibler",
    "total-variation",
    "kolmogorov-smirnov",
    "wasserstein",
    "wasserstein-scaled",
    "energy",
    "mmd",
    "auc",
    "gdv",
    "cka",
)
"""Distances between two sets in a layer: to ``energy`` by channel, then of the layer as a whole."""

FINGERPRINTS = (".npz", ".json")
"""What the name of a fingerprint ends in; every other name of a set is one of images."""

POOLINGS = ("average", "sample", "none")
"""What is kept of each cell of a map: its mean, one random position, or every position."""


def check_sides(*sides: int) -> None:
    """`ArgumentError` unless every side is a positive multiple of 32."""
    if any(side < STRIDE or side % STRIDE for side in sides):
        shown = " x ".join(str(side) for side in sides)
        raise ArgumentError(f"image sides must be multiples of {STRIDE}, got {shown}; crop or pad")


def check_skips(skips: tuple[int, ...]) -> tuple[int, ...]:
    """Skip levels in ascending order; `ArgumentError` for any that is not one of L1..L4."""
    if not set(skips) <= set(LEVELS) or len(set(skips)) != len(skips):
        raise ArgumentError(f"skips must be distinct levels 1..4, got {tuple(skips)}")
    return tuple(sorted(skips))


def skips_of(variant: str) -> tuple[int, ...]:
    """Skip levels that a variant keeps.

    >>> skips_of("L1-pruned"), skips_of("skips-13")
    ((2, 3, 4), (1, 3))
    """
    if variant in VARIANTS:
        return VARIANTS[variant]
    levels = variant.removeprefix("skips-")
    if variant.startswith("skips-") and levels.isdecimal():
        return check_skips(tuple(int(level) for level in levels))
    choices = ", ".join(VARIANTS)
    raise ArgumentError(f"unknown variant {variant!r}; choose {choices}, or skips-13 for L1 and L3")


def variant_of(skips: tuple[int, ...]) -> str:
    """Name of the variant that keeps these skip levels; the inverse of `skips_of`.

    >>> variant_of((4, 3)), variant_of((1, 3))
    ('L2-pruned', 'skips-13')
    """
    kept = check_skips(skips)
    named = {levels: name for name, levels in VARIANTS.items()}
    return named.get(kept, "skips-" + "".join(str(level) for level in kept))


def all_variants() -> tuple[str, ...]:
    """Every set of skips by name, the paper's five first: 16 in all."""
    sets = [kept for size in (4, 3, 2, 1, 0) for kept in combinations(LEVELS, size)]
    return tuple(dict.fromkeys([*VARIANTS, *map(variant_of, sets)]))


def parse_shift(domain: str) -> tuple[str, float] | None:
    """Split ``brightness:0.75`` into kind and factor; None for a domain that is no synthetic shift.

    >>> parse_shift("brightness:0.75"), parse_shift("original")
    (('brightness', 0.75), None)
    """
    kind, colon, text = domain.partition(":")
    if not colon or kind not in PAPER_SHIFTS:
        return None
    try:
        factor = float(text)
    except ValueError:
        raise ArgumentError(f"shift {domain!r} needs a number after the colon") from None
    if not 0 <= factor < float("inf"):
        raise ArgumentError(f"shift {domain!r} needs a finite factor >= 0")
    return kind, factor


def paper_shifts() -> tuple[str, ...]:
    """Every shift of Fig. 7 as a domain name, 14 in all."""
    return tuple(f"{kind}:{f:g}" for kind, factors in PAPER_SHIFTS.items() for f in factors)


def listed(items: Iterable[str]) -> str:
    """Join names as a sentence does.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def seen(domain: str) -> str:
    """Name of a domain where the network was trained on it too, in a study that leaves domains out.

    >>> seen("A")
    'A (seen)'
    """
    return f"{domain} (seen)"


def function_of(name: str) -> Callable[..., Any]:
    """Find the function that is called ``module:function``; modules of the current folder too.

    >>> function_of("math:sqrt")(4)
    2.0
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ArgumentError(f"{name!r} must be module:function")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        raise ArgumentError(f"{name}: {error}; run from the folder that holds it") from None
    finally:
        sys.path.remove(folder)
    if not callable(found):
        raise ArgumentError(f"{name}: {module} has no function {function}")
    return cast(Callable[..., Any], found)
