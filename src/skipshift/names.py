"""Names of variants, shifts, distances and functions, and their parsing."""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

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
"""The five variants of the paper and the skip levels that each keeps."""

BASELINE = "baseline"
"""The variant to which the others of its encoder are compared."""

LARGEST_LABEL = 255
"""Largest value of a mask, which has 8 bits; in prepared sets that of pixels not to be counted."""

MOST_CLASSES = 255
"""So that every mask has a value left for pixels that are not to be counted."""

PAPER_SHIFTS: Mapping[str, tuple[float, ...]] = {
    "brightness": (0.5, 0.75, 1.25, 1.5, 1.75),
    "contrast": (0.5, 0.75, 1.25, 1.5, 1.75),
    "saturation": (0.0, 0.25, 0.5, 0.75),
}
"""The grid of Fig. 7; factor 1 of each shift is the column ``original``."""

ORIGINAL = "original"
"""Domain name of images without a synthetic shift."""

AGREEMENT = "agreement"
"""The method that estimates the IoU from other networks' predictions."""

ESTIMATES = (
    "average confidence",
    "difference of confidence",
    "temperature",
    "threshold",
    "calibrated",
    AGREEMENT,
)
"""Methods that estimate the IoU without masks: all but the last from confidence alone."""

DISTANCE_NAMES = (
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
"""Distances between two sets in a layer: per channel up to ``energy``, then of a whole layer."""

SEGMENTATION_METRICS = (
    "iou",
    "dice",
    "group_dice",
    "volume_bias",
    "boundary_iou",
    "surface_dice",
    "object_f1",
    "brier",
    "ece",
    "entropy",
)
"""Metrics of a segmentation: of areas, of boundaries, of objects, and of probabilities."""

FINGERPRINTS = (".npz", ".json")
"""File suffixes of a fingerprint; a set with any other suffix consists of images."""

POOLINGS = ("average", "sample", "none")
"""Poolings of a feature map: the mean of each cell, one random position of it, or all positions."""


def check_sides(*sides: int) -> None:
    """Check that every side is a positive multiple of 32; `ArgumentError` otherwise."""
    if any(side < STRIDE or side % STRIDE for side in sides):
        shown = " x ".join(str(side) for side in sides)
        raise ArgumentError(f"image sides must be multiples of {STRIDE}, got {shown}; crop or pad")


def check_skips(skips: tuple[int, ...]) -> tuple[int, ...]:
    """Sort skip levels; `ArgumentError` unless they are distinct levels 1..4."""
    if not set(skips) <= set(LEVELS) or len(set(skips)) != len(skips):
        raise ArgumentError(f"skips must be distinct levels 1..4, got {shown(skips)}")
    return tuple(sorted(skips))


def shown(values: Iterable[object]) -> str:
    """Join values with commas for a message; 'none' if there are none, '' for an empty name."""
    return ", ".join(str(value) or "''" for value in values) or "none"


def skips_of(variant: str) -> tuple[int, ...]:
    """Return the skip levels that a variant keeps; `ArgumentError` if the name is unknown.

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
    """Return the name of the variant with these skip levels; the inverse of `skips_of`.

    >>> variant_of((4, 3)), variant_of((1, 3))
    ('L2-pruned', 'skips-13')
    """
    kept = check_skips(skips)
    named = {levels: name for name, levels in VARIANTS.items()}
    return named.get(kept, "skips-" + "".join(str(level) for level in kept))


def all_variants() -> tuple[str, ...]:
    """Return the names of all 16 variants, the paper's five first."""
    sets = [kept for size in (4, 3, 2, 1, 0) for kept in combinations(LEVELS, size)]
    return tuple(dict.fromkeys([*VARIANTS, *map(variant_of, sets)]))


def parse_shift(domain: str) -> tuple[str, float] | None:
    """Split ``brightness:0.75`` into kind and factor; None if a domain is not a synthetic shift.

    `ArgumentError` if the factor is not a finite number >= 0.

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
    """Return the 14 shifts of Fig. 7 as domain names."""
    return tuple(f"{kind}:{f:g}" for kind, factors in PAPER_SHIFTS.items() for f in factors)


def listed(items: Iterable[str]) -> str:
    """Join names with commas and "and".

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def shifted_domain(domain: str, shift: str) -> str:
    """Name a domain under a synthetic shift: the shift, after a name of its own if it has one.

    >>> shifted_domain("original", "brightness:0.75"), shifted_domain("A", "brightness:0.75")
    ('brightness:0.75', 'A+brightness:0.75')
    """
    return shift if domain == ORIGINAL else f"{domain}+{shift}"


def seen_domain(domain: str) -> str:
    """Name a test domain that was also in training, in a study that leaves domains out.

    >>> seen_domain("A")
    'A (seen)'
    """
    return f"{domain} (seen)"


def import_function(name: str) -> Callable[..., Any]:
    """Import ``module:function``, ``file.py:function``, or either with arguments.

    Modules of the current folder are found after all installed ones, so that no file there can take
    the place of a library. Arguments are literals: ``nets:unet(classes=3)``.

    `ArgumentError` if the name has another form, the module or function does not exist, or an
    import of the module fails.

    >>> import_function("math:sqrt")(4)
    2.0
    >>> import_function("math:pow(2)")(3)
    8.0
    """
    module, _, call = name.partition(":")
    function, arguments, keywords = _parsed_call(name, call)
    if not module or not function:
        raise ArgumentError(f"{name!r} must have the form module:function")
    value = getattr(_imported(name, module), function, None)
    if not callable(value):
        raise ArgumentError(f"{name}: {module} has no function {function}")
    return partial(value, *arguments, **keywords) if arguments or keywords else value


def _parsed_call(name: str, text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Split ``function(1, a=2)`` into its parts; `ArgumentError` unless they are literals."""
    function, bracket, _ = text.partition("(")
    if not bracket:
        return text, [], {}
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError
        arguments = [ast.literal_eval(value) for value in call.args]
        keywords = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (ValueError, SyntaxError):
        raise ArgumentError(
            f"{name!r} must have the form module:function, or module:function(classes=3) with "
            f"numbers, strings, lists and None"
        ) from None
    return function, arguments, keywords


def _imported(name: str, module: str) -> ModuleType:
    """Import a module by name, or one from a file that ends in .py."""
    file = Path(module) if module.endswith(".py") else None
    if file is not None and not file.is_file():
        raise ArgumentError(f"{name}: {file} does not exist")
    folder = str((file.parent if file else Path()).absolute())
    sys.path.append(folder)
    try:
        return importlib.import_module(module) if file is None else _executed(file)
    except ImportError as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module}.".startswith(f"{missing}."):
            raise ArgumentError(f"{name}: {error}; run from the folder that contains it") from None
        raise ArgumentError(f"{name}: {module} cannot be imported: {error}") from None
    finally:
        sys.path.remove(folder)


def _executed(file: Path) -> ModuleType:
    """Import a file, once, under a name that no installed module has."""
    name = f"_skipshift_{file.absolute()}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None  # noqa: PT018
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
