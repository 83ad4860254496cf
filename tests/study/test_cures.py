"""Activation patching and remedies as steps of a study."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

import skipshift as ss
from architectures import TINY
from skipshift import records
from skipshift.data.images import read_image, write_png
from skipshift.data.manifest import read_cases, read_manifest
from skipshift.data.preprocess import prepare, preprocess_of
from skipshift.estimate import estimating
from skipshift.estimate.calibration_shifts import calibration_shifts
from skipshift.records import read_table
from skipshift.specs import CarrySpec, ProfileSpec, RemedySpec
from skipshift.study import cures
from skipshift.study.study import run_study
from skipshift.study_specs import StudySpec, TrainingSpec

FEW = partial(RemedySpec, remedies=("adabn", "minmax"), folds=2)


@pytest.fixture
def spec(small_set, monkeypatch):
    monkeypatch.setattr(cures, "RemedySpec", FEW)
    return StudySpec(
        manifest=small_set,
        encoders=(TINY,),
        skips=("baseline", "L4-pruned"),
        folds=2,
        run_folds=(1,),
        shifts=("brightness:0.5",),
        profile_shifts=("brightness:0.5",),
        training=TrainingSpec(encoder_weights=None, epochs=1, crop=32, batch_size=4),
        threads=1,
        profile=ProfileSpec(null_draws=5, permutation_draws=9),
    )


def test_a_study_estimates_its_baseline_without_masks_beside_what_the_masks_say(
    spec, tmp_path, monkeypatch
):
    # one amount of each kind of shift
    monkeypatch.setattr(estimating, "calibration_shifts", lambda *at: calibration_shifts(*at)[1::3])
    quick = partial(ss.EstimateSpec, splits=1)
    monkeypatch.setattr(cures, "EstimateSpec", quick)
    frame = pd.read_csv(spec.manifest)
    # the test cases and changed copies of the others, so that the reference has enough groups
    more = frame[frame["split"] == "train"].assign(split="test")
    for row in more.itertuples():
        image = ss.shifts.contrast(read_image(spec.manifest.parent / row.image), 1.25)
        write_png(spec.manifest.parent / f"more/{row.case}.png", image)
    more["image"], more["case"] = "more/" + more["case"] + ".png", "more-" + more["case"]
    pd.concat([frame, more.assign(group=more["case"])]).to_csv(spec.manifest, index=False)
    out = tmp_path / "out"
    asked = replace(spec, estimate=True, run_folds=(0, 1), skips=("baseline",))
    run_study(asked, out)
    names = [f"{TINY}.baseline.fold{fold}.seed0" for fold in (0, 1)]
    table = read_table(out / "tables/estimates.csv")
    assert table[["fold", "shifted"]].to_numpy().tolist() == [
        [fold, shifted] for fold in (0, 1) for shifted in ("original", "brightness:0.5")
    ]
    assert set(table["class"]) == {"cell"}
    # half of the groups are the reference: what is measured is the IoU on the others
    cases = read_table(out / "tables/cases.parquet")
    known = sorted(cases["group"].unique())[::2]
    rest = cases[~cases["group"].isin(known) & (cases["class"] == "cell")]
    sums = rest.groupby(["run", "domain"])[["tp", "fp", "fn"]].sum()
    expected = [
        sums.loc[(name, shifted), "tp"] / sums.loc[(name, shifted)].sum()
        for name in names for shifted in ("original", "brightness:0.5")
    ]  # fmt: skip
    # the evaluation folds batch norms: a pixel may differ
    assert table["measured"].to_numpy() == pytest.approx(expected, rel=2e-3)

    manifest = read_manifest(spec.manifest)
    tests = list(read_cases(manifest[manifest["split"] == "test"], 2, None))
    home, away = ([c for c in tests if (c.group in known) == inside] for inside in (True, False))
    pixels = [prepare(np.stack([c.image for c in side]), preprocess_of("unit"))
              for side in (home, away)]  # fmt: skip
    nets = [ss.load_net(out / "runs" / name) for name in names]
    found = ss.estimate(
        nets[0], pixels[0], np.stack([c.mask for c in home]), pixels[1],
        ([c.group for c in home], [c.group for c in away]), quick(), [nets[1]],
    )  # fmt: skip
    assert table["answer"][0] == (found.reasons[1] or "answered") != "groups"
    assert table["method"][0] == found.table["method"][1]
    assert table["iou"][0] == pytest.approx(found.table["iou"][1], nan_ok=True, abs=1e-4)
    page = (out / records.REPORT).read_text(encoding="utf-8")
    assert "IoU estimated without masks" in page

    first = out / "runs" / names[0] / "estimates.csv"
    stamp = first.stat().st_mtime_ns
    run_study(asked, out)
    assert first.stat().st_mtime_ns == stamp
    run_study(replace(asked, estimate=False), out)
    assert not (out / "tables/estimates.csv").exists()


def test_what_a_study_measures_of_its_baseline_is_what_carry_and_remedy_give(spec, tmp_path):
    out = tmp_path / "out"
    run_study(spec, out)
    first = out / "runs" / f"{TINY}.baseline.fold1.seed0"
    stamp = (first / "weights.safetensors").stat().st_mtime_ns
    assert "What the skips carry" not in (out / records.REPORT).read_text(encoding="utf-8")

    asked = replace(spec, carry=True, remedies=True)
    run_study(asked, out)
    assert (first / "weights.safetensors").stat().st_mtime_ns == stamp
    carried = read_table(out / "tables/carry.csv", records.CARRIED)
    tried = read_table(out / "tables/remedies.csv", records.REMEDIED)
    assert set(carried["variant"]) == set(tried["variant"]) == {"baseline"}

    cases = read_manifest(spec.manifest)
    tests = list(read_cases(cases[cases["split"] == "test"], 2, None))
    pixels = [np.stack([ss.shifts.brightness(c.image, k) for c in tests]) for k in (1.0, 0.5)]
    images = [prepare(each, preprocess_of("unit")) for each in pixels]
    masks, groups = np.stack([c.mask for c in tests]), [c.group for c in tests]
    net = ss.load_net(first)
    how = CarrySpec(precision="fp32")
    expected = ss.carry(net, *images, masks, (groups, groups), how).reset_index(drop=True)
    pd.testing.assert_frame_equal(
        carried[["path", "iou", "share"]], expected[["path", "iou", "share"]], rtol=1e-6
    )
    found = ss.remedy(net, *images, masks, groups, FEW(paired=True))
    layers = read_table(first / "layers.csv").nlargest(3, "excess")["layer"]
    singles = tried[~tried["place"].str.contains("+", regex=False)]
    assert set(singles["place"]) <= {"input", "encoder", "all", *layers}
    gains = found.table.set_index(["remedy", "place"])["gain"]
    for row in singles.itertuples():
        assert row.gain == pytest.approx(gains[row.remedy, row.place], abs=1e-6)
    text = (out / records.REPORT).read_text(encoding="utf-8")
    assert "What the skips carry" in text
    assert "Remedies of the baselines" in text

    before = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    run_study(asked, out)
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == before
