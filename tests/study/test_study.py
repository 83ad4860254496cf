import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from architectures import TINY
from skipshift.data.images import read_image, read_labels, write_png
from skipshift.errors import SkipshiftError
from skipshift.networks.unet import Unet
from skipshift.records import locked, read_json, read_table
from skipshift.specs import ProfileSpec
from skipshift.study import steps, study
from skipshift.study.opening import open_study
from skipshift.study.study import run_study
from skipshift.study_specs import ExecutionSpec, StudySpec, TrainingSpec

FAST = TrainingSpec(encoder_weights=None, epochs=1, learning_rate=1e-3, crop=32, batch_size=4)


CHANNELS = 848
"""Channels of all ten layers of a U-net with the tiny encoder."""


@pytest.fixture
def spec(small_set):
    # a column of the user's own, whatever its name, must disturb nothing
    pd.read_csv(small_set).assign(fold="mine").to_csv(small_set, index=False)
    return StudySpec(
        manifest=small_set,
        encoders=(TINY,),
        skips=("baseline", "L4-pruned"),
        folds=2,
        run_folds=(1,),
        shifts=("brightness:0.5", "saturation:0"),
        profile_shifts=("brightness:0.5",),
        training=FAST,
        threads=1,
        profile=ProfileSpec(null_draws=5, permutation_draws=9),
    )


@pytest.fixture
def pageless(monkeypatch):
    """Leave the page out: it takes longer than the rest of a small study and has its own tests."""
    monkeypatch.setattr(study, "write_report", lambda out: out / "report.html")


def test_the_grid_is_every_combination(spec):
    spec = replace(spec, run_folds=None, seeds=(0, 1))
    names = [run.name for run in open_study(spec, Path("out")).runs()]
    assert len(names) == len(set(names)) == 2 * 2 * 2
    assert names[0] == f"{TINY}.baseline.fold0.seed0"


def test_a_study_leaves_what_the_design_says(spec, tmp_path):
    out = tmp_path / "out"
    assert run_study(spec, out) == out / "report.html"
    for name in ("study.yaml", "environment.json", "splits.csv", "report.html"):
        assert (out / name).is_file()
    run = out / "runs" / f"{TINY}.L4-pruned.fold1.seed0"
    assert {"weights.safetensors", "run.json", "history.csv"} <= {f.name for f in run.iterdir()}
    assert not list(out.rglob("*.ckpt")) + list(out.rglob("*.part"))

    cases = read_table(out / "tables" / "cases.parquet")
    assert len(cases) == 2 * 4 * 3 * 2
    assert cases["domain"].unique().tolist() == ["original", "brightness:0.5", "saturation:0"]
    shift = read_table(out / "tables" / "shift.parquet")
    assert len(shift) == 2 * CHANNELS
    assert set(shift["reference"]) == {"original"}

    iou = read_table(out / "tables" / "iou.csv").set_index(["variant", "domain", "class"])["iou"]
    own = cases[cases["run"].str.contains("baseline") & (cases["class"] == "cell")]
    sums = own.groupby("domain")[["tp", "fp", "fn"]].sum()
    for domain, row in sums.iterrows():
        assert iou["baseline", domain, "cell"] == pytest.approx(row["tp"] / row.sum())

    tests = read_table(out / "tables" / "tests.csv").query("metric == 'iou'")
    effects = tests.set_index("domain")["effect"]
    assert effects.index.tolist() == ["original", "brightness:0.5", "saturation:0", "away"]
    for domain in effects.index[:3]:
        expected = iou["L4-pruned", domain, "cell"] - iou["baseline", domain, "cell"]
        assert effects[domain] == pytest.approx(expected)


@pytest.mark.usefixtures("pageless")
def test_a_second_call_does_nothing_twice_and_what_is_lost_is_made_again(spec, tmp_path):
    out, spec = tmp_path / "out", replace(spec, skips=("baseline",))
    run_study(spec, out)
    kept = out / "runs" / f"{TINY}.baseline.fold1.seed0" / "weights.safetensors"
    before = {path: path.read_bytes() for path in (out / "tables").iterdir()}
    stamp = kept.stat().st_mtime_ns
    (out / "runs" / f"{TINY}.baseline.fold1.seed0" / "cases.parquet").unlink()
    with pytest.warns(UserWarning, match=r"made again: .*cases\.parquet \(gone\)"):
        run_study(spec, out)
    assert kept.stat().st_mtime_ns == stamp
    assert {path: path.read_bytes() for path in (out / "tables").iterdir()} == before


@pytest.mark.usefixtures("pageless")
def test_domains_of_the_manifest_are_profiled_against_the_training_domain(spec, tmp_path):
    frame = pd.read_csv(spec.manifest)
    others = frame[frame["split"] == "test"].assign(domain="scanner")
    pd.concat([frame, others]).to_csv(spec.manifest, index=False)
    spec = replace(spec, skips=("baseline",), shifts=(), profile_shifts=("scanner",))
    run_study(spec, tmp_path / "out")
    layers = read_table(tmp_path / "out" / "tables" / "layers.csv")
    assert (layers["distance"] == 0).all()  # the second scanner's images are the same
    assert set(layers["shifted"]) == {"scanner"}
    cases = read_table(tmp_path / "out" / "tables" / "cases.parquet")
    assert cases["domain"].value_counts().to_dict() == {"original": 8, "scanner": 8}


@pytest.mark.usefixtures("pageless")
def test_what_would_stop_a_study_later_stops_it_before_training(spec, tmp_path):
    with pytest.raises(SkipshiftError, match="encoders: unknown encoder 'nope'; similar names are"):
        run_study(replace(spec, encoders=(TINY, "nope")), tmp_path / "out")
    for encoder in ("mit_b0", "tu-convnext_atto"):
        with pytest.raises(SkipshiftError, match=f"encoders: skips must keep 1: {encoder} has no"):
            run_study(replace(spec, encoders=(encoder,)), tmp_path / "out")
    with pytest.raises(SkipshiftError, match=r"evaluation_crop: 96 does not fit .*is 64 x 64 \(h"):
        run_study(replace(spec, evaluation_crop=96), tmp_path / "out")
    wide = replace(spec.training, crop=96)
    with pytest.raises(SkipshiftError, match=r"training\.crop: 96 is larger .* choose at most 64"):
        run_study(replace(spec, training=wide), tmp_path / "out")
    with pytest.raises(SkipshiftError, match=r"'scanner' is not a shift.*test cases \(original\)"):
        run_study(replace(spec, profile_shifts=("scanner",)), tmp_path / "out")
    write_png(spec.manifest.parent / "images/case-12.png", np.zeros((96, 64, 3), np.uint8))
    with pytest.raises(SkipshiftError, match=r"case-12\.png: is 64 x 96, .* set evaluation_crop"):
        run_study(spec, tmp_path / "out")
    frame = pd.read_csv(spec.manifest)
    away = frame[frame["split"] == "test"].assign(domain="away")
    pd.concat([frame, away]).to_csv(spec.manifest, index=False)
    with pytest.raises(SkipshiftError, match="'away' stands for the mean of several domains"):
        run_study(spec, tmp_path / "out")
    frame[frame["split"] == "train"].to_csv(spec.manifest, index=False)
    with pytest.raises(SkipshiftError, match=r"manifest\.csv: has no test cases"):
        run_study(spec, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("pageless")
def test_a_study_of_many_classes_leaves_ignored_pixels_out(spec, tmp_path):
    for file in (spec.manifest.parent / "masks").iterdir():
        mask = np.where(read_labels(file) > 0, np.uint8(19), np.uint8(0))
        mask[:8, :40] = np.repeat(np.arange(20, dtype=np.uint8), 2)
        mask[56:] = 255
        write_png(file, mask)
    names = ("background", *(f"class {index}" for index in range(1, 20)))
    spec = replace(spec, classes=names, skips=("baseline",), shifts=(), profile_shifts=())
    with pytest.raises(SkipshiftError, match=r"labels outside the classes 0\.\.19.*or ignore the"):
        run_study(spec, tmp_path / "out")
    run_study(replace(spec, ignore=255), tmp_path / "out")
    cases = read_table(tmp_path / "out/tables/cases.parquet")
    pixels = (cases["tp"] + cases["fn"]).groupby(cases["case"]).sum()
    assert (pixels == 56 * 64).all()
    assert cases["class"].nunique() == 20
    run = tmp_path / "out/runs" / f"{TINY}.baseline.fold1.seed0"
    assert (np.load(run / "samples.npz")["masks"][:, 56:] == 255).all()


@pytest.mark.usefixtures("pageless")
def test_bad_data_stops_a_study_before_training(spec, tmp_path):
    images = spec.manifest.parent / "images"
    write_png(images / "case-12.png", read_image(images / "case-00.png"))
    with pytest.raises(SkipshiftError, match=r"same image on both sides.*case-00.*case-12"):
        run_study(spec, tmp_path / "out")
    assert not list((tmp_path / "out").glob("runs/*"))


def test_what_the_check_warns_of_is_on_the_page_and_looked_for_once(spec, tmp_path, monkeypatch):
    images, out = spec.manifest.parent / "images", tmp_path / "out"
    write_png(images / "case-01.png", read_image(images / "case-00.png"))
    page = run_study(replace(spec, skips=("baseline",)), out).read_text()
    assert "The check warned of same image twice in a split" in page
    monkeypatch.delattr(study, "check_manifest")
    run_study(spec, out)


@pytest.mark.usefixtures("pageless")
def test_a_study_without_profiles_leaves_their_tables_empty(spec, tmp_path):
    run_study(replace(spec, skips=("baseline",), profile_shifts=()), tmp_path / "out")
    assert read_table(tmp_path / "out" / "tables" / "layers.csv").empty


@pytest.mark.usefixtures("pageless")
def test_a_failed_run_is_recorded_and_the_others_go_on(spec, tmp_path, monkeypatch):
    out, real = tmp_path / "out", steps.train

    def break_down(net, *rest):
        if net.name == "baseline":
            raise RuntimeError("out of memory")
        return real(net, *rest)

    monkeypatch.setattr(steps, "train", break_down)
    with pytest.raises(SkipshiftError, match=r"1 of 2 runs failed: .*baseline.* out of memory"):
        run_study(spec, out)
    cases = read_table(out / "tables" / "cases.parquet")
    assert cases["run"].unique().tolist() == [f"{TINY}.L4-pruned.fold1.seed0"]
    monkeypatch.undo()
    with pytest.raises(SkipshiftError, match="add --retry-failed"):
        run_study(spec, out)
    run_study(spec, out, ExecutionSpec(retry_failed=True))
    assert read_table(out / "tables" / "cases.parquet")["run"].nunique() == 2


@pytest.mark.slow  # four trainings
@pytest.mark.usefixtures("pageless")
def test_parts_of_a_study_add_up_to_the_whole(spec, tmp_path):
    run_study(spec, tmp_path / "whole")
    parts = tmp_path / "parts"
    run_study(spec, parts, ExecutionSpec(only="*.L4-pruned.*"))
    assert read_table(parts / "tables" / "cases.parquet")["run"].nunique() == 1
    run_study(spec, parts, ExecutionSpec(only="*.baseline.*"))
    for table in (tmp_path / "whole" / "tables").iterdir():
        assert (parts / "tables" / table.name).read_bytes() == table.read_bytes()
    with pytest.raises(SkipshiftError, match="'nothing' matches no run; the first is tu-"):
        run_study(spec, parts, ExecutionSpec(only="nothing"))


@pytest.mark.usefixtures("pageless")
def test_a_study_that_another_process_holds_is_left_alone(spec, tmp_path):
    with (
        locked(tmp_path / "out"),
        pytest.raises(SkipshiftError, match=rf"in use by process {os.getpid()} on .*wait for it"),
    ):
        run_study(spec, tmp_path / "out")
    assert not (tmp_path / "out" / "study.yaml").exists()


@pytest.mark.usefixtures("pageless")
def test_the_study_file_reads_back_as_the_study(spec, tmp_path):
    out = tmp_path / "out"
    run_study(replace(spec, skips=("baseline",)), out)
    plain = yaml.safe_load((out / "study.yaml").read_text())
    assert plain["skips"] == ["baseline"]
    record = read_json(out / "runs" / f"{TINY}.baseline.fold1.seed0" / "run.json")
    assert record["parameters"] == sum(p.numel() for p in Unet(TINY).parameters())
    samples = np.load(out / "runs" / f"{TINY}.baseline.fold1.seed0" / "samples.npz")
    assert samples["images"].shape == (4, 64, 64, 3)
    assert samples["domains"].tolist() == ["original", "brightness:0.5"] * 2
