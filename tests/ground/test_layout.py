import subprocess
import sys

import pytest
from tools import house

import skipshift


def test_every_module_has_its_place_in_the_order():
    assert house.modules() == set(house.ORDER)


@pytest.mark.parametrize("module", house.ORDER)
def test_a_module_imports_only_from_those_above_it(module):
    assert set(house.imports(module)) <= set(house.ORDER[: house.ORDER.index(module)])


def test_the_map_in_the_design_is_that_of_the_code():
    assert house.PAGE.read_text(encoding="utf-8") == house.page()


@pytest.mark.parametrize(
    "module",
    [
        "specs",
        "records",
        "statistics.comparisons",
        "page.report",
        "data.prepare.scc",
        "data.checks.preflight",
        "cli.main",
    ],
)
def test_help_and_reports_do_not_wait_for_torch(module):
    code = f"import sys, skipshift.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_there():
    for name in skipshift.__all__:
        assert getattr(skipshift, name) is not None
    with pytest.raises(AttributeError, match="attribute nothing"):
        skipshift.nothing  # noqa: B018
