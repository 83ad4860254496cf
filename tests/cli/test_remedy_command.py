import json

import pytest
import torch

from skipshift.networks.checkpoints import load_net
from skipshift.networks.unet import Unet
from skipshift.records import read_table
from skipshift.remedies.judging import Judge

TINY = "tu-mobilenetv3_small_050"


@pytest.fixture
def search(skipshift, small_set, tmp_path):
    """Search for a few remedies of a network that was never trained."""
    torch.manual_seed(0)
    Unet(TINY).save(tmp_path / "net", classes=["background", "cell"])
    few = ["--remedies", "minmax,adabn", "--places", "input,d2", "--folds", 2]

    def run(*words, shifted="brightness:0.5"):
        return skipshift(
            "remedy", tmp_path / "net", small_set, shifted, tmp_path / "o", *few, *words
        )

    return run


def test_remedy_writes_its_table_and_says_why_nothing_is_recommended(search, tmp_path):
    code, shown, err = search()
    assert code == 0, err
    assert "No remedy is recommended: with 4 groups no gain can be told from chance" in shown
    table = read_table(tmp_path / "o/remedies.csv")
    assert set(zip(table["remedy"], table["place"], strict=True)) == {
        ("minmax", "input"),
        ("adabn", "d2"),
        ("minmax+adabn", "input+d2"),
    }
    assert table["in_domain"].notna().all()
    assert table["headroom"].isna().sum() == 1  # of the pair
    about = json.loads((tmp_path / "o/remedy.json").read_text())
    assert about["complete"]
    assert about["remedy"] is None
    assert about["place"] is None
    assert about["verdict"] in shown
    assert about["preprocess"] == "unit"
    assert len(about["network"]["sha256"]) == 64
    assert not (tmp_path / "o/mended").exists()


@pytest.mark.parametrize("taken", ["adabn@d2", "minmax@input", "minmax+adabn@input+d2"])
def test_a_taken_remedy_is_written_as_a_network_that_every_command_loads(
    search, skipshift, small_set, tmp_path, taken
):
    code, _, err = search("--take", taken)
    assert code == 0, err
    code, _, err = skipshift("evaluate", tmp_path / "o/mended", small_set, tmp_path / "iou")
    assert code == 0, err
    row = read_table(tmp_path / "o/remedies.csv").set_index("remedy").loc[taken.split("@")[0]]
    iou = read_table(tmp_path / "iou/iou.csv").set_index("class").loc["cell", "iou"]
    assert iou == pytest.approx(row["in_domain"], abs=1e-6)
    record = json.loads((tmp_path / "o/mended/mended.json").read_text())
    assert f"{record['remedy']}@{record['place']}" == taken


def test_a_mended_network_without_maps_is_a_run_folder(search, tmp_path):
    search("--take", "adabn@d2")
    net = load_net(tmp_path / "o/mended")
    assert isinstance(net, Unet)
    assert (tmp_path / "o/mended/run.json").read_bytes() == (tmp_path / "net/run.json").read_bytes()


def test_an_interrupted_command_keeps_its_table_and_goes_on(search, tmp_path, monkeypatch):
    judge, calls = Judge.__call__, []

    def counted(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return judge(self, *arguments)

    monkeypatch.setattr(Judge, "__call__", counted)
    code, _, err = search()
    assert code == 130
    assert "run the same command again to resume" in err
    assert len(read_table(tmp_path / "o/remedies.csv")) == 1
    about = json.loads((tmp_path / "o/remedy.json").read_text())
    assert not about["complete"]
    assert about["verdict"].startswith("The search was interrupted after 1 of 4 remedies at places")
    assert not (tmp_path / "o/mended").exists()
    assert search()[0] == 0
    assert json.loads((tmp_path / "o/remedy.json").read_text())["complete"]
    assert len(calls) == 6
    calls.clear()
    assert search("--margin", "0.2")[0] == 0
    assert not calls


def test_another_network_is_judged_anew(search, tmp_path, monkeypatch):
    search()
    net = Unet(TINY)
    net.save(tmp_path / "net", classes=["background", "cell"])
    judge, calls = Judge.__call__, []
    monkeypatch.setattr(Judge, "__call__", lambda *words: calls.append(1) or judge(*words))
    search()
    assert len(calls) == 5


def test_a_broken_file_of_what_was_judged_is_made_again(search, tmp_path):
    search()
    before = (tmp_path / "o/remedies.csv").read_text()
    next((tmp_path / "o/judged").glob("*.npz")).write_bytes(b"PK")
    assert search()[0] == 0
    timeless = [",".join(line.split(",")[5:]) for line in before.splitlines()]
    again = (tmp_path / "o/remedies.csv").read_text()
    assert [",".join(line.split(",")[5:]) for line in again.splitlines()] == timeless


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--take", "adabn"], 2, "--take must be REMEDY@PLACE, got 'adabn'"),
        (["--take", "tent@all"], 1, "tent@all was not tried; tried were"),
        (["--places", "L9"], 1, "unknown place 'L9'; choose from input"),
        (["--labels", "9"], 1, "labels must leave at least 2 groups"),
        (["--remedies", "macenko,magic"], 1, "unknown remedy 'magic'; choose from adabn"),
        (["--remedies", "tent,finetune"], 1, "remedy finetune needs labelled images"),
    ],
)
def test_a_wrong_argument_is_one_line(search, words, code, message):
    found, _, err = search(*words)
    assert found == code
    assert message in err
    assert len(err.strip().splitlines()) <= 12


def test_folders_without_masks_are_judged_by_features(search, small_set, tmp_path):
    folder = small_set.parent / "images"
    code, shown, err = search(shifted=folder)
    assert code == 0, err
    assert "without masks remedies are judged there" in shown or "Judged by features" in shown
    table = read_table(tmp_path / "o/remedies.csv")
    assert table["iou"].isna().all()
    assert table["excess_left"].notna().all()
