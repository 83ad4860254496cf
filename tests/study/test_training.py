from dataclasses import replace

import numpy as np
import pytest
import torch

from architectures import TINY
from skipshift.data.manifest import read_cases, read_manifest
from skipshift.errors import SkipshiftError
from skipshift.networks.unet import Unet
from skipshift.specs import EvaluationSpec
from skipshift.statistics.counts import iou
from skipshift.study import evaluation
from skipshift.study.evaluation import evaluate, evaluate_manifest, predict
from skipshift.study.loggers import loggers_of
from skipshift.study.training import RunOutput, train
from skipshift.study_specs import TrainingSpec

SPEC = TrainingSpec(
    encoder_weights=None, epochs=3, learning_rate=2e-3, crop=32, crops_per_image=2, decay_every=9
)
CLASSES = ("background", "cell")


@pytest.fixture
def cases(small_set):
    return list(read_cases(read_manifest(small_set), 2))


def make_net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Unet(TINY)


@pytest.mark.filterwarnings("ignore:every pixel was predicted")
@pytest.mark.parametrize("seed", range(3))
def test_training_lowers_the_loss_and_keeps_the_best_epoch(cases, tmp_path, seed):
    done = train(make_net(seed), cases[:10], cases[10:], SPEC, seed, RunOutput(tmp_path / "run"))
    losses = [row["train_loss"] for row in done.history]
    assert losses[-1] < 0.75 * losses[0]
    scores = [row["validation_iou"] for row in done.history]
    assert done.record["validation_iou"] == max(scores)
    assert done.record["best_epoch"] == int(np.argmax(scores))
    assert mean_iou(done.net, cases[10:]) == pytest.approx(max(scores), abs=0.01)


def mean_iou(net, cases):
    table = evaluate(net, cases, CLASSES)
    pooled = table.groupby("class")[["tp", "fp", "fn"]].sum().loc[list(CLASSES)]
    return iou(pooled.to_numpy()).mean()


@pytest.mark.filterwarnings("ignore:every pixel was predicted")
def test_skip_dropout_feeds_zeros_for_each_image_and_level_while_training(cases, tmp_path):
    net, fed = make_net(), {True: [], False: []}
    forward = net.decoder.forward

    def record(features):
        zeros = torch.stack([(f == 0).flatten(1).all(1) for f in features[1:]])
        fed[net.decoder.training].append(zeros)
        return forward(features)

    net.decoder.forward = record
    spec = replace(SPEC, epochs=4, skip_dropout=0.5)
    train(net, cases[:10], cases[10:], spec, 0, RunOutput(tmp_path))
    *levels, bottleneck = torch.cat(fed[True], 1)
    assert not bottleneck.any()
    # of 64 or more draws, fewer than one in 10,000 are so uneven
    assert all(len(level) >= 64 and 0.2 < level.float().mean() < 0.8 for level in levels)
    assert len(torch.unique(torch.stack(levels), dim=1).T) > 8
    assert not torch.cat(fed[False], 1).any()
    assert not net.decoder._forward_pre_hooks


def test_the_rate_decays_in_steps(cases, tmp_path):
    spec = replace(SPEC, epochs=7, decay_every=3, crops_per_image=1)
    done = train(make_net(), cases[:2], cases[10:11], spec, 0, RunOutput(tmp_path))
    rates = [row["learning_rate"] for row in done.history]
    assert rates == pytest.approx([2e-3] * 3 + [2e-4] * 3 + [2e-5])


def test_a_run_that_was_cut_off_ends_like_one_that_was_not(cases, tmp_path):
    def stop_in_the_last_epoch(items, _label, _total=None):
        for step, item in enumerate(items):
            if step == 5:
                raise RuntimeError("power loss")
            yield item

    cut = RunOutput(tmp_path / "cut", progress=stop_in_the_last_epoch)
    whole = train(make_net(), cases[:10], cases[10:], SPEC, 0, RunOutput(tmp_path / "whole"))
    with pytest.raises(RuntimeError, match="power loss"):
        train(make_net(), cases[:10], cases[10:], SPEC, 0, cut)
    again = train(make_net(1), cases[:10], cases[10:], SPEC, 0, RunOutput(tmp_path / "cut"))
    assert again.history == whole.history
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, again.net.state_dict()[name]), name


def test_dropout_goes_on_where_it_was_cut_off(cases, tmp_path):
    spec = replace(SPEC, epochs=2, crops_per_image=1)

    def dropping():
        net = make_net()
        net.decoder = torch.nn.Sequential(net.decoder, torch.nn.Dropout(0.5))
        return net

    def stop_in_the_second_epoch(items, _label, _total=None):
        for step, item in enumerate(items):
            if step == 1:
                raise RuntimeError("power loss")
            yield item

    torch.rand(7)  # earlier draws must not matter
    cut = RunOutput(tmp_path / "cut", progress=stop_in_the_second_epoch)
    whole = train(dropping(), cases[:8], cases[10:], spec, 0, RunOutput(tmp_path / "whole"))
    with pytest.raises(RuntimeError, match="power loss"):
        train(dropping(), cases[:8], cases[10:], spec, 0, cut)
    again = train(dropping(), cases[:8], cases[10:], spec, 0, RunOutput(tmp_path / "cut"))
    assert again.history == whole.history


@pytest.mark.filterwarnings("ignore:every pixel was predicted")
@pytest.mark.slow  # two processes that import torch and Lightning
def test_two_processes_share_the_batches_of_a_run(cases, tmp_path):
    steps = []
    for spec in (replace(SPEC, epochs=2), replace(SPEC, epochs=2, devices=2)):
        output = RunOutput(tmp_path / f"{spec.devices}")
        two = train(make_net(), cases[:10], cases[10:13], spec, 0, output)
        last = torch.load(output.folder / "checkpoints/last.ckpt", weights_only=True)
        steps.append(last["global_step"])
    assert steps[0] == steps[1]
    assert two.history[-1]["train_loss"] < two.history[0]["train_loss"]
    assert mean_iou(two.net, cases[10:13]) == pytest.approx(two.record["validation_iou"], abs=0.01)


class InThisProcess:
    """A pool that starts no process."""

    def __init__(self, *_):
        self.map = map

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize(
    ("processes", "spawn"),
    [(2, False), (3, False), pytest.param(2, True, marks=pytest.mark.slow)],  # they import torch
)
def test_shards_of_cases_add_up_to_the_whole(small_set, tmp_path, monkeypatch, processes, spawn):
    if not spawn:
        monkeypatch.setattr(evaluation, "ProcessPoolExecutor", InThisProcess)
    make_net().save(tmp_path / "net")
    rows = read_manifest(small_set)[:7]  # which neither 2 nor 3 divides
    spec = EvaluationSpec(shifts=("brightness:0.75",))
    whole = evaluate_manifest(tmp_path / "net", rows, CLASSES, spec).counts
    shared = replace(spec, processes=processes)
    parts = evaluate_manifest(tmp_path / "net", rows, CLASSES, shared).counts
    assert parts.equals(whole)
    assert list(whole["case"].unique()) == list(rows["case"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the trackers' own libraries
@pytest.mark.parametrize(
    ("tracker", "left"),
    [
        ("tensorboard", "tensorboard/run/events.*"),
        ("mlflow", "mlflow.db"),
        ("wandb", "wandb/*run*"),
    ],
)
def test_a_tracker_keeps_the_curves(cases, tmp_path, monkeypatch, tracker, left):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    loggers = loggers_of((tracker,), tmp_path, "run")
    spec = replace(SPEC, epochs=1, crops_per_image=1)
    train(make_net(), cases[:8], cases[10:], spec, 0, RunOutput(tmp_path / "run", loggers))
    assert list((tmp_path / "trackers").glob(left))


def test_a_tracker_that_is_not_installed_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(SkipshiftError, match=r"pip install 'skipshift\[mlflow\]'"):
        loggers_of(("mlflow",), tmp_path, "run")


def test_a_loss_that_is_not_finite_says_what_to_change(cases, tmp_path):
    spec = replace(SPEC, learning_rate=1e30)
    with pytest.raises(SkipshiftError, match="the loss is nan in epoch 0; lower learning_rate"):
        train(make_net(), cases[:10], cases[10:], spec, 0, RunOutput(tmp_path))


def test_progress_counts_every_step(cases, tmp_path):
    seen = []

    def watch(items, label, total=None):
        seen.extend([label, total])
        for item in items:
            seen.append(item)
            yield item

    train(
        make_net(),
        cases[:4],
        cases[10:],
        replace(SPEC, epochs=2, crops_per_image=4),
        0,
        RunOutput(tmp_path / "run", progress=watch),
    )
    assert seen[:2] == ["train run", 4]
    assert seen[2:] == [0, 1, 2, 3]


def test_evaluation_counts_every_case_once_for_any_batch_size(cases):
    net = make_net()
    domains = ("brightness:0.75", "saturation:0")
    specs = [EvaluationSpec(shifts=domains, batch_size=size, precision="fp32") for size in (1, 4)]
    alone, together = (evaluate(net, cases[:5], CLASSES, spec) for spec in specs)
    names = ["domain", "case", "group", "class"]
    assert alone[names].equals(together[names])
    # some processors sum in another order for another batch, and a pixel may lie on the edge
    numbers = ["tp", "fp", "fn"]
    assert (alone[numbers] - together[numbers]).abs().to_numpy().max() <= 2
    assert len(alone) == 5 * 3 * 2
    pixels = alone[alone["class"] == "cell"][["tp", "fn"]].sum(axis=1)
    assert pixels.tolist() == [int(case.mask.sum()) for case in cases[:5] for _ in range(3)]


def test_images_of_several_sizes_are_evaluated(cases):
    narrow = replace(cases[0], image=cases[0].image[:32], mask=cases[0].mask[:32])
    several = [cases[1], narrow, cases[2]]
    predictions = [labels for _, labels in predict(make_net(), several, EvaluationSpec())]
    assert [labels.shape for labels in predictions] == [(64, 64), (32, 64), (64, 64)]


def test_a_case_that_the_network_cannot_take_is_named(cases):
    odd = replace(cases[3], image=cases[3].image[:50], mask=cases[3].mask[:50])
    with pytest.raises(SkipshiftError, match="case case-03: image sides must be multiples of 32"):
        evaluate(make_net(), [odd], CLASSES)
    grey = replace(cases[3], image=cases[3].image[..., :1])
    with pytest.raises(SkipshiftError, match="case-03: has 1 channels, the network takes 3"):
        evaluate(make_net(), [grey], CLASSES)


@pytest.mark.parametrize("ignore", [9, 255])
def test_training_is_the_same_whatever_value_is_ignored(cases, tmp_path, ignore):
    def masked(value):
        edge = np.arange(64) < 24
        return [replace(c, mask=np.where(edge, np.uint8(value), c.mask)) for c in cases]

    spec = replace(SPEC, epochs=1, precision="fp32")
    runs = []
    for value in (ignore, 17):
        each, output = masked(value), RunOutput(tmp_path / str(value))
        runs.append(train(make_net(), each[:4], each[10:], replace(spec, ignore=value), 0, output))
    assert runs[0].history == runs[1].history
    weights = [run.net.state_dict() for run in runs]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    scored = evaluate(runs[0].net, masked(ignore)[10:], CLASSES, EvaluationSpec(ignore=ignore))
    pooled = scored.groupby("class")[["tp", "fp", "fn"]].sum().loc[list(CLASSES)].to_numpy()
    assert iou(pooled).mean() == pytest.approx(runs[0].record["validation_iou"], abs=0.01)
