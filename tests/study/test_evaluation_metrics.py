from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from architectures import TINY
from skipshift.data.manifest import parse_spacing, read_cases, read_manifest
from skipshift.errors import SkipshiftError
from skipshift.names import SEGMENTATION_METRICS
from skipshift.networks.inference import labels_of, probabilities_of
from skipshift.networks.unet import Unet
from skipshift.records import read_table
from skipshift.specs import EvaluationSpec
from skipshift.study import evaluation
from skipshift.study.evaluation import evaluate, evaluate_manifest, measure, metrics_table
from skipshift.study.study import run_study
from skipshift.study_specs import StudySpec, TrainingSpec

CLASSES = ("background", "disc")
ALL = EvaluationSpec(metrics=SEGMENTATION_METRICS, precision="fp32", shifts=("brightness:0.75",))


class Dark(nn.Module):
    """Calls dark pixels discs; one logit."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.6))

    def forward(self, images):
        return 20 * (self.level - images.mean(1, keepdim=True))


@pytest.fixture
def cases(small_set):
    return list(read_cases(read_manifest(small_set), 2))


def test_probabilities_add_up_to_1_and_agree_with_the_labels():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        several = [torch.randn(2, channels, 8, 8) for channels in (1, 2, 3)]
    for logits in several:
        soft = probabilities_of(logits)
        np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
        assert np.array_equal(soft.argmax(1), labels_of(logits))


def test_metrics_come_beside_the_same_counts(cases):
    both = measure(Dark(), cases[:3], CLASSES, ALL)
    counts = evaluate(Dark(), cases[:3], CLASSES, ALL)
    pd.testing.assert_frame_equal(both.counts, counts)
    assert set(both.metrics["metric"]) == set(SEGMENTATION_METRICS)
    own = both.metrics.query("metric == 'dice'")
    assert own["numerator"].tolist() == (2 * counts["tp"]).tolist()


def test_a_net_that_is_right_has_full_scores_and_errors_near_0(cases):
    table = metrics_table(Dark(), measure(Dark(), cases, CLASSES, ALL).metrics.assign(run="dark"))
    at_home = table[(table["domain"] == "original") & table["class"].isin(["disc", "all"])]
    values = at_home.set_index("metric")["value"]
    for name in ("iou", "dice", "group_dice", "boundary_iou", "surface_dice", "object_f1"):
        assert values[name] > 0.98
    assert abs(values["volume_bias"]) < 0.01
    assert values[["brier", "ece"]].max() < 0.1


def test_nothing_more_is_computed_when_nothing_is_asked_for(cases, monkeypatch):
    monkeypatch.setattr(evaluation, "probabilities_of", None)
    monkeypatch.setattr(evaluation, "measure_case", None)
    assert measure(Dark(), cases[:2], CLASSES, EvaluationSpec()).metrics.empty


@pytest.mark.parametrize("size", [1, 5])
def test_metrics_do_not_depend_on_the_batch(cases, size):
    whole = measure(Dark(), cases[:5], CLASSES, ALL).metrics
    parts = measure(Dark(), cases[:5], CLASSES, replace(ALL, batch_size=size)).metrics
    pd.testing.assert_frame_equal(parts, whole, rtol=1e-6)


class InThisProcess:
    """A pool that starts no process."""

    def __init__(self, *_):
        self.map = map

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_shards_of_cases_have_the_metrics_of_the_whole(small_set, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "ProcessPoolExecutor", InThisProcess)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Unet(TINY).save(tmp_path / "net")
    rows = read_manifest(small_set)[:7]
    whole, parts = (
        evaluate_manifest(tmp_path / "net", rows, CLASSES, replace(ALL, processes=processes))
        for processes in (1, 3)
    )
    pd.testing.assert_frame_equal(parts.metrics, whole.metrics, rtol=1e-6)


def add_spacing(manifest, text):
    pd.read_csv(manifest).assign(spacing=text).to_csv(manifest, index=False)
    return list(read_cases(read_manifest(manifest), 2))


def test_a_tolerance_in_mm_reads_the_spacing_of_the_manifest(small_set):
    spec = replace(ALL, metrics=("surface_dice",), tolerance=1.0)
    net = Dark()
    net.level.data += 0.15
    coarse = add_spacing(small_set, "0.5x0.5")  # 1 mm are 2 pixels
    in_mm = measure(net, coarse[:4], CLASSES, replace(spec, tolerance_unit="mm")).metrics
    in_pixels = measure(net, coarse[:4], CLASSES, replace(spec, tolerance=2.0)).metrics
    pd.testing.assert_frame_equal(in_mm, in_pixels)


def test_a_spacing_that_is_needed_and_unknown_names_the_case(cases):
    spec = replace(ALL, metrics=("surface_dice",), tolerance_unit="mm")
    with pytest.raises(SkipshiftError, match=r"case case-00: has no spacing .* or the tolerance"):
        measure(Dark(), cases[:1], CLASSES, spec)
    assert len(measure(Dark(), cases[:1], CLASSES, replace(spec, metrics=("iou",))).metrics) == 4


@pytest.mark.parametrize("text", ["0", "-1x1", "1x2x3", "wide", "nanx1", "x"])
def test_a_spacing_that_is_no_length_is_unknown(text):
    assert parse_spacing(text) is None


def test_a_study_measures_the_metrics_it_is_asked_for_later_without_training(small_set, tmp_path):
    spec = StudySpec(
        manifest=small_set,
        classes=CLASSES,
        encoders=(TINY,),
        skips=("baseline",),
        folds=2,
        run_folds=(0,),
        shifts=(),
        profile_shifts=(),
        training=TrainingSpec(encoder_weights=None, epochs=1, crop=32),
    )
    run_study(spec, tmp_path)
    assert not (tmp_path / "tables" / "metrics.parquet").exists()
    run = next((tmp_path / "runs").iterdir())
    trained = (run / "weights.safetensors").stat().st_mtime_ns
    run_study(replace(spec, metrics=("boundary_iou", "ece")), tmp_path)
    assert (run / "weights.safetensors").stat().st_mtime_ns == trained
    table = read_table(tmp_path / "tables" / "metrics.parquet")
    assert table["run"].unique().tolist() == [run.name]
    shown = read_table(tmp_path / "tables" / "metrics.csv")
    assert shown["variant"].unique().tolist() == ["baseline"]
    assert shown["metric"].tolist() == ["boundary_iou", "boundary_iou", "ece"]


def test_a_study_misses_a_spacing_before_it_trains(small_set, tmp_path):
    spec = StudySpec(
        manifest=small_set, classes=CLASSES, metrics=("surface_dice",), tolerance_unit="mm"
    )
    with pytest.raises(SkipshiftError, match=r"manifest\.csv: case case-10 has no spacing"):
        run_study(spec, tmp_path / "study")


def test_a_prediction_on_ignored_pixels_changes_nothing(cases):
    spec = EvaluationSpec(metrics=("iou", "brier"), precision="fp32", ignore=7)
    edge = [replace(case, mask=case.mask.copy()) for case in cases[:2]]
    for case in edge:
        case.mask[:16] = 7
    plain = measure(Dark(), edge, CLASSES, spec)
    light = [np.where(np.arange(64)[:, None, None] < 16, np.uint8(0), c.image) for c in edge]
    dark = [replace(case, image=image) for case, image in zip(edge, light, strict=True)]
    assert not np.array_equal(dark[0].image, edge[0].image)
    other = measure(Dark(), dark, CLASSES, spec)
    pd.testing.assert_frame_equal(plain.counts, other.counts)
    pd.testing.assert_frame_equal(plain.metrics, other.metrics)
    assert (plain.counts.groupby("case")["tp"].sum() <= 48 * 64).all()
    with pytest.raises(SkipshiftError, match="set ignore to the value of pixels"):
        measure(Dark(), edge, CLASSES, replace(spec, ignore=None))
