import getpass
import json
import platform
import re
import shutil
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from skipshift import extras
from skipshift.extras import EXTRAS, packages_of
from skipshift.networks.inference import instruction_set

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = {
    "": PROJECT["dependencies"],
    **PROJECT["optional-dependencies"],
}


@pytest.fixture
def metadata(monkeypatch):
    """Requirements as a wheel of this pyproject.toml states them, whatever is installed."""
    lines = [
        f"{one}; extra == '{extra}'" if extra else one
        for extra, ones in NEEDED.items()
        for one in ones
    ]
    monkeypatch.setattr(extras, "requires", lambda _name: lines)


def test_the_table_of_extras_is_that_of_the_package_and_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", readme.partition("| extra |")[2], re.MULTILINE)
    assert dict(rows) == EXTRAS
    assert set(EXTRAS) == set(PROJECT["optional-dependencies"])


def test_every_extra_that_a_message_names_is_one():
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "src").rglob("*.py"))
    named = set(re.findall(r"load_extra\([^()]+, \"(\w+)\"\)", source))
    assert {"monai", "nnunet", "formats"} <= named <= set(EXTRAS)


@pytest.mark.usefixtures("metadata")
@pytest.mark.parametrize("extra", NEEDED)
def test_the_packages_of_an_extra_are_those_of_the_project_file(extra):
    assert {one.name for one in packages_of(extra)} == {Requirement(n).name for n in NEEDED[extra]}


def test_a_package_is_told_missing_too_old_or_fitting(monkeypatch):
    needed = ["numpy>=999", "numpy>=1", "not-a-package>=1"]
    monkeypatch.setattr(extras, "requires", lambda _name: needed)
    old, fitting, missing = packages_of()
    assert (old.fits, fitting.fits, missing.fits) == (False, True, False)
    assert (old.found, missing.found) == (version("numpy"), None)


@pytest.mark.usefixtures("metadata")
def test_the_doctor_says_what_there_is(skipshift, tmp_path):
    code, out, _ = skipshift("doctor", tmp_path, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["problems"] == []
    assert found["python"] == platform.python_version()
    assert found["packages"]["numpy"] == version("numpy")
    assert found["torch"]["torch"] == torch.__version__
    assert found["torch"]["instruction_set"] == instruction_set(found["torch"]["device"])
    # the tests' own fixture holds "auto" to fp32: the doctor asks the same rule
    assert found["torch"]["precision"] == "fp32"
    assert found["disk_free_gb"]["out"] == pytest.approx(
        shutil.disk_usage(tmp_path).free / 1e9, abs=1
    )
    assert {name for name, one in found["extras"].items() if one["ready"]} >= {"nifti", "export"}


@pytest.mark.usefixtures("metadata")
def test_the_text_of_the_doctor_names_no_person_and_no_place(skipshift):
    code, out, _ = skipshift("doctor")
    assert code == 0
    assert out.endswith("no problems\n")
    for private in {str(Path.home()), str(Path.cwd()), platform.node(), sys.prefix}:
        assert private not in out
    assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", out)
    assert all(f"  {name} " in out for name in EXTRAS)


def test_the_doctor_names_an_extra_that_is_missing_and_how_to_get_it(skipshift, monkeypatch):
    monkeypatch.setattr(extras, "requires", lambda _name: ["not-a-package; extra == 'nifti'"])
    code, out, _ = skipshift("doctor")
    assert code == 0
    assert f"missing: {EXTRAS['nifti']}\n" in out
    assert "pip install 'skipshift[nifti]'" in out


def test_the_doctor_fails_where_a_package_that_is_needed_is_too_old(skipshift, monkeypatch):
    monkeypatch.setattr(extras, "requires", lambda _name: ["numpy>=999"])
    code, out, err = skipshift("doctor")
    fault = f"numpy>=999 is needed, {version('numpy')} is installed"
    assert code == 1
    assert out.endswith(f"problem: {fault}\n")
    assert err == f"skipshift: not ready: {fault}\n"


@pytest.mark.usefixtures("metadata")
def test_the_doctor_tells_builds_that_do_not_match(skipshift, monkeypatch):
    def nms(*_arguments):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("torchvision.ops.nms", nms)
    code, out, err = skipshift("doctor")
    assert code == 1
    assert "torch and torchvision cannot be used together: RuntimeError" in out
    assert "install builds that match" in err
