import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from skipshift.networks.checkpoints import load_net
from skipshift.networks.unet import Unet
from skipshift.records import read_table
from skipshift.remedies import feature_remedies
from skipshift.remedies.judging import Judge

TINY = "tu-mobilenetv3_small_050"


@pytest.fixture
def search(skipshift, small_set, tmp_path):
    """Search for a few remedies of a network that was never trained."""
    torch.manual_seed(0)
    Unet(TINY).save(tmp_path / "net", classes=["background", "cell"])
    few = ["--remedies", "minmax,adabn", "--places", "input,d2", "--folds", 2]

    def run(*words, shifted="brightness:0.5", reference=small_set):
        return skipshift(
            "remedy", tmp_path / "net", reference, shifted, tmp_path / "o", *few, *words
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
    assert (table["in_domain"].notna() == (table["gain"] > 0.01)).all()
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
    assert about["verdict"].startswith("The search was interrupted after 2 of 3 remedies at places")
    assert not (tmp_path / "o/mended").exists()
    assert search()[0] == 0
    assert json.loads((tmp_path / "o/remedy.json").read_text())["complete"]
    assert len(calls) == 4
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
    assert len(calls) == 3


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
        (["--take", "adabn@L9"], 1, "take: adabn@L9 is not tried; adabn is tried at input"),
        (["--take", "tent@all"], 1, "take: tent@all is not tried; tried are"),
        (["--places", "L9"], 1, "unknown place 'L9'; choose from input"),
        (["--labels", "9"], 1, "labels must leave at least 2 groups"),
        (["--remedies", "macenko,magic"], 2, "unknown remedy 'magic'; choose from adabn"),
        (["--remedies", "tent,finetune"], 2, "remedy finetune needs labelled images"),
    ],
)
def test_a_wrong_argument_is_one_line(search, words, code, message):
    found, _, err = search(*words)
    assert found == code
    assert message in err
    assert len(err.strip().splitlines()) <= 12


def painted(small_set, tmp_path, paint):
    """Write the set again with other masks; give the manifest."""
    folder = tmp_path / "painted"
    shutil.copytree(small_set.parent, folder)
    for file in (folder / "masks").iterdir():
        Image.fromarray(paint(np.asarray(Image.open(file)))).save(file)
    return folder / small_set.name


def test_masks_with_255_name_the_option(search, small_set, tmp_path):
    void = painted(small_set, tmp_path, lambda mask: np.where(mask == 0, np.uint8(255), mask))
    code, _, err = search(shifted=void)
    assert code == 1
    assert "mask has labels 255, but the classes are 0..1" in err
    assert "as in --ignore 255" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_of_three_classes_255_names_the_option_too(search, small_set, tmp_path):
    Unet(TINY, 3).save(tmp_path / "net", classes=["background", "cell", "other"])
    void = painted(small_set, tmp_path, lambda mask: np.where(mask == 0, np.uint8(255), mask))
    code, _, err = search(shifted=void)
    assert code == 1
    assert "mask has labels 255, but the classes are 0..2" in err
    assert "as in --ignore 255" in err
    assert len(err.strip().splitlines()) == 1


def test_a_single_image_is_told_and_leaves_nothing_behind(search, small_set, tmp_path):
    (tmp_path / "single").mkdir()
    shutil.copy(next((small_set.parent / "images").iterdir()), tmp_path / "single")
    code, _, err = search(shifted=tmp_path / "single")
    assert code == 1
    assert "SHIFTED must have at least 2 groups, to fit on some and judge on others, got 1" in err
    assert not (tmp_path / "o").exists()


def test_sets_without_a_class_in_common_are_told(search, small_set, tmp_path):
    code, _, err = search(shifted=painted(small_set, tmp_path, np.zeros_like))
    assert code == 1
    assert "masks of the shifted have no pixel of the foreground that is counted" in err


def test_masks_of_the_shifted_set_alone_judge_gains_and_no_harm(search, small_set, tmp_path):
    code, _, err = search(reference=small_set.parent / "images", shifted=small_set)
    assert code == 0, err
    table = read_table(tmp_path / "o/remedies.csv")
    assert table["iou"].notna().all()
    assert table["harm"].isna().all()


def test_a_network_without_normalisation_has_no_adabn(skipshift, tmp_path, small_set):
    (tmp_path / "plain.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    same = dict(kernel_size=3, padding=1)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, **same), nn.ReLU(), nn.Conv2d(4, 2, **same))\n"
    )
    weights = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).state_dict()
    torch.save(weights, tmp_path / "plain.pt")
    builder = ["--builder", f"{tmp_path / 'plain.py'}:net", "--folds", 2, "--preprocess", "unit"]
    words = ["remedy", tmp_path / "plain.pt", small_set, "brightness:0.5", tmp_path / "o", *builder]
    code, _, err = skipshift(*words, "--remedies", "adabn,tent")
    assert code == 1
    assert "nothing to try: adabn, tent changes nothing at input" in err
    assert skipshift(*words, "--remedies", "adabn,zscore")[0] == 0
    assert set(read_table(tmp_path / "o/remedies.csv")["remedy"]) == {"zscore"}


def test_a_remedy_that_diverges_is_a_row_that_says_so(search, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_remedies, "_entropy", lambda logits: logits.sum() * torch.nan)
    code, _, err = search("--remedies", "tent", "--places", "all")
    assert code == 0, err
    failed = read_table(tmp_path / "o/remedies.csv").set_index("remedy")["failed"]
    assert failed["tent"] == "training diverged: the loss is not finite"
    assert failed.isna()["minmax"]


@pytest.fixture
def printed(skipshift, small_set, tmp_path):
    torch.manual_seed(0)
    Unet(TINY).save(tmp_path / "net", classes=["background", "cell"])
    path = tmp_path / "reference.npz"
    words = ["fingerprint", tmp_path / "net", small_set, path, "--part", 2, "--pooling", "none"]
    code, _, err = skipshift(*words)
    assert code == 0, err
    return path


def test_a_fingerprint_stands_for_the_reference(printed, search, small_set, tmp_path):
    words = ["--remedies", "moments", "--places", "d4"]
    code, _, err = search(*words, reference=printed, shifted=small_set)
    assert code == 0, err
    table = read_table(tmp_path / "o/remedies.csv")
    assert ("moments", "d2") in set(zip(table["remedy"], table["place"], strict=True))
    assert table["excess_left"].notna().any()
    assert table["in_domain"].isna().all()
    torch.manual_seed(1)
    Unet(TINY).save(tmp_path / "net", classes=["background", "cell"])
    code, _, err = search(*words, reference=printed, shifted=small_set)
    assert code == 1
    assert "network must be that of the fingerprint" in err


def test_a_diagnosis_of_a_fingerprint_is_told(skipshift, printed, small_set, tmp_path):
    words = ["diagnose", tmp_path / "net", printed, small_set, tmp_path / "o"]
    code, _, err = skipshift(*words)
    assert code == 1
    assert "reference.npz: is a fingerprint, and a diagnosis needs images" in err


def test_folders_without_masks_are_judged_by_features(search, small_set, tmp_path):
    folder = small_set.parent / "images"
    code, shown, err = search(shifted=folder)
    assert code == 0, err
    assert "recommended without masks" in shown or "whether the segmentation is better" in shown
    table = read_table(tmp_path / "o/remedies.csv")
    assert table["iou"].isna().all()
    assert table["excess_left"].notna().all()
