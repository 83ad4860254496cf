import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.networks.changes import Change
from skipshift.networks.checkpoints import load_net
from skipshift.networks.layers import layers_of
from skipshift.networks.mended import save_mended
from skipshift.networks.outputs import find_output
from skipshift.networks.unet import Unet

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
PLAN = {
    "n_stages": 3, "features_per_stage": [4, 8, 16], "kernel_sizes": [[3, 3]] * 3,
    "strides": [[1, 1], [2, 2], [2, 2]], "n_conv_per_stage": [1] * 3,
    "n_conv_per_stage_decoder": [1] * 2, "conv_bias": True, "conv_op": "torch.nn.Conv2d",
    "norm_op": "torch.nn.InstanceNorm2d", "norm_op_kwargs": {"affine": True}, "dropout_op": None,
    "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
}  # fmt: skip


def same(a, b):
    with torch.no_grad():
        expected = b(IMAGES)
        return torch.allclose(a(IMAGES), expected, atol=1e-5 * expected.abs().max().item())


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


@pytest.fixture
def builder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    convs = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)\n"
        "    return nn.Sequential(convs[0], nn.BatchNorm2d(4), convs[1])\n"
        "def sized(classes):\n"
        "    return net()\n"
        "def text():\n"
        "    return 'net'\n"
    )
    monkeypatch.chdir(tmp_path)
    return "mine:net"


@pytest.fixture
def results(tmp_path):
    """A results folder as nnU-Net v2 leaves it, of a network that it would build from its plans."""
    kinds = {"conv_op": nn.Conv2d, "norm_op": nn.InstanceNorm2d, "nonlin": nn.LeakyReLU}
    net = PlainConvUNet(3, num_classes=2, deep_supervision=True, **{**PLAN, **kinds}).eval()
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": PLAN,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    plans = {
        "2d": {"architecture": architecture, "patch_size": [64, 64]},
        "2d_large": {"inherits_from": "2d", "patch_size": [96, 96]},
    }
    dataset = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "c": 1}}
    fold = tmp_path / "nnUNetTrainer__nnUNetPlans__2d_large" / "fold_0"
    fold.mkdir(parents=True)
    (fold.parent / "plans.json").write_text(json.dumps({"configurations": plans}))
    (fold.parent / "dataset.json").write_text(json.dumps(dataset))
    checkpoint = {
        "network_weights": net.state_dict(),
        "logging": {"train_losses": [np.float32(0.5)], "mean_fg_dice": [np.float64(0.9)]},
        "_best_ema": np.float64(0.9),
        "init_args": {"configuration": "2d_large", "device": torch.device("cpu")},
    }
    torch.save(checkpoint, fold / "checkpoint_final.pth")
    net.decoder.deep_supervision = False
    return fold.parent, net


def test_a_run_folder_gives_its_network(tmp_path):
    net = Unet("resnet18", skips=(2, 3)).eval()
    net.save(tmp_path)
    assert same(load_net(tmp_path), net)


def test_a_folder_of_smp_gives_its_network(tmp_path):
    net = smp.Linknet("resnet18", encoder_weights=None).eval()
    net.save_pretrained(tmp_path)
    assert same(load_net(tmp_path), net)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model."])
def test_a_builder_makes_the_network_of_a_file_of_weights(tmp_path, builder, prefix):
    net = small().eval()
    weights = {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "net.pt")
    assert same(load_net(tmp_path / "net.pt", builder), net)


def test_an_exported_archive_keeps_its_modules(tmp_path):
    net = small().eval()
    batch = {0: torch.export.Dim("images", min=1, max=64)}
    torch.export.save(
        torch.export.export(net, (IMAGES,), dynamic_shapes=(batch,)), tmp_path / "net.pt2"
    )
    loaded = load_net(tmp_path / "net.pt2")
    assert same(loaded, net)
    assert list(layers_of(loaded, ["2"])) == ["2"]


def test_an_nnunet_folder_is_built_from_its_plans(results):
    folder, net = results
    assert same(load_net(folder), net)
    assert same(load_net(folder / "fold_0"), net)


def test_what_lies_above_or_in_a_fold_of_nnunet_names_the_fold(results):
    fold = results[0] / "fold_0"
    for given in (fold.parents[1], fold / "checkpoint_final.pth"):
        with pytest.raises(SkipshiftError, match=f"nnU-Net; give .*{fold}$"):
            load_net(given)


def test_regions_and_ignored_labels_count_as_nnunet_counts_them(results):
    folder, _ = results
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    dataset = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**dataset, "labels": labels}))
    net = load_net(folder)
    assert net(IMAGES).shape[1] == 2
    with pytest.raises(ArgumentError, match="predicts overlapping regions"):
        find_output(net, IMAGES)


def test_a_mended_nnunet_fold_is_an_nnunet_results_folder(results, tmp_path):
    folder, net = results
    name = "encoder.stages.0.0.convs.0.conv.weight"
    value = torch.rand_like(net.state_dict()[name])
    save_mended(tmp_path / "mended", net, Change(weights={name: value}), folder / "fold_0", {})
    again = load_net(tmp_path / "mended")
    assert torch.equal(again.state_dict()[name], value)
    owner, mended = (
        torch.load(each / "fold_0/checkpoint_final.pth", weights_only=False)
        for each in (folder, tmp_path / "mended")
    )
    assert list(owner) == list(mended)
    assert list(owner["network_weights"]) == list(mended["network_weights"])
    with torch.no_grad():
        expected = Change(weights={name: value}).logits(net, IMAGES)
        net.load_state_dict(mended["network_weights"])
        assert torch.equal(net(IMAGES), expected)
        assert torch.equal(again(IMAGES), expected)


def test_of_several_folds_one_must_be_named(results):
    folder, _ = results
    shutil.copytree(folder / "fold_0", folder / "fold_1")
    with pytest.raises(
        SkipshiftError, match="contains fold_0, fold_1; name the folder of one fold"
    ):
        load_net(folder)


def test_plans_may_name_nothing_but_networks_and_layers(results):
    folder, _ = results
    plans = (folder / "plans.json").read_text()
    (folder / "plans.json").write_text(plans.replace("torch.nn.Conv2d", "os.system"))
    with pytest.raises(SkipshiftError, match=r"os\.system is not part of torch\.nn"):
        load_net(folder)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda w: w.pop("0.bias"), "net.pt: lacks 0.bias; these are weights of another network"),
        (lambda w: w.update(x=w["0.bias"]), "net.pt: has x, which the network lacks"),
        (lambda w: w.update({"2.bias": w["0.bias"]}), r"has 2.bias as \(4,\), not \(2,\)"),
    ],
)
def test_wrong_keys_and_shapes_are_named(tmp_path, builder, change, fault):
    weights = small().state_dict()
    change(weights)
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(SkipshiftError, match=fault):
        load_net(tmp_path / "net.pt", builder)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("mine", "'mine' must have the form module:function"),
        ("mine:nothing", "mine has no function nothing"),
        ("absent:net", "No module named 'absent'; run from the folder that contains it"),
        ("other.py:net", "other.py does not exist"),
        ("mine:net(classes=size)", "function\\(classes=3\\) with numbers, strings"),
        ("mine:sized", "must take no arguments: .* 'classes'; give them in brackets, mine:sized"),
        ("json:dump", "json:dump must take no arguments: missing a required argument: 'obj'"),
        ("broken:net", "broken cannot be imported: No module named 'absent_library'"),
        ("mine:text", r"mine:text must return a torch.nn.Module, got str"),
    ],
)
@pytest.mark.usefixtures("builder")
def test_a_wrong_builder_is_an_argument_at_fault(name, fault):
    Path("broken.py").write_text("import absent_library\n")
    with pytest.raises(ValueError, match=fault):
        load_net("net.pt", name)


def test_files_that_are_something_else_say_so(tmp_path):
    torch.save(small().state_dict(), tmp_path / "net.pt")
    with pytest.raises(
        SkipshiftError, match=r"contains only weights; .* --builder module:function"
    ):
        load_net(tmp_path / "net.pt")
    (tmp_path / "net.pt2").write_bytes(b"nothing")
    with pytest.raises(SkipshiftError, match=r"net\.pt2: is not a file of torch weights"):
        load_net(tmp_path / "net.pt2")
    with pytest.raises(SkipshiftError, match="absent: does not exist"):
        load_net(tmp_path / "absent")
    with pytest.raises(SkipshiftError, match=r"is not a run folder \(no run.json\), nor an smp"):
        load_net(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_pickled_network_is_not_loaded(tmp_path, builder, legacy):
    path = tmp_path / "whole.pt"
    torch.save(small(), path, _use_new_zipfile_serialization=not legacy)
    for name in (None, builder):
        with pytest.raises(SkipshiftError, match=r"a whole pickled object, torch.nn.*; save the"):
            load_net(path, name)


@pytest.mark.parametrize("name", ["net.pt", "archive.pt", "absent.pt", "folder.pt"])
def test_what_is_not_weights_says_so(tmp_path, builder, name):
    (tmp_path / "net.pt").write_text("text")
    (tmp_path / "folder.pt").mkdir()
    np.savez(tmp_path / "archive.npz", a=np.zeros(1))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.pt")
    faults = {"absent.pt": "does not exist", "folder.pt": "is a folder"}
    fault = faults.get(name, "is not a file of torch weights")
    with pytest.raises(SkipshiftError, match=f"{name}: {fault}"):
        load_net(tmp_path / name, builder)


def test_a_folder_of_another_library_says_so(tmp_path):
    (tmp_path / "config.json").write_text('{"_model_class": "BertModel"}')
    with pytest.raises(
        SkipshiftError, match="does not name a network of segmentation_models_pytorch"
    ):
        load_net(tmp_path)
    (tmp_path / "config.json").write_text('{"_model_class": "Unet", "encoder_name": "nothing"}')
    with pytest.raises(SkipshiftError, match=r"config\.json: does not describe a valid network"):
        load_net(tmp_path)


def test_a_broken_nnunet_folder_says_so(results):
    folder, _ = results
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"nothing")
    with pytest.raises(
        SkipshiftError, match=r"checkpoint_final\.pth: is not an nnU-Net v2 checkpoint"
    ):
        load_net(folder)
    (folder / "fold_0" / "checkpoint_final.pth").unlink()
    with pytest.raises(SkipshiftError, match=r"checkpoint_final\.pth: does not exist"):
        load_net(folder)
