import json
import warnings

import pytest
import torch

from skipshift.cli.main import _show_warning, app
from skipshift.cli.words import with_dashes
from skipshift.errors import SkipshiftError, SkipshiftWarning
from skipshift.networks.unet import Unet
from skipshift.networks.weights import weights_hash

TINY = "tu-mobilenetv3_small_050"


@pytest.fixture
def net(tmp_path):
    torch.manual_seed(0)
    Unet(TINY).save(tmp_path / "net", classes=["background", "cell"])
    return tmp_path / "net"


@pytest.mark.parametrize(
    ("command", "file", "sets"),
    [
        ("profile {net} {set} contrast:0.5 {out} --null-draws 5", "profile.json", 2),
        ("carry {net} {set} contrast:0.5 {out} --paths L1", "carry.json", 2),
        ("evaluate {net} {set} {out}", "evaluate.json", 1),
        ("fingerprint {net} {set} {out}/a.npz --part 2", "a.made.json", 1),
    ],
)
def test_a_command_records_what_its_result_was_made_from(
    skipshift, small_set, net, tmp_path, command, file, sets
):
    out = tmp_path / "o"
    words = command.format(net=net, set=small_set, out=out).split()
    code, shown, err = skipshift(*words, "--jobs", "1", "--device", "cpu")
    assert code == 0, err
    assert "preprocessing: unit, from skipshift's training" in shown
    record = json.loads((out / file).read_text())
    assert record["network"]["name"] == str(net)
    assert record["network"]["sha256"] == weights_hash(Unet.load(net))
    assert (record["preprocess"], record["device"]) == ("unit", "cpu")
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert record["command"].startswith(f"skipshift {words[0]} {net} {small_set}")
    found = [one for one in record.values() if isinstance(one, dict) and "digest" in one]
    assert len(found) == sets
    assert all((one["images"], one["groups"]) == (4, 4) for one in found)
    assert found[0]["unit"] == "4 images in 4 groups"
    assert found[0]["unit"] in shown
    assert len({one["digest"] for one in found}) == sets


def test_a_device_that_is_not_there_is_one_line(skipshift, small_set, net):
    code, _, err = skipshift("profile", net, small_set, "contrast:0.5", "o", "--device", "tpu9")
    assert code == 2
    assert "--device must be one that this machine has, such as cpu, got 'tpu9'" in err


def test_verbose_says_where_a_network_runs(skipshift, small_set, net, tmp_path):
    words = ("evaluate", net, small_set, tmp_path / "o", "--device", "cpu", "-v")
    assert "Unet on cpu, preprocessing: unit" in skipshift(*words)[2]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("batch_size must be 1", "--batch-size must be 1"),
        ("the network returns 2; set batch_size 1", "the network returns 2; set --batch-size 1"),
        (
            "its values lie in [0, 1]; give activation none",
            "its values lie in [0, 1]; give --activation none",
        ),
        ("output must be named: give output 1", "--output must be named: give --output 1"),
        ("or set ignore to 255", "or set --ignore to 255"),
        ("groups must be one per image", "--group must be one per image"),
        ("with 4 groups no gain can be told", "with 4 groups no gain can be told"),
    ],
)
def test_a_message_names_options_and_not_arguments_of_python(said, shown):
    chain, apps, _ = app.parse_commands(["remedy"])
    assert chain == ("remedy",)
    assert with_dashes(said, apps[-1].assemble_argument_collection()) == shown


def test_what_a_terminal_would_obey_is_escaped(capsys):
    _show_warning(UserWarning("a\x1b[2Jb"), UserWarning, "here.py", 1)
    assert capsys.readouterr().err == "skipshift: warning: a\\x1b[2Jb\n"


@pytest.mark.filterwarnings("always")
def test_a_note_of_a_command_names_options(skipshift, small_set, net, monkeypatch):
    def noted(*_, **__):
        warnings.warn("taken as probabilities; give activation none", SkipshiftWarning, 1)
        raise SkipshiftError("enough")

    monkeypatch.setattr("skipshift.study.evaluation.settle_output", noted)
    err = skipshift("evaluate", net, small_set, "o")[2]
    assert "note: taken as probabilities; give --activation none\n" in err
