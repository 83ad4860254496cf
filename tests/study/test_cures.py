"""Activation patching and remedies as steps of a study."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

import skipshift as ss
from architectures import TINY
from skipshift import records
from skipshift.data.manifest import read_cases, read_manifest
from skipshift.data.preprocess import prepare, preprocess_of
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
        shifts=(),
        profile_shifts=("brightness:0.5",),
        training=TrainingSpec(encoder_weights=None, epochs=1, crop=32, batch_size=4),
        threads=1,
        profile=ProfileSpec(null_draws=5, permutation_draws=9),
    )


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
