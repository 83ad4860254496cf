"""The words of a command line: lists, whole numbers, and errors in words about them in one line."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from cyclopts import (
    App,
    Argument,
    ArgumentCollection,
    ArgumentOrderError,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnusedCliTokensError,
)

from skipshift.errors import ArgumentError

_COMMA = re.compile(r"(?<!\\),")


def prepare_words(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    r"""Split lists at commas (``\,`` is a comma within a value); check whole numbers.

    `ArgumentError` for an empty value, NaN, or a fraction where a whole number belongs, which
    cyclopts would round.
    """
    for argument in arguments:
        kinds = _members(argument.hint)
        if any(get_origin(kind) is tuple and ... in get_args(kind) for kind in kinds):
            argument.tokens = [
                token.evolve(value=value.replace(r"\,", ","))
                for token in argument.tokens
                for value in ([token.value] if token.keys else _COMMA.split(token.value))
            ]
        for token in argument.tokens:
            if not token.value and bool not in kinds:
                raise ArgumentError(f"{label_of(argument)} must not be empty")
            if float in kinds and token.value.lower().lstrip("+-") == "nan":
                raise ArgumentError(_must_be(argument, token.value))
        if int in kinds:
            for token in argument.tokens:
                if re.fullmatch(r"[-+]?\d*\.\d*(e.*)?", token.value):
                    raise ArgumentError(_must_be(argument, token.value))


def split_pairs(words: list[str], arguments: Sequence[Argument]) -> list[str]:
    """Split the values of options of a fixed number of values at commas: 1,100 is 1 100.

    `ArgumentError` if an option has fewer values.
    """
    counts = {
        name: len(get_args(argument.hint))
        for argument in arguments
        if get_origin(argument.hint) is tuple and ... not in get_args(argument.hint)
        for name in argument.names
    }
    return list(_split_pairs(words, counts))


def _split_pairs(words: list[str], counts: Mapping[str, int]) -> Iterator[str]:
    rest = list(words)
    while rest:
        option, equals, value = rest[0].partition("=")
        number = counts.get(option)
        if number is None:
            yield rest.pop(0)
            continue
        rest[:1] = [value] if equals else []
        values = _COMMA.split(rest.pop(0)) if rest and "," in rest[0] else []
        while rest and len(values) < number and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if len(values) != number:
            wanted = {2: "two"}.get(number, number)
            raise ArgumentError(f"{option} needs {wanted} values, got {len(values)}")
        yield from (option, *values)


_ASKS = "give|set|choose|add|leave|use|check|need|needs"
"""Verbs before the name of a field that a message asks for."""


def with_dashes(message: str, arguments: Sequence[Argument]) -> str:
    """Name the fields in a message as the command line does.

    ``batch_size must be ...`` becomes ``--batch-size must be ...``, and so do fields that follow
    with commas, "and" or "or", those that a message asks for (``give activation none``), and
    ``groups``, which a folder has by ``--group``.
    """
    labels = {argument.field_info.name: label_of(argument) for argument in arguments}
    if "group" in labels:
        labels["groups"] = labels["group"]
    if not labels:
        return message
    name = rf"(?<![\w-])(?:{'|'.join(sorted(map(re.escape, labels), key=len, reverse=True))})\b"
    several = rf"{name}(?:(?:, | and | or ){name})*"
    start = re.match(rf"{several}(?: needs? {name})?", message)
    end = 0 if start is None else start.end()
    head = re.sub(name, lambda found: labels[found[0]], message[:end])
    asked = rf"(?<=\b)({_ASKS}) ({several})(?! of)"
    rest = re.sub(
        asked,
        lambda found: f"{found[1]} {re.sub(name, lambda one: labels[one[0]], found[2])}",
        message[end:],
    )
    return head + rest


def explain(error: Exception) -> str:
    """Say in one line what is wrong; cyclopts' own words where they are plain enough."""
    argument = getattr(error, "argument", None)
    if isinstance(error, MissingArgumentError) and argument is not None:
        return f"{label_of(argument)} {'is missing' if argument.required else 'needs a value'}"
    if isinstance(error, CoercionError) and argument is not None and error.token is not None:
        return _must_be(argument, error.token.value)
    if isinstance(error, UnknownCommandError) and error.app is not None and error.unused_tokens:
        return _unknown_command(error.unused_tokens[0], [n for n in error.app if n[0] != "-"])
    if isinstance(error, ArgumentOrderError) and argument is not None:
        given = error.prior_positional_or_keyword_supplied_as_keyword_arguments
        names = [first.name.lstrip("-").upper() for first in given]
        options = [first.name for first in given]
        return f"{', '.join(names)} must be given by position, without {', '.join(options)}"
    if isinstance(error, UnusedCliTokensError):
        return f"too many arguments: {' '.join(error.unused_tokens or ())}"
    text = " ".join(str(error).split())
    return text.removesuffix(".") if isinstance(error, CycloptsError) else text


def _unknown_command(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    guess = f'Did you mean "{near[0]}"? ' if near else ""
    return f'Unknown command "{word}". {guess}Commands are {", ".join(known)}'


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def label_of(argument: Argument) -> str:
    """Return the name of an argument as its help has it: NET, or --bins."""
    return argument.name if argument.index is None else argument.name.lstrip("-").upper()


def _must_be(argument: Argument, value: str) -> str:
    if argument.hint is bool:
        return f"{label_of(argument)} takes no value, got {value}"
    kinds: list[str] = []
    for kind in _members(argument.hint):
        if get_origin(kind) is Literal:
            kinds += map(str, get_args(kind))
        elif get_origin(kind) is tuple:
            kinds.append("whole numbers" if int in get_args(kind) else "numbers")
        elif kind is not type(None):
            kinds.append({int: "a whole number", float: "a number"}.get(kind, kind.__name__))
    *most, last = kinds
    choices = f"{', '.join(most)} or {last}" if most else last
    return f"{label_of(argument)} must be {choices}, got {value}"
