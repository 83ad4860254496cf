import importlib.util
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[2] / "docs"
MOST_BYTES = 60_000


@pytest.fixture(scope="module")
def script():
    path = DOCS / "pictures/make_concepts.py"
    spec = importlib.util.spec_from_file_location("make_concepts", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_concepts"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["make_concepts"]


def test_the_pages_of_the_concepts_use_what_the_script_draws(script):
    pages = "".join(page.read_text() for page in (DOCS / "concepts").glob("*.md"))
    used = set(re.findall(r"\.\./pictures/concept-([\w-]+)\.svg", pages))
    committed = {p.stem.removeprefix("concept-"): p for p in DOCS.glob("pictures/concept-*.svg")}
    assert used == set(script.PICTURES) == set(committed)
    assert max(path.stat().st_size for path in committed.values()) <= MOST_BYTES


def test_the_script_draws_what_needs_no_training(script):
    data = script.example(steps=0, images=24)
    with script.styled():
        for name in ("shift", "skip-levels", "places", "pooling", "groups"):
            ElementTree.fromstring(script.to_svg(script.PICTURES[name](data)))


@pytest.mark.slow  # profiles, patches, mends and estimates a network
def test_the_script_draws_every_picture(script, tmp_path):
    script.make(tmp_path, steps=1, images=24)
    assert len(list(tmp_path.glob("concept-*.svg"))) == len(script.PICTURES)
