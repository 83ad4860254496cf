import re
from pathlib import Path

import pytest

import skipshift

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", ["README.md", "docs/design.md"])
def test_the_file_map_has_every_module(page):
    text = (ROOT / page).read_text()
    package = Path(skipshift.__file__).parent
    names = [p.stem for p in package.glob("*.py") if p.stem != "__init__"]
    names += [f"{p.name}/" for p in package.iterdir() if (p / "__init__.py").exists()]
    lines = [line.split()[0].rstrip("°") for line in text.splitlines() if line.split()]
    assert not [name for name in names if name not in lines]


def test_contributing_fits_on_a_page():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 50
