"""The command line: parses words into a spec, runs its command, reports an error in one line."""

import contextlib
import logging
import os
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import MISSING, fields
from typing import Annotated, Any, TextIO, TypeVar

from cyclopts import App, Argument, CycloptsError, Parameter

from skipshift.cli import commands
from skipshift.cli.help_text import LISTS, ReflowedHelp, show_default, split_example
from skipshift.cli.inputs import COMMAND, check_out
from skipshift.cli.words import explain, prepare_words, split_pairs, with_dashes
from skipshift.data.checks.findings import CheckError
from skipshift.errors import ArgumentError, SkipshiftError, SkipshiftWarning
from skipshift.networks.allocator import keep_memory

T = TypeVar("T")

DEBUG = "--debug"
_LINE_EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a file is wrong, 2 an argument is wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in words
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, category, *rest: _show_warning(
            with_dashes(_one_line(message), _arguments(words)), category, *rest
        )
        COMMAND.set(shlex.join(["skipshift", *words]))
        code = _run([word for word in words if word != DEBUG], debug)
    sys.exit(code)


def _run(words: list[str], debug: bool) -> int:
    keep_memory()
    try:
        words = split_pairs(words, _arguments(words))
        app(words or ["--help"], exit_on_error=False, print_error=False)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to resume", 130)
    except (CycloptsError, ArgumentError) as error:
        if debug:
            traceback.print_exc()
        reason = explain(error)
        if isinstance(error, ArgumentError):
            reason = with_dashes(reason, _arguments(words))
        return _fail(f"{reason} {_see(words)}", 2)
    except CheckError as error:
        print(error.report)
        return _fail(_one_line(error), 1)
    except (SkipshiftError, OSError) as error:
        if debug:
            traceback.print_exc()
        return _fail(_with_options(error, words), 1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        reason = f"{type(error).__name__}: {_one_line(error)}"
        return _fail(f"unexpected {reason} (add {DEBUG} to see where)", 1)
    return 0


def _with_options(error: BaseException, words: list[str]) -> str:
    """Say what is wrong with a file; of an argument behind it, as the command line names it."""
    reason, cause = _one_line(error), error.__cause__
    if not isinstance(cause, ArgumentError):
        return reason
    said = _one_line(cause)
    own = with_dashes(said, _arguments(words))
    more = "" if own == said else f" {_see(words)}"
    return f"{reason.removesuffix(said)}{own}{more}"


def _see(words: list[str]) -> str:
    """Name the help to read."""
    command = " ".join(("skipshift", *app.parse_commands(words)[0]))
    return f"(see {command} --help)"


def _arguments(words: list[str]) -> Sequence[Argument]:
    """Arguments of the command that the words call; none for the program itself."""
    chain, apps, _ = app.parse_commands(words)
    # --help and --version are commands of cyclopts, whose arguments are not ours
    named = bool(chain) and chain[-1][0] != "-" and apps[-1].default_command is not None
    return apps[-1].assemble_argument_collection() if named else ()


def _fail(message: str, code: int) -> int:
    print(f"skipshift: {message}", file=sys.stderr)
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,  # noqa: ARG001
    file: TextIO | None = None,
    line: str | None = None,  # noqa: ARG001
) -> None:
    """Print a warning in one line, without the line of code that gave it."""
    if "site-packages" in filename and not issubclass(category, SkipshiftWarning):
        return  # of a library to its own developers
    kind = "note" if issubclass(category, SkipshiftWarning) else "warning"
    (file or sys.stderr).write(f"skipshift: {kind}: {_one_line(message)}\n")


def _one_line(error: BaseException | str) -> str:
    """Join lines, and escape what a terminal would obey."""
    text = " ".join(str(error).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield the items behind a progress bar on a terminal, or plain lines elsewhere."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, label, total, leave=True, dynamic_ncols=True)
        return
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last > _LINE_EVERY:
            last = time.monotonic()
            print(f"{label}: {done} of {total or '?'}", file=sys.stderr, flush=True)
        yield item
    print(f"{label}: done", file=sys.stderr, flush=True)


def _version() -> str:
    from importlib.metadata import version

    return version("skipshift")


app = App(
    name="skipshift",
    help="Find where domain shift enters a segmentation network, what to change, and how sure.",
    help_epilogue=f"Example:\n  skipshift demo out/demo\n\n{LISTS}\n\n{DEBUG} shows where an error "
    "comes from.",
    version=_version,
    default_parameter=Parameter(negative=(), show_default=show_default),
    suppress_keyboard_interrupt=False,
    config=prepare_words,
    # markup would swallow the stars of a pattern
    help_format="plaintext",
    help_formatter=ReflowedHelp(),
)


def _command(run: Callable[..., str]) -> Callable[[Any], None]:
    """Make a command of a function of one spec."""
    kind = run.__annotations__["spec"]

    def command(spec: Any) -> None:
        if hasattr(spec, "running"):
            check_out(spec.out)
        with _spoken(getattr(getattr(spec, "running", None), "verbose", False)):
            text = run(spec, show)
        try:
            print(text, flush=True)
        except BrokenPipeError:
            # who reads has seen enough; what is left must not fail when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    command.__annotations__["spec"] = Annotated[kind, Parameter(name="*")]
    if all(f.default is not MISSING or f.default_factory is not MISSING for f in fields(kind)):
        command.__defaults__ = (kind(),)  # cyclopts asks for one where no word is required
    return command


@contextlib.contextmanager
def _spoken(verbose: bool) -> Iterator[None]:
    """Print what the library logs, as long as the context lasts: all of it, or warnings."""
    log = logging.getLogger("skipshift")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("skipshift: %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _add(parent: App, name: str, run: Callable[..., str]) -> None:
    """Add a command; the docstrings of its spec are its help, their example comes last."""
    text, example = split_example(run.__annotations__["spec"].__doc__)
    epilogue = f"Example:\n  {example}" if example else ""
    parent.command(App(name=name, help=text, help_epilogue=epilogue, default_command=_command(run)))


_prepare = App(
    name="prepare",
    help="Prepare a public clinical data set, or any folders, as a manifest.",
    help_epilogue="Example:\n  skipshift prepare folder data/ out/set",
)
app.command(_prepare)

for _reader in (
    commands.prepare_mms,
    commands.prepare_folder,
    commands.prepare_merge,
    commands.prepare_scc,
    commands.prepare_mitosis,
):
    _add(_prepare, _reader.__name__.removeprefix("prepare_"), _reader)

for _function in (
    commands.demo,
    commands.synth,
    commands.register,
    commands.check,
    commands.study,
    commands.evaluate,
    commands.profile,
    commands.fingerprint,
    commands.carry,
    commands.remedy,
    commands.diagnose,
    commands.estimate,
    commands.score,
    commands.export,
    commands.report,
    commands.doctor,
):
    _add(app, _function.__name__, _function)

app.register_install_completion_command(
    help="Complete commands and options in this shell (bash, zsh, fish, PowerShell): writes a "
    "script, and a line in the shell's startup file."
)
