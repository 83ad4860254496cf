"""The studies that come with the project fit the sets that their first lines prepare."""

import shlex
from pathlib import Path

import pytest

from skipshift.cli import main
from skipshift.data.manifest import read_manifest
from skipshift.records import read_json
from skipshift.specs import StudySpec, read_spec

STUDIES = sorted((Path(__file__).parents[1] / "studies").glob("*.yaml"))


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.stem)
def test_a_study_fits_the_set_that_it_is_for(study, shared, tmp_path):
    spec = read_spec(StudySpec, study)
    words = shlex.split(study.read_text().splitlines()[0].replace("../shared", str(shared)))[2:]
    made = words.index(f"out/{spec.manifest.parent.name}")
    words[made] = str(tmp_path / "o")
    with pytest.raises(SystemExit) as done:
        main(words)
    assert not done.value.code
    test = read_manifest(tmp_path / "o/manifest.csv").query("split == 'test'")
    assert list(spec.classes) == read_json(tmp_path / "o/prepare.json")["classes"]
    assert {s for s in spec.profile_shifts if ":" not in s} < set(test["domain"])
