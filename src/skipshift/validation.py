"""Checks of settings: numbers, names, choices, shifts, crops; each names the setting at fault."""

import dataclasses
import math
from numbers import Integral
from typing import Any

from skipshift.errors import ArgumentError
from skipshift.names import (
    LARGEST_LABEL,
    PAPER_SHIFTS,
    SEGMENTATION_METRICS,
    parse_shift,
    shown,
)


def check_numbers(spec: Any) -> None:
    """Raise `ArgumentError` for the first field that is NaN, has NaN in it or should be whole."""
    for setting in dataclasses.fields(spec):
        value = getattr(spec, setting.name)
        if setting.type in (int, int | None) and not isinstance(value, Integral | None):
            raise ArgumentError(f"{setting.name} must be a whole number, got {value}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and math.isnan(number):
                raise ArgumentError(f"{setting.name} must be a number, got nan")


def check_least(spec: object, least: int, *names: str) -> None:
    """Raise `ArgumentError` for the first of these fields that is below ``least``."""
    for name in names:
        if not getattr(spec, name) >= least:
            raise ArgumentError(f"{name} must be at least {least}, got {getattr(spec, name)}")


def check_most(spec: object, most: int, *names: str) -> None:
    """Raise `ArgumentError` for the first of these fields that is above ``most``."""
    for name in names:
        if getattr(spec, name) > most:
            raise ArgumentError(f"{name} must be at most {most}, got {getattr(spec, name)}")


def check_fractions(spec: object, *names: str) -> None:
    """Raise `ArgumentError` for the first of these fields that is not in [0, 1)."""
    for name in names:
        if not 0 <= getattr(spec, name) < 1:
            raise ArgumentError(f"{name} must be in [0, 1), got {getattr(spec, name)}")


def check_names(name: str, given: tuple[str, ...]) -> None:
    """Raise `ArgumentError` unless the names in a field are distinct and can be shown."""
    if odd := [text for text in given if not text.isprintable()]:
        raise ArgumentError(f"{name}: {odd[0]!r} has characters that cannot be shown")
    if not all(given) or len(set(given)) != len(given):
        raise ArgumentError(f"{name} must be distinct names, none empty, got {shown(given)}")


def check_choices(
    name: str, kind: str, given: tuple[str, ...], known: tuple[str, ...], least: int = 1
) -> None:
    """Raise `ArgumentError` unless a field has ``least`` known names or more, each once.

    >>> check_choices("pooling", "pooling", ("max",), ("average", "none"))
    Traceback (most recent call last):
    skipshift.errors.ArgumentError: pooling: unknown pooling max; choose from average, none
    """
    choices = ", ".join(known)
    if unknown := [text for text in given if text not in known]:
        raise ArgumentError(f"{name}: unknown {kind} {unknown[0]}; choose from {choices}")
    if len(given) < least or len(set(given)) != len(given):
        raise ArgumentError(
            f"{name} must be one or more of {choices}, each once, got {shown(given)}"
        )


def check_shifts(names: tuple[str, ...]) -> None:
    """Raise `ArgumentError` unless every name is another shift, such as ``brightness:0.75``."""
    for shift in names:
        if parse_shift(shift) is None:
            kinds = ", ".join(PAPER_SHIFTS)
            raise ArgumentError(f"shift {shift!r} must be KIND:FACTOR with KIND one of {kinds}")
    check_distinct("shifts", names)


def check_distinct(name: str, given: tuple[str, ...]) -> None:
    """Raise `ArgumentError` if a field names a domain or shift twice, as ``0.5`` and ``0.50`` do.

    >>> check_distinct("shifts", ("contrast:0.5", "contrast:0.50"))
    Traceback (most recent call last):
    skipshift.errors.ArgumentError: shifts must be distinct, got contrast:0.5 and contrast:0.50
    """
    known: dict[object, str] = {}
    for text in given:
        key = parse_shift(text) or text
        if key in known:
            raise ArgumentError(f"{name} must be distinct, got {known[key]} and {text}")
        known[key] = text


def check_metrics(names: tuple[str, ...], tolerance: float) -> None:
    """Raise `ArgumentError` unless metrics are known, each named once, and the tolerance >= 0."""
    check_choices("metrics", "metric", names, SEGMENTATION_METRICS, least=0)
    if not tolerance >= 0:
        raise ArgumentError(f"tolerance must be at least 0, got {tolerance}")


def check_ignore(ignore: int | None, classes: int | None = None) -> None:
    """Raise `ArgumentError` unless a value to ignore is None, background or no class of a mask."""
    if ignore is None:
        return
    if not 0 <= ignore <= LARGEST_LABEL:
        raise ArgumentError(f"ignore must be a mask value in 0..{LARGEST_LABEL}, got {ignore}")
    if classes is not None and 0 < ignore < classes:
        raise ArgumentError(
            f"ignore must be 0 or a mask value that is no class, got {ignore} of {classes} classes"
        )


def check_crop(name: str, side: int | None) -> None:
    """Raise `ArgumentError` unless a side is a positive multiple of 32, or None for no crop."""
    if side is not None and (side < 32 or side % 32):
        raise ArgumentError(f"{name} must be a multiple of 32, got {side}")


def check_take(taken: str | None) -> None:
    """Raise `ArgumentError` unless a remedy is named as REMEDY@PLACE, or none is."""
    if taken is not None and not all(taken.partition("@")):
        raise ArgumentError(f"take must be REMEDY@PLACE, got {taken!r}")
