"""Exported files compute what the network does, say what it is, or are not written at all."""

import json

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from architectures import TINY
from skipshift.cli.main import main
from skipshift.errors import SkipshiftError
from skipshift.networks.checkpoints import load_net
from skipshift.networks.unet import Unet
from skipshift.networks.weights import weights_hash
from skipshift.study import export
from skipshift.study.export import About, export_net

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
FILES = {"model.safetensors", "model.onnx", "model.pt2", "config.json", "README.md"}
DOMAINS = pd.DataFrame(
    {"domain": ["A", "B"], "class": "cell", "iou": [0.9, 0.5], "low": [0.8, np.nan]}
).assign(high=0.95, cases=7)


class Net(nn.Module):
    """Gives its logits beside its features."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, images):
        features = self.norm(self.encoder(images)).relu()
        return {"features": features, "out": self.head(features)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "out"
    net = Net().eval()
    checks = export_net(net, IMAGES, out, About("net", "unit", ("ground", "cell"), DOMAINS))
    return out, net, checks


def test_every_file_gives_the_logits_of_the_network(exported):
    out, net, checks = exported
    assert {path.name for path in out.iterdir()} == FILES
    assert (checks["equal_labels"] == 1).all()
    assert (checks["largest_difference"] < 1e-5).all()
    others = torch.rand(2, 3, 48, 32)
    with torch.no_grad():
        expected = net(others)["out"]
        np.testing.assert_allclose(load_net(out)(others), expected, atol=1e-5)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    np.testing.assert_allclose(
        session.run(None, {"images": others.numpy()})[0], expected, atol=1e-5
    )
    assert set(load_file(out / "model.safetensors")) == set(net.state_dict())


def test_the_settings_say_which_network_it_is_and_what_it_was_given(exported):
    out, net, _ = exported
    config = json.loads((out / "config.json").read_text())
    assert config["hash"] == weights_hash(net)
    assert (config["name"], config["preprocess"]) == ("net", "unit")
    assert config["output"] == {"name": "out", "activation": "none"}
    assert {"version", "classes", "checks"} <= set(config)


def test_the_card_has_a_header_and_the_domains_of_the_study(exported):
    lines = (exported[0] / "README.md").read_text().splitlines()
    assert lines[0] == lines[4] == "---"
    assert "| A | cell | 0.900 | 0.800 to 0.950 | 7 |" in lines
    assert "| B | cell | 0.500 |  | 7 |" in lines


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    def other(path, net):
        return lambda images: export._from_weights(path, net)(images) + 1

    monkeypatch.setattr(export, "_READERS", {"model.safetensors": other})
    with pytest.raises(SkipshiftError, match=r"model\.safetensors: computes something else .* 1,"):
        export_net(Net(), IMAGES, tmp_path / "out", About("net"))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_left_as_it_is(tmp_path):
    with pytest.raises(SkipshiftError, match="exists; choose a new folder"):
        export_net(Net(), IMAGES, tmp_path, About("net"))


def test_a_network_that_cannot_be_traced_is_told(tmp_path):
    class Branches(Net):
        def forward(self, images):
            return super().forward(images if images.mean() > 0 else -images)

    with pytest.raises(SkipshiftError, match=r"net: torch\.export cannot trace"):
        export_net(Branches(), IMAGES, tmp_path / "out", About("net"))
    assert not (tmp_path / "out").exists()


def test_a_network_that_is_no_run_needs_images(tmp_path, capsys):
    Unet(TINY).save(tmp_path / "run")
    with pytest.raises(SystemExit) as done:
        main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    assert done.value.code == 1
    assert "run: is no run of a study, whose images could be taken" in capsys.readouterr().err


@pytest.mark.slow  # a U-net through both exporters
def test_the_command_exports_a_run_that_loads_again(tmp_path, small_set, capsys):
    net = Unet(TINY).eval()
    net.save(tmp_path / "run", classes=["ground", "disc"])
    words = ["export", str(tmp_path / "run"), str(tmp_path / "out"), "--images", str(small_set)]
    with pytest.raises(SystemExit) as done:
        main(words)
    assert done.value.code == 0, capsys.readouterr().err
    assert torch.equal(load_net(tmp_path / "out")(IMAGES), net(IMAGES))
    assert "model.onnx" in capsys.readouterr().out
