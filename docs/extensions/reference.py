"""The reference, written from the code before each build: functions, commands, settings, tables.

Nothing of it is typed twice: names come from ``skipshift.__all__``, their text from docstrings,
commands from the objects that print ``--help``, columns from `records.TABLE_COLUMNS`.
"""

import dataclasses
import inspect
import io
import re
from collections.abc import Iterator
from typing import Any

from cyclopts import App
from docutils import nodes
from rich.console import Console
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from tools import house

import skipshift
from skipshift.cli.help_text import reflow
from skipshift.cli.main import app as program
from skipshift.records import CARRIED, IMAGE_SCORES, PROFILE_LAYERS, REMEDIED, TABLE_COLUMNS

FOLDER = house.ROOT / "docs/reference"
TITLES = {
    "ground": "Errors and shifts",
    "data": "Images, slides and sets",
    "networks": "Networks and layers",
    "statistics": "Distances",
    "profile": "Profiles and fingerprints",
    "patching": "Activation patching",
    "estimate": "Estimates without masks",
    "remedies": "Remedies and diagnosis",
    "study": "Training and studies",
}
"""Title of each room's page, in order."""

OPTION = re.compile(r"(?<![`\w-])(--[a-z][a-z-]*)")

_ARRAY = re.compile(r"~numpy\.ndarray\[tuple\[.*?\], ~numpy\.dtype\[.*?\]\]")

SETTINGS = [name for name in skipshift.__all__ if name.endswith("Spec")]


def rooms() -> dict[str, list[str]]:
    """Public names by the room of their module, without settings."""
    stub = (house.SOURCE / "__init__.pyi").read_text(encoding="utf-8")
    found: dict[str, list[str]] = {room: [] for room in TITLES}
    for module, name in re.findall(r"from \.([\w.]*) import (\w+)", stub):
        if name not in SETTINGS:
            found[house.room_of(module)].append(name)
    return found


def directive(name: str) -> str:
    """Write the directive that documents a public name."""
    value, full = getattr(skipshift, name), f"skipshift.{name}"
    if isinstance(value, type):
        return f".. autoclass:: {full}\n   :members:\n"
    if callable(value):
        return f".. autofunction:: {full}\n"
    return f".. automodule:: {full}\n   :members:\n"


def api_page(title: str, names: list[str]) -> str:
    """Write the page of one room."""
    body = "\n".join(map(directive, names))
    return f"# {title}\n\n{rst(body)}\n"


def rst(text: str) -> str:
    """Wrap directives of reStructuredText, in which autodoc writes."""
    return f"```{{eval-rst}}\n.. py:currentmodule:: skipshift\n\n{text.rstrip()}\n```"


def api_index(pages: dict[str, list[str]]) -> str:
    """Write all public names with the first line of each, by page."""
    parts = ["# Python\n\nEach name is imported as `skipshift.NAME`."]
    for room, names in pages.items():
        parts.append(f"## [{TITLES[room]}]({room}.md)\n\n{listed(names)}")
    parts.append(f"## [Settings](../settings.md)\n\n{listed(SETTINGS)}")
    tree = "\n".join(pages)
    return "\n\n".join(parts) + f"\n\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n"


def listed(names: list[str]) -> str:
    """Write names with the first sentence of their docstrings, as a table."""
    rows = ["| name | |", "|---|---|"]
    for name in names:
        text = inspect.getdoc(getattr(skipshift, name)) or ""
        rows.append(f"| {{py:obj}}`~skipshift.{name}` | {reflow(text.partition(chr(10) * 2)[0])} |")
    return "\n".join(rows)


def settings_page() -> str:
    """Write every public dataclass of settings with its fields."""
    parts = [
        "# Settings\n\nEach is a frozen dataclass: the same object is the argument of a function, "
        "the options of a command, and a part of a study's YAML file."
    ]
    parts += [
        f"## {name}\n\n" + rst(f".. autoclass:: skipshift.{name}(**settings)\n   :members:")
        for name in SETTINGS
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Escape what Markdown would read; options are code."""
    text = re.sub(r"([\\`*_\[\]<>$~#|{}])", r"\\\1", text)
    return OPTION.sub(r"`\1`", text)


class MarkdownHelp:
    """Writes the help of a command as Markdown: cyclopts calls it with what it would print."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def render_usage(self, _console: Any, _options: Any, usage: Any) -> None:
        """Write the usage line."""
        self.parts.append(f"```text\n{str(usage).strip().removeprefix('Usage: ')}\n```")

    def render_description(self, _console: Any, _options: Any, description: Any) -> None:
        """Write what the command does."""
        self.parts.append(escaped(reflow(plain(description))))

    def __call__(self, _console: Any, _options: Any, panel: Any) -> None:
        """Write a panel of options; that of commands has pages of its own."""
        if panel.format == "parameter":
            self.parts.append(f"## {panel.title}")
            self.parts += map(self._entry, panel.entries)

    def _entry(self, entry: Any) -> str:
        text = escaped(reflow(plain(entry.description))).replace("\n\n", "\n\n  ")
        facts = ["required"] if entry.required else []
        facts += [f"one of {', '.join(entry.choices)}"] if entry.choices else []
        facts += [f"default {plain(entry.default)}"] if entry.default else []
        told = f" *{escaped('; '.join(facts)).capitalize()}.*" if facts else ""
        names = ", ".join(f"`{name}`" for name in entry.display_labels_with_metavar)
        return f"{names}\n: {text}{told}"


def plain(text: Any) -> str:
    """Text of what cyclopts hands to a formatter."""
    text = getattr(text, "primary_renderable", text)
    return str(getattr(text, "plain", text))


def commands(parent: App = program, chain: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Words of each command that does something, such as ``("prepare", "mms")``."""
    for name in parent:
        if not name.startswith("-"):
            inner = (*chain, name)
            if parent[name].default_command is None:
                yield from commands(parent[name], inner)
            else:
                yield inner


def command_page(words: tuple[str, ...]) -> str:
    """Write the page of one command, with the text and the example of its ``--help``."""
    shown, console = MarkdownHelp(), Console(file=io.StringIO())
    program.help_formatter = shown
    program.help_print(list(words), console=console)
    command = program
    for word in words:
        command = command[word]
    example = str(command.help_epilogue).removeprefix("Example:").strip()
    parts = [
        f"# skipshift {' '.join(words)}",
        *shown.parts,
        "## Example",
        f"```bash\n{example}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def command_index(pages: dict[tuple[str, ...], str]) -> str:
    """Write all commands with the first sentence of each."""
    rows = [
        f"| [`{' '.join(words)}`]({'-'.join(words)}.md) | {first_sentence(text)} |"
        for words, text in pages.items()
    ]
    tree = "\n".join(f"{' '.join(words)} <{'-'.join(words)}>" for words in pages)
    return (
        "# Commands\n\nThe texts are those of `skipshift COMMAND --help`. A wrong argument is exit "
        "code 2, a wrong file exit code 1, and one line either way.\n\n| command | |\n|---|---|\n"
        + "\n".join(rows)
        + f"\n\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n"
    )


def first_sentence(page: str) -> str:
    """First sentence of a command's description."""
    return re.split(r"(?<=\.)\s", page.split("\n\n")[2], maxsplit=1)[0]


def tables_page() -> str:
    """Write the columns of every table, by file."""
    shared = {
        IMAGE_SCORES: "`scores.csv` of `score`",
        PROFILE_LAYERS: "`layers.csv` of `profile`",
        CARRIED: "`carry.csv` of a study",
        REMEDIED: "`remedies.csv` of a study",
    }
    rows = [
        f"| {shared.get(name, f'`{name}`')} | {', '.join(f'`{column}`' for column in columns)} |"
        for name, columns in sorted(TABLE_COLUMNS.items())
    ]
    return "| table | columns |\n|---|---|\n" + "\n".join(rows) + "\n"


def pages() -> Iterator[tuple[str, str]]:
    """Yield path and text of every page."""
    found = rooms()
    yield "api/index.md", api_index(found)
    for room, names in found.items():
        yield f"api/{room}.md", api_page(TITLES[room], names)
    yield "settings.md", settings_page()
    texts = {words: command_page(words) for words in commands()}
    yield "commands/index.md", command_index(texts)
    for words, text in texts.items():
        yield f"commands/{'-'.join(words)}.md", text
    yield "_tables.md", tables_page()


def write(_app: Sphinx) -> None:
    """Write what has changed, and remove what is no more."""
    made = {FOLDER / name: text for name, text in pages()}
    for folder in ("api", "commands"):
        for old in set((FOLDER / folder).glob("*.md")) - set(made):
            old.unlink()
    for path, text in made.items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def public(app: Sphinx, env: BuildEnvironment, node: Any, content: nodes.Node) -> Any:
    """Resolve a name as users import it: `skipshift.profile.profile.Profile` is `Profile`."""
    name = node.get("reftarget", "").rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in skipshift.__all__:
        return None
    home, full = env.get_domain("py"), f"skipshift.{name}"
    return home.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, content)


def docstring(_app: Sphinx, what: str, *given: Any) -> None:
    """Prepare the lines of a docstring for napoleon, which comes after."""
    lines = given[-1]
    lines[:] = [OPTION.sub(r"``\1``", line) for line in lines]
    if what == "attribute":
        # napoleon would take what stands before a colon of the first line for a type
        lines[:0] = ["..", ""]


def short_types(app: Sphinx, *_given: Any) -> None:
    """Shorten types before they are written: of arrays, and of dataclasses, whose fields follow."""
    for name, types in app.env.current_document.autodoc_annotations.items():
        if dataclasses.is_dataclass(getattr(skipshift, name.rpartition(".")[2], None)):
            types.clear()
        types.update({key: _ARRAY.sub("~numpy.ndarray", told) for key, told in types.items()})


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for them."""
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", docstring, priority=400)
    app.connect("object-description-transform", short_types, priority=400)
    app.connect("missing-reference", public)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
