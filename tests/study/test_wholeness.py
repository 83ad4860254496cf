"""A study notices what is broken in its folder, or has changed beneath it, and makes it again."""

import hashlib
import json
import shutil
import subprocess
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from architectures import TINY
from discs import write_discs
from skipshift.checksums import SUMS, check_sums, read_sealed, write_sealed, write_sums
from skipshift.data.images import read_image, write_png
from skipshift.errors import SkipshiftError
from skipshift.networks.unet import Unet
from skipshift.page.study_results import read_results
from skipshift.specs import ProfileSpec
from skipshift.study import study
from skipshift.study.cluster import pack, settle, unpack
from skipshift.study.grid import expected_inputs
from skipshift.study.made import FILES
from skipshift.study.opening import open_study
from skipshift.study.study import run_study
from skipshift.study_specs import ExecutionSpec, StudySpec, TrainingSpec

RUN = f"runs/{TINY}.baseline.fold0.seed0"
FAULTS = {
    "half": lambda content: content[: len(content) // 2],
    "flipped": lambda content: (
        content[: (n := len(content) // 2)] + bytes([content[n] ^ 1]) + content[n + 1 :]
    ),
    "empty": lambda _: b"",
    "gone": None,
}
CURES = ("carry.csv", "remedies.csv", "estimates.csv")
"""Steps that are done only if the study asks for them."""

ASKED = {step: names for step, names in FILES.items() if step not in CURES}
OF_RUN = [f"{RUN}/{name}" for names in ASKED.values() for name in names] + [f"{RUN}/made.json"]
OF_STUDY = ["environment.json", "check.json", "contents.json", "splits.csv", "study.yaml"]
TABLES = [
    f"tables/{name}"
    for name in (
        SUMS, "cases.parquet", "metrics.parquet", "shift.parquet", "layers.csv", "profile.csv",
        "scores.csv", "iou.csv", "metrics.csv", "tests.csv", "domains.csv",
    )
]  # fmt: skip
SAID = {*OF_RUN, "environment.json", "check.json", "splits.csv"}
"""Files of which it is said that they are made again; the others are written every time."""


UNSAID = {("check.json", "gone"), ("splits.csv", "gone")}
"""What is made again as if it had never been there."""


def spec_of(manifest):
    return StudySpec(
        manifest=manifest,
        encoders=(TINY,),
        skips=("baseline",),
        folds=2,
        run_folds=(0,),
        shifts=("brightness:0.5",),
        profile_shifts=("brightness:0.5",),
        metrics=("dice",),
        training=TrainingSpec(encoder_weights=None, epochs=1, crop=32, precision="fp32"),
        profile=ProfileSpec(null_draws=2, permutation_draws=3),
        threads=1,
    )


@pytest.fixture(autouse=True)
def pageless(monkeypatch):
    monkeypatch.setattr(study, "write_report", lambda out: out / "report.html")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of a study that is done, beside its images."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "write_report", lambda out: out / "report.html")
        run_study(spec_of(write_discs(folder, np.random.default_rng(0))), folder / "out")
    return folder / "out"


@pytest.fixture
def spec(whole):
    return spec_of(whole.parent / "manifest.csv")


@pytest.fixture
def out(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "out")


def damage(path, fault):
    if FAULTS[fault] is None:
        path.unlink()
    else:
        path.write_bytes(FAULTS[fault](path.read_bytes()))


def outcome(spec, out):
    """What a study says when it is run, and whether it is refused."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run_study(spec, out)
        except SkipshiftError as error:
            return str(error), True
    return " ".join(str(warning.message) for warning in caught), False


def content(path):
    """Bytes of a file, of a JSON record without what a clock or a clock's hash has a part in."""
    if path.name in ("run.json", "made.json", "environment.json"):
        record = json.loads(path.read_bytes())
        return {key: value for key, value in record.items() if key not in ("seconds", "checksum")}
    return path.read_bytes()


def assert_mended(file, fault, spec, whole, out):
    damage(out / file, fault)
    said, refused = outcome(spec, out)
    name = file.rpartition("/")[2]
    if refused:
        assert name in said
        return
    if file in SAID and (file, fault) not in UNSAID:
        assert name in said, (file, fault, said)
    if name != "made.json":
        assert content(out / file) == content(whole / file), (file, fault)
    assert outcome(spec, out) == ("", False)


def test_broken_files_of_a_run_are_made_again_without_training(spec, whole, out, monkeypatch):
    monkeypatch.delattr("skipshift.study.steps.train")
    files = ("layers.csv", "shift.parquet", "history.csv", "samples.npz")
    for file, fault in zip(files, FAULTS, strict=True):
        damage(out / RUN / file, fault)
    said, _ = outcome(spec, out)
    for file in files:
        assert f"{file} (" in said
        assert content(out / RUN / file) == content(whole / RUN / file)


@pytest.mark.parametrize("file", ["weights.safetensors", "made.json"])
def test_a_broken_network_is_trained_again_to_the_same_one(file, spec, whole, out):
    assert_mended(f"{RUN}/{file}", "flipped", spec, whole, out)
    trained, first = (Unet.load(folder / RUN).state_dict() for folder in (out, whole))
    assert all(torch.equal(trained[key], first[key]) for key in first)


@pytest.mark.parametrize("file", ["environment.json", "check.json"])
def test_a_broken_record_never_stops_a_study(file, spec, whole, out):
    assert_mended(file, "half", spec, whole, out)


@pytest.mark.slow  # a hundred small studies
@pytest.mark.parametrize("fault", FAULTS)
def test_each_file_of_a_study_that_is_broken_is_made_again_or_told(fault, spec, whole, tmp_path):
    for number, file in enumerate([*OF_RUN, *OF_STUDY, *TABLES]):
        copy = shutil.copytree(whole, tmp_path / str(number))
        assert_mended(file, fault, spec, whole, copy)


def test_every_file_of_a_study_is_in_the_table_of_faults(whole):
    found = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    assert found - {".lock", ".holder"} == {*OF_RUN, *OF_STUDY, *TABLES}


def test_the_precision_of_a_study_outlives_its_record(spec, out):
    (out / "environment.json").write_text("{")
    anew = replace(spec, training=replace(spec.training, precision="auto"))
    assert open_study(anew, out).precision == "fp32"


def test_a_page_is_not_drawn_from_a_table_that_was_changed(spec, out):
    damage(out / "tables/layers.csv", "half")
    with pytest.raises(SkipshiftError, match=r"layers\.csv: is not as it was written, says SHA256"):
        read_results(out, spec)


def test_tables_that_break_while_others_are_made_are_not_joined(spec, out, monkeypatch):
    def broken(*_):
        damage(out / RUN / "cases.parquet", "flipped")
        return []

    monkeypatch.setattr(study, "_execute", broken)
    with pytest.raises(SkipshiftError, match=r"cases\.parquet: is not as it was written \(other"):
        run_study(spec, out)


def test_broken_runs_are_not_taken(spec, out, tmp_path):
    damage(out / RUN / "weights.safetensors", "flipped")
    with pytest.raises(SkipshiftError, match=r"weights\.safetensors: is not as it was written"):
        run_study(spec, tmp_path / "other", ExecutionSpec(take=(out,)))


def test_a_run_of_an_earlier_version_is_kept_until_asked_for(spec, out):
    made = out / RUN / "made.json"
    made.write_text(json.dumps({"run.json": {"classes": ["a", "b"]}}))
    with pytest.raises(SkipshiftError, match=r"\(another version of skipshift\).*--redo-changed"):
        run_study(spec, out)
    assert (out / RUN / "weights.safetensors").exists()


def test_a_failure_whose_reason_is_lost_is_still_a_failure(spec, out):
    (out / RUN / "failed.json").write_text("{")
    (out / RUN / "cases.parquet").unlink()
    with (
        pytest.warns(UserWarning, match=r"cases\.parquet \(gone\)"),
        pytest.raises(SkipshiftError, match=r"a reason that is lost, for failed\.json is broken"),
    ):
        run_study(spec, out)


def test_changed_pixels_are_named_and_redone_when_asked_for(whole, tmp_path):
    folder = shutil.copytree(whole.parent, tmp_path / "all")
    spec, out = spec_of(folder / "manifest.csv"), folder / "out"
    image = folder / "images/case-12.png"
    write_png(image, read_image(image)[::-1].copy())
    before = (out / "tables/cases.parquet").read_bytes()
    named = r"\(other content of test cases; changed files: images/case-12\.png\).*--redo-changed"
    with pytest.raises(SkipshiftError, match=named):
        run_study(spec, out)
    weights = (out / RUN / "weights.safetensors").stat().st_mtime_ns
    with pytest.warns(UserWarning, match=r"changed files: images/case-12\.png.*made again"):
        run_study(spec, out, ExecutionSpec(redo_changed=True))
    assert (out / "tables/cases.parquet").read_bytes() != before
    assert (out / RUN / "weights.safetensors").stat().st_mtime_ns == weights
    assert outcome(spec, out) == ("", False)


def test_files_are_hashed_once_and_again_when_their_time_has_changed(whole, tmp_path, monkeypatch):
    folder = shutil.copytree(whole.parent, tmp_path / "all")
    hashed = []

    def counted(path):
        hashed.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr("skipshift.study.contents.sha256", counted)
    spec, out = spec_of(folder / "manifest.csv"), folder / "out"
    first = open_study(spec, out).contents
    assert hashed == []
    (folder / "masks/case-03.png").touch()
    assert open_study(spec, out).contents.cases == first.cases
    assert hashed == ["case-03.png"]


def test_a_manifest_is_found_by_a_path_with_dots(whole, tmp_path):
    folder = shutil.copytree(whole.parent, tmp_path / "all")
    (tmp_path / "studies").mkdir()
    spec = spec_of(tmp_path / "studies/../all/manifest.csv")
    plain = open_study(spec_of(folder / "manifest.csv"), folder / "out").contents
    assert open_study(spec, folder / "out").contents == plain


def test_a_manifest_that_points_to_other_files_is_noticed(whole, tmp_path):
    folder = shutil.copytree(whole.parent, tmp_path / "all")
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("masks/case-13", "masks/case-12"))
    with pytest.raises(SkipshiftError, match=r"2 runs|other content of test cases"):
        run_study(spec_of(manifest), folder / "out")


def test_encoder_weights_are_known_by_their_content(spec, tmp_path):
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")

    def key(path):
        of = replace(spec, training=replace(spec.training, encoder_weights=str(path)))
        opened = open_study(of, tmp_path / "none")
        return expected_inputs(opened, opened.runs()[0])["run.json"]

    assert key(first) == key(second)
    second.write_bytes(b"weightz")
    assert key(first) != key(second)


def test_a_sealed_record_reads_back_and_no_change_of_a_byte_is_missed(tmp_path):
    file, values = tmp_path / "a.json", {"name": "ä", "numbers": [1, 2.5, None]}
    write_sealed(file, values)
    assert read_sealed(file) == values
    written = file.read_bytes()
    for place in range(len(written) - 1):
        changed = bytearray(written)
        changed[place] ^= 1
        file.write_bytes(changed)
        assert read_sealed(file) in (None, values)


def test_sums_are_those_of_sha256sum(tmp_path):
    (tmp_path / "a.csv").write_text("1")
    (tmp_path / "b.csv").write_text("2")
    write_sums(tmp_path)
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=tmp_path, check=True)
    check_sums(tmp_path)
    (tmp_path / "b.csv").unlink()
    with pytest.raises(SkipshiftError, match=r"b\.csv: is not as it was written"):
        check_sums(tmp_path)


def test_a_packed_study_has_the_same_keys_and_its_files_stay_in_their_folder(spec, tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"weights")
    training = replace(spec.training, encoder_weights=str(tmp_path / "weights.pt"))
    here = open_study(replace(spec, training=training), tmp_path / "none")
    away, files = pack(here)
    unpack(files, tmp_path / "node/data")
    there = settle(away, tmp_path / "node")
    run = here.runs()[0]
    assert expected_inputs(there, run) == expected_inputs(here, run)
    with pytest.raises(SkipshiftError, match=r"a node sent '\.\./x', which leaves the folder"):
        unpack({"a": b"", "../x": b""}, tmp_path / "b")
    assert not (tmp_path / "b").exists()
