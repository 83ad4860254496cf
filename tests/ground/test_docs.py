import re
import shlex

import pytest
from cyclopts import CycloptsError

from documentation import DOCS, PAGES, ROOT, command_lines, name_of
from skipshift.cli.main import app
from skipshift.errors import ArgumentError
from skipshift.records import TABLE_COLUMNS


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert not missing


def test_contributing_fits_on_a_page():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 50


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_prose_is_wrapped_at_100_columns(page):
    fenced, long = False, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        if len(line) > 100 and not (fenced or line.startswith(("|", ">>>")) or "](" in line):
            long.append(number)
    assert not long


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_of_a_page_parses(page):
    wrong = []
    for line in command_lines(page.read_text(encoding="utf-8")):
        try:
            app.parse_args(shlex.split(line), exit_on_error=False, print_error=False)
        except (CycloptsError, ArgumentError) as error:
            wrong.append(f"{line}: {error}")
    assert not wrong


def test_the_page_of_files_explains_every_column_that_is_written_and_no_other():
    cells = re.findall(r"^\| ([\w, ]+) \|", (DOCS / "reference/files.md").read_text(), re.MULTILINE)
    told = {name for cell in cells for name in cell.split(", ")}
    written = {column for columns in TABLE_COLUMNS.values() for column in columns}
    commands = {name for name in app if not name.startswith("-")}
    assert not written - told
    assert not told - written - commands - {"column", "command"}
