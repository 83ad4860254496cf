"""How long work tells where it is: the library is silent, the command line shows bars or lines."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Wraps an iterable and shows how far its consumer has come."""

    def __call__(self, items: Iterable[T], label: str, total: int | None = None) -> Iterable[T]:
        """Yield the items unchanged."""
        ...


def silent(items: Iterable[T], label: str, total: int | None = None) -> Iterable[T]:  # noqa: ARG001
    """Show nothing."""
    return items
