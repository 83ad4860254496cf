"""Errors that a user can fix: a wrong file or a wrong argument."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SkipshiftError(Exception):
    """A file or folder of the user is wrong: the message names it, what is wrong and what to do."""


class ArgumentError(SkipshiftError, ValueError):
    """An argument or setting is wrong: the message names it, the rule and the value given."""


class SkipshiftWarning(UserWarning):
    """What was found in a network or a file, and is no error, but changes what the results say."""


def unreadable(path: Path | str, kind: str, error: Exception) -> SkipshiftError:
    """Create the error that says in one line why ``path`` could not be read as a ``kind``.

    >>> str(unreadable("a.json", "JSON", FileNotFoundError(2, "No such file", "a.json")))
    'a.json: does not exist'
    """
    if isinstance(error, FileNotFoundError):
        return SkipshiftError(f"{path}: does not exist")
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    return SkipshiftError(f"{path}: cannot be read as {kind}: {reason}")


@contextmanager
def naming(files: str) -> Iterator[None]:
    """Raise an `ArgumentError` of the block as a `SkipshiftError` that names the files behind it.

    >>> with naming("net on images"):
    ...     raise ArgumentError("images must have 3 channels, got 1")
    Traceback (most recent call last):
    skipshift.errors.SkipshiftError: net on images: images must have 3 channels, got 1
    """
    try:
        yield
    except ArgumentError as error:
        raise SkipshiftError(f"{files}: {error}") from error
