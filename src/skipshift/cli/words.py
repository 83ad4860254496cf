"""The words of a command line: lists, whole numbers, and errors in words about them in one line."""

import re
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from cyclopts import (
    App,
    Argument,
    ArgumentCollection,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnusedCliTokensError,
)

from skipshift.errors import ArgumentError

_COMMA = re.compile(r"(?<!\\),")


def prepare_words(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    r"""Split lists at commas (``\,`` is a comma within a value); check whole numbers.

    `ArgumentError` for a fraction where a whole number belongs, which cyclopts would round.
    """
    for argument in arguments:
        kinds = _members(argument.hint)
        if any(get_origin(kind) is tuple and ... in get_args(kind) for kind in kinds):
            argument.tokens = [
                token.evolve(value=value.replace(r"\,", ","))
                for token in argument.tokens
                for value in ([token.value] if token.keys else _COMMA.split(token.value))
            ]
        if int in kinds:
            for token in argument.tokens:
                if re.fullmatch(r"[-+]?\d*\.\d*(e.*)?", token.value):
                    raise ArgumentError(_must_be(argument, token.value))


def explain(error: Exception) -> str:
    """Say in one line what is wrong; cyclopts' own words where they are plain enough."""
    argument = getattr(error, "argument", None)
    if isinstance(error, MissingArgumentError) and argument is not None:
        return f"{_label(argument)} {'is missing' if argument.required else 'needs a value'}"
    if isinstance(error, CoercionError) and argument is not None and error.token is not None:
        return _must_be(argument, error.token.value)
    if isinstance(error, UnusedCliTokensError):
        return f"too many arguments: {' '.join(error.unused_tokens or ())}"
    text = " ".join(str(error).split())
    return text.removesuffix(".") if isinstance(error, CycloptsError) else text


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _label(argument: Argument) -> str:
    """Name of an argument as its help has it: NET, or --bins."""
    return argument.name if argument.index is None else argument.name.lstrip("-").upper()


def _must_be(argument: Argument, value: str) -> str:
    kinds: list[str] = []
    for kind in _members(argument.hint):
        if get_origin(kind) is Literal:
            kinds += map(str, get_args(kind))
        elif kind is not type(None):
            kinds.append({int: "a whole number", float: "a number"}.get(kind, kind.__name__))
    *most, last = kinds
    choices = f"{', '.join(most)} or {last}" if most else last
    return f"{_label(argument)} must be {choices}, got {value}"
