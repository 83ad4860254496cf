"""Write the answers into the pages of docs/findings, between two marks."""

import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from benchmarks.findings import answers, predictors
from benchmarks.findings.answers import Answer
from benchmarks.findings.tables import TABLES

PAGES = TABLES.parent

ANSWERS: Mapping[str, Callable[[], Answer]] = {
    "pruning": answers.pruning,
    "augmentation": answers.interaction,
    "depth": predictors.depth,
    "cure": predictors.cure,
    "loss": predictors.loss,
    "choice": answers.choice,
    "one-training": answers.one_training,
    "nuclei": lambda: answers.real("nuclei", "fluo"),
    "hearts": lambda: answers.real("hearts", "A"),
    "paper": answers.paper,
}
"""Answers by name; a page shows one between `<!-- answer NAME -->` and `<!-- end -->`."""

_BLOCK = re.compile(r"(<!-- answer ([a-z-]+) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def blocks(page: Path) -> list[str]:
    """Names of the answers that a page shows."""
    return re.findall(r"<!-- answer ([a-z-]+) -->", page.read_text(encoding="utf-8"))


def filled(page: Path) -> str:
    """Text of a page with its answers as the tables give them."""
    text = page.read_text(encoding="utf-8")
    return _BLOCK.sub(lambda found: found[1] + as_text(ANSWERS[found[2]]()), text)


def as_text(answer: Answer) -> str:
    """Show an answer as Markdown."""
    wrapped = textwrap.fill(answer.sentence, 100, break_on_hyphens=False, break_long_words=False)
    tables = [f"{caption}:\n\n{table_text(table)}" for caption, table in answer.tables.items()]
    return "\n\n".join([wrapped, *tables]) + "\n\n"


def table_text(table: pd.DataFrame) -> str:
    """Show a table as Markdown: three decimals, p-values too, empty for NaN."""
    lines = [list(map(str, table.columns)), ["---"] * table.shape[1]]
    lines += [[cell(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: object) -> str:
    """Show one value of a table."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.3f}"
    return str(value)


def write() -> None:
    """Fill all pages."""
    for page in sorted(PAGES.glob("*.md")):
        if blocks(page):
            page.write_text(filled(page), encoding="utf-8")
