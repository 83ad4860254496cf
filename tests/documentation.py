"""Pages of the documentation that people write; those that are made from the code are not here."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

_MADE = re.compile(r"_|reference/(api|commands)/|reference/(settings\.md|_)")
PAGES = [
    ROOT / "README.md",
    *sorted(p for p in DOCS.rglob("*.md") if not _MADE.match(p.relative_to(DOCS).as_posix())),
]
_FENCE = re.compile(r"^ *```+ *(\S*).*?$(.*?)^ *```+ *$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^ *(?:! *|\$ )?skipshift (.+)$", re.MULTILINE)


def name_of(page: Path) -> str:
    """Path of a page from the root of the repository."""
    return page.relative_to(ROOT).as_posix()


def command_lines(text: str) -> list[str]:
    """Words after ``skipshift`` of each command line in the fenced blocks of a page.

    Of a line in a list of commands, what it does (two spaces, then text), options in brackets and
    all but the first of several choices are left out.

    >>> command_lines('''```bash
    ... skipshift prepare mms|scc SRC OUT [--crop N]   makes a set
    ... skipshift study a.yaml \\\\
    ...    out  # a comment
    ... ```''')
    ['prepare mms SRC OUT', 'study a.yaml out']
    """
    found = []
    for _, block in _FENCE.findall(text):
        for line in _COMMAND.findall(re.sub(r" *\\\n *", " ", block)):
            line, comment, _ = line.partition(" #")
            if not comment:
                line = re.sub(r"(\w)\|[\w|]+", r"\1", re.sub(r" \[[^]]*\]", "", line))
            found.append(re.split(r"\s{2,}", line)[0].strip())
    return found
