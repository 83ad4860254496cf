"""The command line: parses into a spec, runs its command, and says what went wrong in one line."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

from cyclopts import App, CycloptsError, Parameter
from tqdm import tqdm

from skipshift.cli import commands
from skipshift.data.checks.findings import CheckError
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.networks.allocator import keep_memory

T = TypeVar("T")

DEBUG = "--debug"
_LINE_EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""

app = App(
    name="skipshift",
    help="Find where domain shift enters a segmentation network, what to change, and how sure.",
    version=version("skipshift"),
    default_parameter=Parameter(negative=()),
    # markup would swallow the stars of a pattern
    help_format="plaintext",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a file is wrong, 2 an argument is wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in words
    sys.exit(_run([word for word in words if word != DEBUG], debug))


def _run(words: list[str], debug: bool) -> int:
    keep_memory()
    try:
        app(words or ["--help"], exit_on_error=False, print_error=False)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on where it stopped", 130)
    except (CycloptsError, ArgumentError) as error:
        if debug:
            traceback.print_exc()
        return _fail(f"{_one_line(error)} (see skipshift --help)", 2)
    except CheckError as error:
        print(error.report)
        return _fail(_one_line(error), 1)
    except (SkipshiftError, OSError) as error:
        if debug:
            traceback.print_exc()
        return _fail(_one_line(error), 1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        reason = f"{type(error).__name__}: {_one_line(error)}"
        return _fail(f"unexpected {reason} (add {DEBUG} to see where)", 1)
    return 0


def _fail(message: str, code: int) -> int:
    print(f"skipshift: {message}", file=sys.stderr)
    return code


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def show(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield the items behind a progress bar on a terminal, or plain lines elsewhere."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from tqdm(items, label, total, leave=True, dynamic_ncols=True)
        return
    told = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - told > _LINE_EVERY:
            told = time.monotonic()
            print(f"{label}: {done} of {total or '?'}", file=sys.stderr, flush=True)
        yield item
    print(f"{label}: done", file=sys.stderr, flush=True)


def _command(run: Callable[..., str]) -> Callable[[Any], None]:
    """Make a command of a function of one spec; the spec's docstrings are its help."""
    kind = run.__annotations__["spec"]

    def command(spec: Any) -> None:
        told = run(spec, show)
        try:
            print(told, flush=True)
        except BrokenPipeError:
            # who reads has seen enough; what is left must not fail when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    command.__annotations__["spec"] = Annotated[kind, Parameter(name="*")]
    command.__doc__ = kind.__doc__
    return command


_prepare = App(
    name="prepare", help="Prepare a public clinical data set, or any folders, as a manifest."
)
app.command(_prepare)

for _reader in (
    commands.prepare_mms,
    commands.prepare_folder,
    commands.prepare_scc,
    commands.prepare_mitosis,
):
    _prepare.command(_command(_reader), name=_reader.__name__.removeprefix("prepare_"))

for _run_spec in (
    commands.demo,
    commands.synth,
    commands.register,
    commands.check,
    commands.study,
    commands.evaluate,
    commands.profile,
    commands.carry,
    commands.report,
):
    app.command(_command(_run_spec), name=_run_spec.__name__)

app["profile"].usage = """\
Usage: skipshift profile [OPTIONS] NET REFERENCE SHIFTED OUT
       skipshift profile [OPTIONS] NET IMAGES --fingerprint OUT.npz"""
