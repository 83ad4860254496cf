"""The studies that come with the project fit the sets that their first lines prepare."""

import pytest

from shipped_studies import STUDIES, commands
from skipshift.cli.main import main
from skipshift.data.manifest import read_manifest
from skipshift.records import read_json
from skipshift.spec_files import read_spec
from skipshift.study_specs import StudySpec


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.stem)
def test_a_study_runs_on_what_its_first_lines_prepare(study):
    prepare, run = commands(study)
    assert read_spec(StudySpec, study).manifest.parent.as_posix().removeprefix("../") in prepare
    assert run == ["study", f"studies/{study.name}", f"out/study-{study.stem}"]


@pytest.mark.parametrize("name", ["small-mv-mr", "small-nuclei"])
def test_a_study_fits_the_real_set_that_it_is_for(name, shared, tmp_path):
    study = next(study for study in STUDIES if study.stem == name)
    spec = read_spec(StudySpec, study)
    words = [word.replace("../shared", str(shared)) for word in commands(study)[0]]
    words[words.index(f"out/{name}")] = str(tmp_path / "o")
    with pytest.raises(SystemExit) as done:
        main(words)
    assert not done.value.code
    test = read_manifest(tmp_path / "o/manifest.csv").query("split == 'test'")
    assert list(spec.classes) == read_json(tmp_path / "o/prepare.json")["classes"]
    assert {s for s in spec.profile_shifts if ":" not in s} < set(test["domain"])
