"""Help texts from docstrings: wrapped by the terminal alone, plain defaults, an example."""

import inspect
import re
from typing import TYPE_CHECKING, Any

from cyclopts.help import DefaultFormatter, HelpPanel

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

_EXAMPLE = re.compile(r"\n\s*\nExamples?:?\s+(?:-+\s+)?")

LISTS = (
    "An option of several values can be repeated or take commas: --classes a,b is --classes a "
    r"--classes b, and \, is a comma within a value."
)


class ReflowedHelp(DefaultFormatter):
    """Wraps the docstring of a field once: cyclopts would keep the line breaks of the source."""

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: HelpPanel) -> None:
        """Print a panel of commands or options."""
        for entry in panel.entries:
            text = getattr(entry.description, "primary_renderable", None)
            if text is not None:
                text.plain = reflow(text.plain)
        # cyclopts shows an empty default too
        shown = [entry.copy(default=entry.default or None) for entry in panel.entries]
        super().__call__(console, options, panel.copy(entries=shown))


def reflow(text: str) -> str:
    r"""Join the lines of each paragraph.

    >>> reflow('''One sentence
    ...     goes on.
    ...
    ... Another.''')
    'One sentence goes on.\n\nAnother.'
    """
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text))


def split_example(docstring: str | None) -> tuple[str, str]:
    """Split a docstring into its text and the command of its last paragraph, ``Example: ...``.

    >>> split_example('''Does it.
    ...
    ... Example: skipshift do it''')
    ('Does it.', 'skipshift do it')
    """
    text, *rest = _EXAMPLE.split(inspect.cleandoc(docstring or ""), maxsplit=1)
    return reflow(text), " ".join(" ".join(rest).split())


def show_default(value: Any) -> str:
    """Show a default as it would be typed; nothing for an option that is off or empty.

    >>> show_default(("average", "none")), show_default(False), show_default(1.0)
    ('average,none', '', '1')
    """
    if value is None or value is False or value == ():
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
