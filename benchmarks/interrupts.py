"""Interrupt a process at a named step: the audit events of `skipshift.records`.

A step is an event and a file, such as ``written last.ckpt`` (the checkpoint of an epoch) or
``half_written run.json``.
"""

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_armed: list[Callable[[str], None]] = []


class PowerLoss(BaseException):
    """What `power_loss` raises: nothing on its way up takes it for the failure of a run."""


@contextlib.contextmanager
def power_loss(step: str, count: int = 1) -> Iterator[None]:
    """Raise `PowerLoss` when a step is reached for the ``count``-th time in this context."""
    arm(step, count, _raise)
    try:
        yield
    finally:
        _armed.clear()


def arm(step: str, count: int, act: Callable[[], None]) -> None:
    """Act when a step is reached for the ``count``-th time; later than that nothing happens."""
    left = count

    def reached(now: str) -> None:
        nonlocal left
        left -= now == step
        if left == 0:
            _armed.clear()
            act()

    _install()
    _armed.append(reached)


@functools.cache
def _install() -> None:
    sys.addaudithook(_listen)  # once: a hook cannot be removed


def kill_group() -> None:
    """Kill this process and those that share its group, as a loss of power would."""
    os.killpg(0, signal.SIGKILL)


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if _armed and event.startswith("skipshift."):
        step = f"{event.removeprefix('skipshift.')} {Path(str(arguments[0])).name}"
        for reached in _armed:
            reached(step)


def _raise() -> None:
    raise PowerLoss
