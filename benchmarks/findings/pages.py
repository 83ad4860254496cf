"""Write the answers into the pages of docs/findings, between two marks."""

import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from benchmarks.findings import answers, choosing, predictors
from benchmarks.findings.answers import Answer
from benchmarks.findings.tables import TABLES, NotMadeError

PAGES = TABLES.parent

ANSWERS: Mapping[str, Callable[[], Answer]] = {
    "pruning": answers.pruning,
    "augmentation": answers.interaction,
    "depth": predictors.depth,
    "cure": predictors.cure,
    "loss": predictors.loss,
    "choice": choosing.choice,
    "one-training": choosing.one_training,
    "nuclei": lambda: answers.real("nuclei", "fluo"),
    "hearts": lambda: answers.real("hearts", "A"),
    "paper": answers.paper,
}
"""Answers by name; a page shows one between `<!-- answer NAME -->` and `<!-- end -->`."""

UNKNOWN = Answer("Not answered yet: the runs of this question are not done.")

_BLOCK = re.compile(r"(<!-- answer ([a-z-]+) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def blocks(page: Path) -> list[str]:
    """Names of the answers that a page shows."""
    return re.findall(r"<!-- answer ([a-z-]+) -->", page.read_text(encoding="utf-8"))


def filled(page: Path) -> str:
    """Text of a page with its answers as the tables give them."""
    text = page.read_text(encoding="utf-8")
    return _BLOCK.sub(lambda found: found[1] + as_text(answered(found[2])), text)


def answered(name: str) -> Answer:
    """Answer a question; `UNKNOWN` where what it asks for is not made yet."""
    try:
        return ANSWERS[name]()
    except NotMadeError:
        return UNKNOWN


def as_text(answer: Answer) -> str:
    """Show an answer as Markdown: the sentence, its figures, its tables."""
    wrapped = textwrap.fill(answer.sentence, 100, break_on_hyphens=False, break_long_words=False)
    shown = [f"![{told}](pictures/{name}.svg)" for name, told in answer.figures.items()]
    shown += [f"{caption}:\n\n{table_text(table)}" for caption, table in answer.tables.items()]
    return "\n\n".join([wrapped, *shown]) + "\n\n"


def table_text(table: pd.DataFrame) -> str:
    """Show a table as Markdown: numbers by three decimals, empty for NaN."""
    names = list(map(str, table.columns))
    lines = [names, ["---"] * len(names)]
    lines += [
        [cell(value, name) for value, name in zip(row, names, strict=True)]
        for row in table.itertuples(index=False)
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: object, column: str) -> str:
    """Show one value of a table; a p is never shown as 0."""
    if not isinstance(value, float):
        return str(value)
    if pd.isna(value):
        return ""
    least = column.split()[0].split("_")[0] == "p" and value < 0.001
    return "<0.001" if least else f"{value:.3f}"


def write() -> None:
    """Fill all pages."""
    for page in sorted(PAGES.glob("*.md")):
        if blocks(page):
            page.write_text(filled(page), encoding="utf-8")
