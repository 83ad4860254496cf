"""The shell of every page: style and script, and a policy that allows nothing else."""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from skipshift.page.outside import Names, Plain
from skipshift.page.wording import chance, signed
from skipshift.records import write_bytes

STYLE, SCRIPT = "page.css", "page.js"


def render(template: str, names: Names, **context: Any) -> str:
    """Fill a template of this folder.

    Text is escaped, and names that ``names`` has cut show their whole on hover. In attributes the
    filter ``plain`` keeps a text free of markup.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("skipshift.page", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=names.finalize,
    )
    environment.filters |= {"signed": signed, "chance": chance, "plain": Plain}
    return environment.get_template(template).render(
        style=_source(STYLE), script=_source(SCRIPT), policy=policy(), **context
    )


def write_page(path: Path, template: str, names: Names, **context: Any) -> None:
    """Write a page that opens from disk and asks no network for anything."""
    write_bytes(path, render(template, names, **context).encode())


def policy() -> str:
    """Content-Security-Policy of all pages: pictures within the page, this style, this script."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(_source(STYLE))}'; "
        f"script-src '{_hash(_source(SCRIPT))}'; base-uri 'none'; form-action 'none'"
    )


def data_uri(kind: str, content: bytes) -> str:
    """Hold a file's content in an address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@cache
def _source(name: str) -> str:
    return files("skipshift.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
