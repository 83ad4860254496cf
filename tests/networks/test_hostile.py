"""A hostile file of each format that a network is loaded from: nothing in it is run."""

import io
import json
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from skipshift.errors import SkipshiftError
from skipshift.networks.checkpoints import load_net
from skipshift.study.cluster import unpack

IMAGES = torch.zeros(2, 3, 8, 8)


class Evil:
    """Creates a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("evil"),)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "tiny_hostile.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Conv2d(3, 2, 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not Path("evil").exists()


def saved(content, legacy=False):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def exported(change):
    """An archive of torch.export after a change of its members, {name without folder: bytes}."""
    buffer = io.BytesIO()
    batch = {0: torch.export.Dim("images", min=1, max=64)}
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()).eval()
    torch.export.save(torch.export.export(net, (IMAGES,), dynamic_shapes=(batch,)), buffer)
    with zipfile.ZipFile(buffer) as archive:
        members = {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}
    change(members)
    with zipfile.ZipFile("net.pt2", "w") as archive:
        for name, content in members.items():
            archive.writestr(f"net/{name}", content)
    return Path("net.pt2")


def graph(pattern, text):
    def change(members):
        members["models/model.json"] = re.sub(
            pattern.encode(), text.encode(), members["models/model.json"], count=1
        )

    return change


def pickled(config, prefix):
    """Name a pickled object in the list of weights or constants."""

    def change(members):
        room = config.rpartition("/")[0]
        members[f"{room}/{prefix}_9"] = saved(Evil())
        payload = {"path_name": f"{prefix}_9", "is_param": True, "use_pickle": True}
        listed = {"config": {"0.weight": {**payload, "tensor_meta": None}}}
        members[config] = json.dumps(listed).encode()

    return change


WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"

ARCHIVES = {
    "pickled weight": (pickled(WEIGHTS, "weight"), "weight_9 holds more than tensors"),
    "pickled constant": (pickled(CONSTANTS, "tensor"), "tensor_9 holds more than tensors"),
    "script object": (pickled(CONSTANTS, "custom_obj"), "custom_obj_9 is a pickled object"),
    "opaque object": (pickled(CONSTANTS, "opaque_obj"), "opaque_obj_9 is a pickled object"),
    "all weights": (
        lambda m: m.update({"data/weights/model.pt": saved({"a": Evil()})}),
        "weights/model.pt holds more than tensors",
    ),
    "all constants": (
        lambda m: m.update({"data/constants/model.pt": saved({"a": Evil()})}),
        "constants/model.pt holds more than tensors",
    ),
    "compiled library": (
        lambda m: m.update({"data/aotinductor/model/net.so": b"\x7fELF"}),
        "it holds compiled code",
    ),
    "operator": (graph(r"torch\.ops\.aten\.relu\.default", "torch.os.system"), "is no operator"),
    "operator on files": (
        graph(r"torch\.ops\.aten\.relu\.default", "torch.ops.aten.from_file"),
        "is no operator",
    ),
    "name": (
        graph(r'"name": "relu"', "\"name\": \"relu=__import__('pathlib').Path('evil').touch()\""),
        "is no name",
    ),
    "size": (
        graph(r'"expr_str": "[^"]*"', "\"expr_str\": \"open('evil', 'w')\""),
        "is no expression of sizes",
    ),
    "attribute of a size": (
        graph(r'"expr_str": "[^"]*"', '"expr_str": "Integer(1).__class__"'),
        "is no expression of sizes",
    ),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_of_torch_export_runs_nothing(kind):
    change, message = ARCHIVES[kind]
    path = exported(change)
    with pytest.raises(SkipshiftError, match=f"net.pt2: is not loaded: .*{message}"):
        load_net(path)


def test_samples_and_guards_of_an_archive_are_not_read():
    def change(members):
        members["data/sample_inputs/model.pt"] = saved(Evil())
        model = json.loads(members["models/model.json"])
        model["guards_code"] = ["__import__('pathlib').Path('evil').touch()"]
        members["models/model.json"] = json.dumps(model).encode()

    assert load_net(exported(change))(IMAGES[:1]).shape == (1, 2, 8, 8)


@pytest.mark.parametrize("builder", [None, "tiny_hostile:build"])
@pytest.mark.parametrize(
    "content",
    [
        saved(Evil()),
        saved({"state_dict": {"weight": torch.ones(2, 3, 1, 1)}, "hyper": Evil()}),
        saved(Evil(), legacy=True),
        pickle.dumps(Evil()),
    ],
    ids=["whole", "beside weights", "legacy", "pickle"],
)
def test_a_file_of_torch_runs_nothing(folder, content, builder):
    (folder / "net.pt").write_bytes(content)
    with pytest.raises(SkipshiftError, match=r"net\.pt: .*(pickled|getattr|pathlib)"):
        load_net(folder / "net.pt", builder)


def test_a_folder_of_smp_runs_nothing(folder):
    (folder / "config.json").write_text('{"_model_class": "Unet", "encoder_name": "resnet18"}')
    (folder / "pytorch_model.bin").write_bytes(saved(Evil()))
    with pytest.raises(SkipshiftError, match=r"pytorch_model\.bin: .*pickled"):
        load_net(folder)


@pytest.mark.parametrize("name", ["create_model", "Unet.__init__", "losses", "encoders"])
def test_a_folder_of_smp_names_nothing_but_networks(folder, name):
    (folder / "config.json").write_text(json.dumps({"_model_class": name, "arch": "unet"}))
    with pytest.raises(SkipshiftError, match="does not name a network of segmentation_models"):
        load_net(folder)


def test_a_bundle_and_a_fold_of_nnunet_run_nothing(folder):
    parts = {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, "channels": [4, 8]}
    network = {"_target_": "UNet", **parts, "strides": [2]}
    for place in ("configs", "models", "fold_0"):
        (folder / place).mkdir()
    (folder / "configs/inference.json").write_text(json.dumps({"network_def": network}))
    (folder / "models/model.pt").write_bytes(saved(Evil()))
    with pytest.raises(SkipshiftError, match=r"model\.pt: .*pickled"):
        load_net(folder)
    (folder / "configs/inference.json").unlink()
    (folder / "plans.json").write_text("{}")
    (folder / "fold_0/checkpoint_final.pth").write_bytes(saved({"a": Evil()}))
    with pytest.raises(SkipshiftError, match=r"checkpoint_final\.pth: .*pickled"):
        load_net(folder)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_that_writes_files_is_not_loaded(folder):
    class Writes(nn.Module):
        def forward(self, x):
            torch.save(x, "evil")
            return x

    torch.jit.script(Writes()).save(folder / "net.pt")
    with pytest.raises(SkipshiftError, match=r"is not loaded: its code calls torch\.save"):
        load_net(folder / "net.pt")


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_pickle_in_torchscript_runs_nothing(folder):
    torch.jit.script(nn.Conv2d(3, 2, 1)).save(folder / "whole.pt")
    with zipfile.ZipFile("whole.pt") as old, zipfile.ZipFile("net.pt", "w") as new:
        for name in old.namelist():
            hostile = name.endswith("/data.pkl")
            new.writestr(name, pickle.dumps(Evil(), 2) if hostile else old.read(name))
    with pytest.raises(SkipshiftError, match=r"net\.pt: cannot be read as TorchScript"):
        load_net(folder / "net.pt")


@pytest.mark.parametrize("name", ["../evil", "/tmp/../evil", "a/../../evil", "a\\..\\..\\evil", ""])
def test_a_node_cannot_write_outside_the_folder_of_its_run(folder, name):
    with pytest.raises(SkipshiftError, match=r"a node sent .*, which leaves the folder"):
        unpack({"run.json": b"{}", name: b""}, folder / "run")
    assert not (folder / "run").exists()
