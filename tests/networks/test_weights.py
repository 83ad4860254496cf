"""Kinds of checkpoints by kinds of files: each loads the same network, or is told in one line."""

import argparse
import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from safetensors.torch import save_file
from torch import nn

from skipshift.cli.main import main
from skipshift.errors import SkipshiftError, SkipshiftWarning
from skipshift.networks.checkpoints import load_net, trained_with
from skipshift.networks.weights import read_weights

IMAGES = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
BUILDER = "tiny_network:build"


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


class Own(nn.Sequential):
    """A network whose class no library knows."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "tiny_network.py").write_text(
        "from torch import nn\n"
        "def build(classes=2):\n"
        "    convs = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, classes, 1)\n"
        "    return nn.Sequential(convs[0], nn.BatchNorm2d(4), convs[1])\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_prefix(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


CONTENTS = {
    "bare": lambda w: dict(w),
    "net": lambda w: {"net": w, "epoch": 3},
    "unheard-of key": lambda w: {"anything": w, "optimizer": {"state": {}, "lr": 0.1}},
    "nested": lambda w: {"checkpoint": {"weights": w}, "best": np.float64(0.9)},
    "lightning": lambda w: {"state_dict": with_prefix("model.", w), "hyper_parameters": {"a": 1}},
    "data-parallel": lambda w: {"model": with_prefix("module.", w)},
    "two prefixes": lambda w: with_prefix("module.model.", w),
    "compiled in a wrapper": lambda w: with_prefix("network._orig_mod.", w),
}
WRITERS = {
    "torch": lambda content, path: torch.save(content, path),
    "legacy torch": lambda content, path: torch.save(
        content, path, _use_new_zipfile_serialization=False
    ),
}


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors", "net"])
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("content", CONTENTS)
def test_weights_are_found_by_their_shape_whatever_their_key_and_file(
    folder, content, writer, name
):
    net = tiny().eval()
    WRITERS[writer](CONTENTS[content](net.state_dict()), folder / name)
    assert torch.equal(load_net(folder / name, BUILDER)(IMAGES), net(IMAGES))


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_safetensors_are_known_by_their_content(folder, name):
    net = tiny().eval()
    save_file(with_prefix("module.", net.state_dict()), folder / name)
    assert torch.equal(load_net(folder / name, BUILDER)(IMAGES), net(IMAGES))


@pytest.mark.parametrize("builder", ["tiny_network:build(classes=2)", "tiny_network.py:build(2)"])
def test_a_builder_takes_arguments_and_may_be_a_file(folder, builder):
    net = tiny().eval()
    torch.save(net.state_dict(), folder / "net.pt")
    assert torch.equal(load_net(folder / "net.pt", builder)(IMAGES), net(IMAGES))


def test_a_file_of_the_current_folder_does_not_replace_a_library(folder):
    (folder / "safetensors.py").write_text("def build():\n    raise SystemExit\n")
    with pytest.raises(ValueError, match="safetensors has no function build"):
        load_net(folder / "net.pt", "safetensors:build")


@pytest.mark.parametrize("key", ["loss_fn.weight", "criterion.pos_weight"])
def test_what_a_training_keeps_beside_the_network_is_named_and_left_out(folder, key):
    net = tiny().eval()
    prefixed = {**with_prefix("model.", net.state_dict()), key: torch.ones(2)}
    for content in (prefixed, {**net.state_dict(), key: torch.ones(2)}):
        torch.save(content, folder / "net.pt")
        with pytest.warns(SkipshiftWarning, match=f"no part of the network: {key}"):
            assert torch.equal(load_net(folder / "net.pt", BUILDER)(IMAGES), net(IMAGES))


def test_of_two_sets_of_weights_one_is_taken_and_both_are_named(folder):
    net = tiny().eval()
    averaged = {k: v * 2 for k, v in net.state_dict().items()}
    torch.save({"model": net.state_dict(), "ema": averaged}, folder / "net.pt")
    with pytest.warns(SkipshiftWarning, match="as model and ema; model is taken"):
        assert torch.equal(load_net(folder / "net.pt", BUILDER)(IMAGES), net(IMAGES))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_runs_as_the_network_it_was(folder):
    net = tiny().eval()
    torch.jit.trace(net, IMAGES).save(folder / "net.pt")
    with torch.no_grad():
        assert torch.allclose(load_net(folder / "net.pt")(IMAGES), net(IMAGES), atol=1e-6)


@pytest.mark.filterwarnings("ignore:`torch.jit", "default::skipshift.errors.SkipshiftWarning")
def test_torchscript_is_evaluated_and_says_that_its_layers_are_hidden(folder, small_set, capsys):
    net = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.Sigmoid())
    torch.jit.trace(net, IMAGES).save(folder / "net.pt")
    words = ["evaluate", "net.pt", str(small_set), "out", "--precision", "fp32"]
    how = ["--preprocess", "unit"]
    for given, code in (
        ([*words, *how], 0),
        (["profile", "net.pt", str(small_set), str(small_set), "o", *how], 1),
    ):
        with pytest.raises(SystemExit) as done:
            main(given)
        assert done.value.code == code
    said = capsys.readouterr().err
    assert "note: the network's output lies in [0, 1]: its channel is taken as prob" in said
    assert "a network of TorchScript hides its layers: it can be evaluated" in said
    assert len([line for line in said.splitlines() if "lies in [0, 1]" in line]) == 1


def bundle(folder, **definition):
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    given = {"channels": [4, 8], "network_def": definition}
    given["preprocessing"] = {"transforms": [{"_target_": "NormalizeIntensityd"}]}
    (folder / "configs" / "inference.json").write_text(json.dumps(given))
    return folder


PARTS = {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, "strides": [2]}


@pytest.mark.parametrize("target", ["UNet", "monai.networks.nets.UNet"])
def test_a_bundle_of_monai_names_its_network(folder, target):
    net = UNet(**{**PARTS, "strides": (2,)}, channels=(4, 8)).eval()
    where = bundle(folder, _target_=target, channels="@channels", **PARTS)
    torch.save(net.state_dict(), folder / "models" / "model.pt")
    with pytest.warns(SkipshiftWarning, match="trained with NormalizeIntensityd; give .* zscore"):
        assert torch.equal(load_net(where)(IMAGES), net(IMAGES))
    assert torch.equal(load_net(where, preprocess="zscore")(IMAGES), net(IMAGES))


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({"_target_": "os.system"}, r"os\.system is not part of monai\.networks or torch\.nn"),
        ({"_target_": "monai.networks.utils.torch"}, "has no network torch"),
        ({"_target_": "UNet", "channels": "$__import__('os')"}, "would have to be run"),
        ({"_target_": "UNet", "channels": "@absent"}, "'@absent' would have to be run"),
        ({"_target_": "UNet"}, "does not describe a valid network"),
        ({}, "names no network"),
    ],
)
def test_a_bundle_runs_nothing_and_names_only_networks(folder, definition, message):
    with pytest.raises(SkipshiftError, match=message):
        load_net(bundle(folder, **definition))


def onnx_like(path):
    path.write_bytes(b"\x08\x08\x12\x07pytorch" + bytes(80))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: torch.save(Own(nn.Conv2d(3, 2, 1)), p), r"a whole pickled object, .*\.Own"),
        (lambda p: torch.save({"args": argparse.Namespace()}, p), "a pickled argparse.Namespace"),
        (lambda p: torch.save([1, 2], p), "contains no state_dict"),
        (lambda p: torch.jit.script(tiny()).save(p), "a whole network; load it without --builder"),
        (onnx_like, "is an ONNX file, .* torch.export.save"),
        (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(80)), "HDF5 file, as Keras writes"),
        (lambda p: p.write_text("version https://git-lfs.github.com"), "run git lfs pull"),
        (lambda p: p.write_bytes(b""), "net.bin: is empty"),
        (lambda p: p.write_text("text"), "is not a file of torch weights"),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_what_is_no_file_of_weights_is_told(folder, write, message):
    write(folder / "net.bin")
    with pytest.raises(SkipshiftError, match=message):
        load_net(folder / "net.bin", BUILDER)


def test_a_learner_of_fastai_is_told(folder, monkeypatch):
    learner = type("Learner", (), {"__module__": "fastai.learner"})
    for name in ("fastai", "fastai.learner"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["fastai.learner"].Learner = learner
    torch.save(learner(), folder / "export.pkl")
    with pytest.raises(SkipshiftError, match="is an exported learner of fastai; take its learn"):
        load_net(folder / "export.pkl")


def test_a_savedmodel_of_tensorflow_is_told(folder):
    (folder / "saved_model.pb").touch()
    with pytest.raises(SkipshiftError, match="is a SavedModel of TensorFlow"):
        load_net(folder)


def test_a_whole_object_is_not_called_weights_without_a_builder_either(folder):
    torch.save(Own(nn.Conv2d(3, 2, 1)), folder / "net.pt")
    with pytest.raises(SkipshiftError, match="a whole pickled object"):
        load_net(folder / "net.pt")


def test_without_a_network_the_largest_weights_are_read(folder):
    net = tiny()
    torch.save({"a": {"x": torch.ones(1)}, "b": net.state_dict()}, folder / "net.pt")
    assert set(read_weights(folder / "net.pt")) == set(net.state_dict())


def test_plans_of_nnunet_say_their_preprocessing(folder):
    schemes = {"normalization_schemes": ["ZScoreNormalization"]}
    (folder / "plans.json").write_text(json.dumps({"configurations": {"2d": schemes}}))
    assert trained_with(folder) == ("zscore", "ZScoreNormalization")
    schemes["normalization_schemes"] = ["CTNormalization"]
    (folder / "plans.json").write_text(json.dumps({"configurations": {"2d": schemes}}))
    assert trained_with(folder / "fold_0") is None
    assert trained_with(folder) == (None, "CTNormalization")
