import shlex
import subprocess

import pytest
from tools.dist import ROOT, sdist_faults, wheel_faults

from skipshift.cli.main import app

FILES = {"src/skipshift/py.typed", "src/skipshift/page/page.css", "LICENSE", "docs/a.md"}
WHEEL = {"skipshift/py.typed", "skipshift/page/page.css"} | {
    f"skipshift-1.dist-info/{name}" for name in ("METADATA", "entry_points.txt", "licenses/LICENSE")
}
SDIST = {"src/skipshift/py.typed", "src/skipshift/page/page.css", "LICENSE", "PKG-INFO"}


def test_whole_archives_have_no_faults():
    assert wheel_faults(WHEEL, FILES) == []
    assert sdist_faults(SDIST, FILES) == []


@pytest.mark.parametrize("name", sorted(WHEEL))
def test_a_file_that_the_wheel_lacks_is_named(name):
    fault = name.partition(".dist-info/")[2] or name
    assert wheel_faults(WHEEL - {name}, FILES) == [f"lacks {fault}"]


def test_a_file_too_many_is_named():
    assert wheel_faults(WHEEL | {"skipshift/x.pt"}, FILES) == ["must not hold skipshift/x.pt"]
    assert sdist_faults(SDIST | {"docs/a.md"}, FILES) == ["must not hold docs/a.md"]


def test_make_demo_gives_a_command_line_that_parses():
    # make says where it is when make runs it
    command = ["make", "--dry-run", "--no-print-directory", "-o", ".venv/.installed"]
    command += ["demo", "OUT=out/x", "SIZE=smallest", "SMEAR=smear.png"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    program, *given = shlex.split(shown)
    assert program.endswith("bin/skipshift")
    spec = app.parse_args(given, exit_on_error=False, print_error=False)[1].arguments["spec"]
    assert (str(spec.out), spec.size, str(spec.smear)) == ("out/x", "smallest", "smear.png")
