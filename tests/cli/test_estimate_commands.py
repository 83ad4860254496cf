import json

import numpy as np
import pandas as pd
import pytest
import torch

import skipshift as ss
from skipshift.cli.estimate_commands import _unlike
from skipshift.cli.main import main
from skipshift.data.images import write_png

TINY = "tu-mobilenetv3_small_050"


def run(*words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code


@pytest.fixture
def net(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "run"
    net = ss.Unet(TINY, classes=2, encoder_weights=None)
    net.save(folder, classes=["background", "cell"])
    return folder


@pytest.fixture
def images(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "new"
    for index in range(7):
        write_png(folder / f"image-{index}.png", rng.integers(0, 256, (64, 64, 3), np.uint8))
    return folder


def test_estimate_writes_a_row_per_class_and_what_it_was_made_from(
    net, small_set, images, tmp_path, capsys
):
    out = tmp_path / "out"
    assert run("estimate", net, small_set, images, out, "--splits", 1) == 0
    table = pd.read_csv(out / "estimate.csv")
    assert list(table) == ["class", "iou", "low", "high", "method", "answered"]
    assert len(table) == 2
    # four test cases are fewer groups than an interval needs
    assert not table["answered"].any()
    assert table[["iou", "low", "high"]].isna().all(axis=None)
    record = json.loads((out / "estimate.json").read_text())
    assert record["network"]["name"] == str(net)
    assert "fewer than 6 groups" in record["verdict"]
    assert "fewer than 6 groups" in capsys.readouterr().out


def test_agreement_with_other_runs_is_recorded_and_others_are_refused(
    net, small_set, images, tmp_path, capsys
):
    out, peers = tmp_path / "out", [tmp_path / "peer", tmp_path / "three"]
    for peer, classes in zip(peers, (2, 3), strict=True):
        ss.Unet(TINY, classes=classes, encoder_weights=None).save(peer)
    words = ("estimate", net, small_set, images, out, "--splits", 1)
    assert run(*words, "--method", "agreement") == 2
    assert "--method agreement needs other networks: add --agree" in capsys.readouterr().err
    assert run(*words, "--agree", f"{peers[0]},{peers[1]}") == 1
    assert "peers[1] must have the 2 classes of the network, got 3" in capsys.readouterr().err
    assert not out.exists()
    assert run(*words, "--agree", peers[0], "--method", "agreement") == 0
    assert set(pd.read_csv(out / "estimate.csv")["method"]) == {"agreement"}
    record = json.loads((out / "estimate.json").read_text())
    assert list(record["agree"]) == [str(peers[0])]


def test_a_reference_without_masks_is_refused(net, images, tmp_path, capsys):
    assert run("estimate", net, images, images, tmp_path / "out") == 1
    assert "has no masks" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_score_names_the_files_and_refuses_another_network(net, images, tmp_path, capsys):
    fingerprint, out = tmp_path / "a.npz", tmp_path / "out"
    assert run("fingerprint", net, images, fingerprint) == 0
    assert run("score", net, fingerprint, images, out) == 0
    table = pd.read_csv(out / "scores.csv")
    assert list(table) == ["case", "p", "layer", "iou"]
    assert list(table["case"]) == [f"image-{index}" for index in range(7)]
    assert table["p"].between(0, 1, inclusive="right").all()
    record = json.loads((out / "score.json").read_text())
    assert record["images"]["images"] == 7
    assert record["unlike"] is None
    assert "has 7 images, so that no p is below 0.125" in capsys.readouterr().out
    other = tmp_path / "other"
    ss.Unet(TINY, classes=2, encoder_weights=None).save(other)
    capsys.readouterr()
    assert run("score", other, fingerprint, images, tmp_path / "none") == 1
    assert "is of another network" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_images_are_counted_at_the_level_from_twenty_of_the_reference_on():
    p = pd.Series([0.04, 0.05, 0.5])
    assert _unlike(p, 19)[0] is None
    assert _unlike(p, 20)[0] == 1


def test_an_old_fingerprint_is_read_and_cannot_be_scored_against(net, images, tmp_path, capsys):
    fingerprint, old = tmp_path / "a.npz", tmp_path / "old.npz"
    assert run("fingerprint", net, images, fingerprint) == 0
    with np.load(fingerprint) as archive:
        np.savez(old, **{name: archive[name] for name in archive if name != "alone"})
    assert str(ss.Fingerprint.load(old)) == str(ss.Fingerprint.load(fingerprint))
    assert run("score", net, old, images, tmp_path / "out") == 1
    assert "cannot be scored against this fingerprint" in capsys.readouterr().err
