import json

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

from skipshift.cli.arguments import RunningSpec
from skipshift.cli.inputs import check_network
from skipshift.data.preprocess import PREPROCESS, preprocess_of
from skipshift.errors import ArgumentError
from skipshift.networks.input_values import settle_preprocess
from skipshift.networks.unet import Unet

TINY = "tu-mobilenetv3_small_050"


def test_an_option_comes_first_and_a_run_folder_is_of_our_own_training(tmp_path):
    net = Unet(TINY)
    net.save(tmp_path / "run", classes=["a", "b"])
    assert settle_preprocess(tmp_path / "run", net, "zscore") == ("zscore", "--preprocess")
    assert settle_preprocess(tmp_path / "run", net) == ("unit", "skipshift's training")


@pytest.mark.parametrize(
    ("started", "encoder", "expected"),
    [
        ("imagenet", "resnet18", ("imagenet", "the ImageNet weights of resnet18")),
        ("imagenet", TINY, ("imagenet", "timm's pretrained_cfg of mobilenetv3_small_050")),
    ],
)
def test_the_weights_that_an_encoder_of_smp_started_from_tell(tmp_path, started, encoder, expected):
    net = smp.Unet(encoder, encoder_weights=None)
    net.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"encoder_weights": started}))
    assert settle_preprocess(tmp_path, net) == expected


def test_statistics_of_their_own_are_named_with_their_numbers(tmp_path, rng):
    net = torch.nn.Conv2d(3, 2, 1)
    net.pretrained_cfg = {"architecture": "vit", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.25, 0.5)}
    name, where = settle_preprocess(tmp_path / "net.pt", net)
    assert where == "timm's pretrained_cfg of vit"
    image = rng.integers(0, 256, (3, 4, 4), dtype=np.uint8)
    expected = (image / 255 - 0.5) / np.array([0.5, 0.25, 0.5])[:, None, None]
    assert np.allclose(preprocess_of(name)(image), expected, atol=1e-6)


def test_plans_of_nnunet_tell(tmp_path):
    plans = {"configurations": {"2d": {"normalization_schemes": ["ZScoreNormalization"]}}}
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    found = settle_preprocess(tmp_path, torch.nn.Conv2d(1, 2, 1))
    assert found == ("zscore", "the checkpoint (ZScoreNormalization)")
    plans["configurations"]["2d"]["normalization_schemes"] = ["CTNormalization"]
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ArgumentError, match="was trained with CTNormalization, which has no name"):
        settle_preprocess(tmp_path, torch.nn.Conv2d(1, 2, 1))


def test_a_network_that_says_nothing_needs_its_preprocessing_named(tmp_path):
    net = smp.Unet(TINY, encoder_weights=None)
    net.save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match=r"preprocess must be named, since .* give preprocess"):
        settle_preprocess(tmp_path, net)


def test_what_the_files_do_not_say_is_told_before_a_network_is_loaded(tmp_path):
    config = {"encoder_name": TINY, "encoder_weights": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArgumentError, match="preprocess must be named"):
        check_network(tmp_path, RunningSpec())
    check_network(tmp_path, RunningSpec(preprocess="unit"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"encoder_weights": "imagenet"}))
    check_network(tmp_path, RunningSpec())


def test_standardise_needs_a_mean_for_each_channel():
    assert "standardise" not in PREPROCESS
    function = preprocess_of("standardise(mean=(0.5,), std=(0.5,))")
    with pytest.raises(ArgumentError, match="preprocess with 1 means needs 1 channels, got 3"):
        function(np.zeros((3, 4, 4), np.uint8))
