import ast
import subprocess
import sys
from pathlib import Path

import pytest

import skipshift

SOURCE = Path(skipshift.__file__).parent

ORDER = [
    "names", "specs", "arguments", "extras", "progress", "records", "allocator", "shifts",
    "counts", "distances", "statistics", "separation", "layerwise", "fingerprints", "scratch",
    "shares", "scores", "comparisons", "data.specs", "data.images", "data.preprocess",
    "data.volumes", "data.manifest", "data.splits", "data.sources", "data.slices", "data.writing",
    "data.patterns", "data.labels", "data.slides", "data.annotations", "data.registration",
    "data.quadtree", "data.specimens", "data.regions", "data.published", "data.corrections",
    "data.stains", "data.figures", "data.mms", "data.folder", "data.scc", "data.mitosis",
    "data.drawn", "data.templates", "data.synthetic", "data.crops", "checks.findings",
    "checks.shrunk", "checks.values", "checks.colours", "checks.poses", "checks.fit",
    "checks.copies", "checks.domains", "checks.preflight", "layers", "models", "checkpoints",
    "inference", "proposals", "losses", "pooling", "features", "binning", "replay", "page.views",
    "page.style", "page.figures", "page.bars", "page.pictures", "page.findings", "page.verdict",
    "page.rows", "page.report", "page.review", "profile", "patching", "trackers", "training",
    "evaluation", "grid", "steps", "workers", "cluster", "study", "plan", "demo", "commands",
    "cli",
]  # fmt: skip


def imports(module):
    """Modules of the package that a module imports when it is imported, by their place in it."""
    tree = ast.parse((SOURCE / f"{module.replace('.', '/')}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skipshift"):
            home = node.module.removeprefix("skipshift").lstrip(".")
            names = [alias.name for alias in node.names]
            yield from [home] if home in ORDER else [f"{home}.{n}".lstrip(".") for n in names]


def test_every_module_has_its_place_in_the_order():
    found = {
        str(path.relative_to(SOURCE).with_suffix("")).replace("/", ".")
        for path in SOURCE.rglob("*.py")
    }
    assert {name for name in found if not name.endswith("__init__")} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_from_those_above_it(module):
    above = set(ORDER[: ORDER.index(module)])
    assert set(imports(module)) <= above


@pytest.mark.parametrize(
    "module",
    ["specs", "records", "comparisons", "page.report", "data.scc", "checks.preflight", "cli"],
)
def test_help_and_reports_do_not_wait_for_torch(module):
    code = f"import sys, skipshift.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_there():
    for name in skipshift.__all__:
        assert getattr(skipshift, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        skipshift.nothing  # noqa: B018


def test_no_module_outgrows_one_idea():
    long = {p.name: n for p in SOURCE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 450}
    assert not long
