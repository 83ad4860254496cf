import json

import monai
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file, save_file

from skipshift.errors import SkipshiftError
from skipshift.networks.changes import Affine, Change, Channels, Mended
from skipshift.networks.checkpoints import load_net
from skipshift.networks.mended import save_mended
from skipshift.networks.outputs import find_output, giving_logits
from skipshift.networks.quantile_map import QuantileMap
from skipshift.networks.unet import Unet
from skipshift.networks.weights import weights_hash
from toy_unet import ToyUnet

TINY = "tu-mobilenetv3_small_050"
IMAGES = torch.rand(1, 3, 32, 32)


def toy():
    return ToyUnet()


def changed(name, value):
    maps = {"deep": Affine(torch.rand(6), torch.rand(6))}
    maps["first"] = QuantileMap.between(torch.rand(300, 4), torch.rand(300, 4))
    return Change((Channels((2, 1, 0)),), maps, {name: torch.rand_like(value)})


def test_a_mended_file_of_weights_gives_the_same_logits_bit_for_bit(tmp_path):
    net = ToyUnet().eval()
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, tmp_path / "net.pt")
    change = changed("norm.running_mean", net.norm.running_mean)
    save_mended(tmp_path / "mended", net, change, tmp_path / "net.pt", {"remedy": "x"})
    again = load_net(tmp_path / "mended", f"{__name__}:toy")
    assert isinstance(again, Mended)
    with torch.no_grad():
        assert torch.equal(again(IMAGES), change.logits(net, IMAGES))
    kept = torch.load(tmp_path / "mended/network/net.pt", weights_only=True)
    assert kept["epoch"] == 3
    assert list(kept["state_dict"]) == list(net.state_dict())


def test_changed_weights_alone_load_as_their_owner_has_them(tmp_path):
    net = smp.Unet(TINY, encoder_weights=None, classes=2).eval()
    net.save_pretrained(tmp_path / "net")
    name, value = next((k, v) for k, v in net.state_dict().items() if k.endswith("running_mean"))
    change = Change(weights={name: torch.rand_like(value)})
    save_mended(tmp_path / "mended", net, change, tmp_path / "net", {})
    again, owner = load_net(tmp_path / "mended"), smp.from_pretrained(tmp_path / "mended").eval()
    with torch.no_grad():
        expected = change.logits(net, IMAGES)
        assert torch.equal(again(IMAGES), expected)
        assert torch.equal(owner(IMAGES), expected)


def test_a_mended_file_of_weights_is_read_by_torch_alone(tmp_path):
    net = ToyUnet().eval()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    change = Change(weights={"norm.running_mean": torch.rand(4)})
    save_mended(tmp_path / "mended", net, change, tmp_path / "net.pt", {})
    owner = ToyUnet().eval()
    owner.load_state_dict(torch.load(tmp_path / "mended/net.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(owner(IMAGES), change.logits(net, IMAGES))


def test_a_mended_bundle_is_built_by_monai(tmp_path):
    parts = {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, "channels": [4, 8],
             "strides": [2], "norm": "batch"}  # fmt: skip
    net = monai.networks.nets.UNet(**parts).eval()
    for folder in ("configs", "models"):
        (tmp_path / "bundle" / folder).mkdir(parents=True)
    config = {"network_def": {"_target_": "UNet", **parts}}
    (tmp_path / "bundle/configs/inference.json").write_text(json.dumps(config))
    torch.save(net.state_dict(), tmp_path / "bundle/models/model.pt")
    name, value = next((k, v) for k, v in net.state_dict().items() if k.endswith("running_mean"))
    change = Change(weights={name: torch.rand_like(value)})
    save_mended(tmp_path / "mended", net, change, tmp_path / "bundle", {})
    parser = monai.bundle.ConfigParser()
    parser.read_config(tmp_path / "mended/configs/inference.json")
    owner = parser.get_parsed_content("network_def").eval()
    owner.load_state_dict(torch.load(tmp_path / "mended/models/model.pt", weights_only=True))
    with torch.no_grad():
        expected = change.logits(net, IMAGES)
        assert torch.equal(owner(IMAGES), expected)
        assert torch.equal(load_net(tmp_path / "mended")(IMAGES), expected)


def test_a_mended_run_folder_is_a_run_folder(tmp_path):
    net = Unet(TINY).eval()
    net.save(tmp_path / "net")
    name = "decoder.blocks.0.conv1.1.running_var"
    change = Change(weights={name: torch.rand(256) + 1})
    save_mended(tmp_path / "mended", net, change, tmp_path / "net", {})
    with torch.no_grad():
        assert torch.equal(
            Unet.load(tmp_path / "mended").eval()(IMAGES), change.logits(net, IMAGES)
        )


def test_a_prefix_of_the_owner_stays(tmp_path):
    net = ToyUnet().eval()
    save_file(
        {f"module.{k}": v.clone() for k, v in net.state_dict().items()}, tmp_path / "n.safetensors"
    )
    change = Change(weights={"norm.running_mean": torch.ones(4)})
    save_mended(tmp_path / "mended", net, change, tmp_path / "n.safetensors", {})
    kept = load_file(tmp_path / "mended/n.safetensors")
    assert torch.equal(kept["module.norm.running_mean"], torch.ones(4))


def test_weights_that_the_file_lacks_are_told(tmp_path):
    net = ToyUnet()
    save_file({"head.weight": torch.ones(2)}, tmp_path / "n.safetensors")
    change = Change(weights={"norm.running_mean": torch.ones(4)})
    with pytest.raises(SkipshiftError, match=r"n.safetensors: holds no norm.running_mean"):
        save_mended(tmp_path / "mended", net, change, tmp_path / "n.safetensors", {})


def test_a_network_of_mended_weights_is_mended_again(tmp_path):
    net = ToyUnet().eval()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    for number, folder in enumerate(("once", "twice"), 1):
        change = Change(weights={"norm.running_mean": torch.full((4,), float(number))})
        save_mended(
            tmp_path / folder, net, change, tmp_path / ("net.pt" if number == 1 else "once"), {}
        )
    kept = torch.load(tmp_path / "twice/net.pt", weights_only=True)
    assert torch.equal(kept["norm.running_mean"], torch.full((4,), 2.0))


def test_a_network_mended_by_maps_is_not_mended_again_and_is_none_of_smps(tmp_path):
    net = smp.Unet(TINY, encoder_weights=None, classes=2).eval()
    net.save_pretrained(tmp_path / "net")
    change = Change(inputs=(Affine(torch.tensor([2.0]), torch.zeros(1)),))
    save_mended(tmp_path / "mended", net, change, tmp_path / "net", {})
    with torch.no_grad():
        assert torch.equal(load_net(tmp_path / "mended")(IMAGES), change.logits(net, IMAGES))
    with pytest.raises(SkipshiftError, match="is mended already, by a map"):
        save_mended(tmp_path / "again", net, Change(), tmp_path / "mended", {})
    with pytest.raises(AttributeError, match=r"load it by skipshift\.load_net"):
        smp.from_pretrained(str(tmp_path / "mended"))


@pytest.mark.parametrize("text", ["{}", '{"base": 3, "inputs": [], "maps": []}', "[", "[1]"])
def test_a_broken_record_is_named(tmp_path, text):
    (tmp_path / "mended.json").write_text(text)
    with pytest.raises(SkipshiftError, match=r"mended.json: cannot be read as"):
        load_net(tmp_path)


def test_a_record_names_only_maps_that_are_known(tmp_path):
    entry = {"map": "Popen", "tensors": "inputs.0", "arguments": {}}
    record = {"base": ".", "inputs": [entry], "maps": []}
    (tmp_path / "mended.json").write_text(json.dumps(record))
    with pytest.raises(SkipshiftError, match=r"mended.json: cannot be read as a mended network"):
        load_net(tmp_path)


def test_the_hash_of_a_network_hangs_on_each_of_its_numbers():
    net = ToyUnet()
    before = weights_hash(net)
    assert weights_hash(net) == before
    net.norm.running_var[2] += 1e-6
    assert weights_hash(net) != before


def test_an_archive_takes_maps_and_no_weights(tmp_path):
    net = ToyUnet().eval()
    torch.export.save(torch.export.export(net, (IMAGES,)), tmp_path / "net.pt2")
    change = Change(inputs=(Channels((2, 1, 0)),))
    save_mended(tmp_path / "mended", net, change, tmp_path / "net.pt2", {})
    with torch.no_grad():
        expected = change.logits(net, IMAGES)
        assert torch.allclose(load_net(tmp_path / "mended")(IMAGES), expected, atol=1e-6)
    weights = Change(weights={"norm.running_mean": torch.ones(4)})
    with pytest.raises(SkipshiftError, match="weights cannot be replaced in an archive"):
        save_mended(tmp_path / "other", net, weights, tmp_path / "net.pt2", {})


@pytest.mark.filterwarnings("ignore:the network's output lies in")
def test_probabilities_are_turned_to_logits_in_a_mended_network_too(tmp_path):
    net = smp.Unet(TINY, encoder_weights=None, classes=1, activation="sigmoid").eval()
    net.save_pretrained(tmp_path / "net")
    output = find_output(net, IMAGES)
    change = Change(inputs=(Channels((2, 1, 0)),))
    save_mended(tmp_path / "mended", net, change, tmp_path / "net", {}, output)
    with torch.no_grad(), giving_logits(net, output):
        expected = change.logits(net, IMAGES)
    with torch.no_grad():
        assert torch.equal(load_net(tmp_path / "mended")(IMAGES), expected)
    assert expected.min() < 0
