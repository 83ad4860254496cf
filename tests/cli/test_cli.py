import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from skipshift.cli.main import app, main, show
from skipshift.data.images import write_png
from skipshift.data.manifest import read_cases, read_manifest
from skipshift.networks.unet import Unet
from skipshift.records import read_table

COMMANDS = [
    "demo", "synth", "prepare", "register", "check", "study", "evaluate", "profile", "carry",
    "report",
]  # fmt: skip


@pytest.fixture
def skipshift(capsys):
    """Run the command line in this process; gives exit code, standard output and error."""

    def run(*words):
        with pytest.raises(SystemExit) as done:
            main([str(word) for word in words])
        return done.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def run_folder(tmp_path):
    torch.manual_seed(0)
    Unet("resnet18").save(tmp_path / "net", classes=["background", "cell"])
    return tmp_path / "net"


def test_every_command_is_in_the_readme_and_has_help(skipshift):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for command in COMMANDS:
        assert f"skipshift {command} " in readme
        code, out, _ = skipshift(command, "--help")
        assert code == 0
        assert f"skipshift {command}" in out
    assert {name for name in app if not name.startswith("-")} == set(COMMANDS)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["bogus"], 'Unknown command "bogus"'),
        (["synth"], "requires an argument"),
        (["synth", "o", "--images", "many"], 'unable to convert "many" into int'),
        (["synth", "o", "--cells", "9", "3"], "1 <= LOW <= HIGH, got 9 3"),
        (["synth", "o", "--image", "9"], "Unknown option"),
        (["demo", "o", "--size", "huge"], "Invalid value"),
        (["check", "m.csv", "--crop", "50"], "crop must be a multiple of 32, got 50"),
        (["check", "m.csv", "--workers", "0"], "workers must be at least 1, got 0"),
        (["evaluate", "{net}", "{manifest}", "o", "--shifts", "brightness:-1"], "factor >= 0"),
        (["evaluate", "{net}", "{manifest}", "o", "--shifts", "hue:1"], "must be KIND:FACTOR"),
        (["prepare", "dicom", "s", "o"], 'Unknown command "dicom"'),
        (["prepare", "mms", "s", "o", "--train", "Z"], "train must be one of the vendors"),
        (["prepare", "folder", "s", "o", "--border"], "border belongs to instances"),
        (["prepare", "scc", "s", "o", "--size", "100"], "size must be a multiple of 32, got 100"),
        (["prepare", "mitosis", "s", "o", "--holdout", "0"], "holdout must be at least 1, got 0"),
        (["carry", "{net}", "{manifest}", "brightness:2", "o", "--mode", "swap"], "Invalid value"),
        (
            ["carry", "{net}", "{manifest}", "brightness:2", "o", "--paths", "L9"],
            "its paths are L1",
        ),
        (["profile", "{net}", "a", "b", "o", "--preprocess", "hue"], "unknown preprocess 'hue'"),
        (["profile", "{net}", "a", "b", "o", "--layers", "e3"], "layer 'e3' is not in the network"),
        (["profile", "{net}", "a", "b", "o", "--net", "net"], "'net' must be module:function"),
        (["profile", "{net}", "a"], "SHIFTED and OUT are missing; or give --fingerprint"),
        (["profile", "{net}", "a", "b", "o", "--part", "2"], "belong to a new fingerprint"),
        (["profile", "{net}", "a", "b", "o", "--fingerprint", "f.npz"], "is of one set"),
        (["profile", "{net}", "a", "--fingerprint", "f.csv"], "must end in .npz or .json"),
        (["profile", "{net}", "a", "--fingerprint", "f.npz", "--bins", "fd"], "must be a number"),
        (
            [
                "profile",
                "{net}",
                "{manifest}",
                "--fingerprint",
                "f.npz",
                "--pooling",
                "none,sample",
            ],
            "pooling must be one of average, sample, none, got 'none,sample'",
        ),
        (["profile", "{net}", "{manifest}", "--fingerprint", "f.npz", "--part", "0"], "at least 1"),
        (
            ["profile", "{net}", "a", "--fingerprint", "f.npz", "--edges", "e", "--part", "2"],
            "part comes with the fingerprint that is given",
        ),
    ],
)
def test_a_bad_argument_is_one_line_and_exit_code_2(skipshift, small_set, run_folder, words, fault):
    code, out, err = skipshift(*(w.format(net=run_folder, manifest=small_set) for w in words))
    assert code == 2
    assert re.fullmatch(rf"skipshift: .*{re.escape(fault)}.*\n", err), err
    assert out == ""


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["synth", "{tmp}/o", "--smear", "{tmp}/none.png"], "none.png: cannot be read"),
        (["synth", "{tmp}/o", "--smear", "{manifest}"], "manifest.csv: is not an image"),
        (["synth", "{tmp}/images"], "is not empty and holds no synth.json"),
        (["study", "{tmp}/none.yaml", "{tmp}/o"], "none.yaml: cannot be read as YAML"),
        (["report", "{tmp}"], "study.yaml"),
        (["prepare", "mms", "{tmp}/empty", "{tmp}/o"], "empty: holds no information CSV"),
        (["prepare", "folder", "{tmp}", "{tmp}/o"], "no file matches the pattern"),
        (["prepare", "scc", "{tmp}/empty", "{tmp}/o"], "empty: holds no annotations"),
        (["prepare", "mitosis", "{tmp}/empty", "{tmp}/o"], "empty: holds no annotations"),
        (["evaluate", "{tmp}", "{manifest}", "{tmp}/o"], "run.json: cannot be read"),
        (
            ["evaluate", "{net}", "{manifest}", "{tmp}/o", "--classes", "a"],
            "it tells 2 classes apart, not a",
        ),
        (["evaluate", "{net}", "{tmp}/none.csv", "{tmp}/o"], "none.csv: cannot be read"),
        (["profile", "{net}", "{tmp}/empty", "brightness:0.5", "{tmp}/o"], "empty: holds no image"),
        (["profile", "{net}", "{tmp}/odd", "brightness:0.5", "{tmp}/o"], "multiples of 32"),
        (["profile", "{net}", "{tmp}/none.npz", "{tmp}", "{tmp}/o"], "as a fingerprint: [Errno 2]"),
        (["profile", "{net}", "{tmp}/f.json", "brightness:0.5", "{tmp}/o"], "changes images"),
        (
            ["profile", "{net}", "{manifest}", "--fingerprint", "{tmp}/f.npz"],
            "4 groups cannot fill a part of 5",
        ),
        (["carry", "{net}", "{tmp}/odd", "brightness:0.5", "{tmp}/o"], "is a folder: carry needs"),
        (
            ["carry", "{net}", "{manifest}", "{tmp}/two.csv", "{tmp}/o"],
            "'case-13' must be there once",
        ),
        (["carry", "{net}", "{manifest}", "brightness:0.5", "{tmp}/o", "--crop", "40"], "of 32"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_code_1(skipshift, small_set, run_folder, words, fault):
    tmp = small_set.parent
    (tmp / "empty").mkdir()
    write_png(tmp / "odd" / "a.png", np.zeros((50, 64, 3), np.uint8))
    pd.read_csv(small_set)[:-1].to_csv(tmp / "two.csv", index=False)
    places = {"tmp": tmp, "net": run_folder, "manifest": small_set}
    code, _, err = skipshift(*(word.format(**places) for word in words))
    lines = [line for line in err.splitlines() if not line.endswith("done")]
    assert code == 1
    assert len(lines) == 1
    assert fault in lines[0]
    assert not (tmp / "o").exists()


@pytest.mark.parametrize("reader", ["mms", "folder", "scc", "mitosis"])
def test_every_reader_is_in_the_readme_and_has_help(skipshift, reader):
    pages = Path(__file__).parents[2]
    assert f"skipshift prepare {reader} " in (pages / "docs/data.md").read_text()
    assert reader in (pages / "README.md").read_text()
    code, out, _ = skipshift("prepare", reader, "--help")
    assert code == 0
    assert f"skipshift prepare {reader}" in out


def test_prepare_ends_with_what_a_study_needs(skipshift, tmp_path):
    for name in "abcde":
        write_png(tmp_path / f"s/A/images/{name}.png", np.ones((32, 32), np.uint8))
        write_png(tmp_path / f"s/A/masks/{name}.png", np.ones((32, 32), np.uint8))
    code, out, _ = skipshift("prepare", "folder", tmp_path / "s", tmp_path / "o")
    assert code == 0
    last = out.splitlines()[-2:]
    assert last == ["classes: [background, object]", f"manifest: {tmp_path / 'o/manifest.csv'}"]


def test_debug_shows_where_it_happened(skipshift):
    _, _, err = skipshift("study", "none.yaml", "o", "--debug")
    assert "Traceback" in err


def test_evaluate_writes_counts_and_prints_the_table(skipshift, small_set, run_folder):
    out = small_set.parent / "o"
    code, shown, _ = skipshift(
        "evaluate", run_folder, small_set, out, "--shifts", "brightness:0.5", "--precision", "fp32"
    )
    assert code == 0
    iou = read_table(out / "iou.csv").set_index(["domain", "class"])["iou"]
    assert f"{iou['brightness:0.5', 'cell']:.3f}" in shown
    assert read_table(out / "cases.parquet")["run"].unique().tolist() == ["net"]


def test_check_prints_findings_and_its_exit_code_tells_errors(skipshift, small_set):
    code, shown, _ = skipshift("check", small_set)
    assert code == 0
    assert shown.endswith("0 errors, 0 warnings\n")
    classes = [word for name in ("ground", "disc", "rim") for word in ("--classes", name)]
    code, shown, err = skipshift("check", small_set, *classes, "--json")
    assert code == 1
    assert [finding["where"] for finding in json.loads(shown)] == [["rim"]]
    assert err.splitlines()[-1].endswith("manifest.csv: 1 error, 0 warnings; mend the errors")


def test_profile_writes_tables_and_a_picture(skipshift, small_set, run_folder):
    out = small_set.parent / "o"
    code, shown, _ = skipshift("profile", run_folder, small_set, "brightness:0.5", out)
    assert code == 0
    assert "e32" in shown
    names = {path.name for path in out.iterdir()}
    assert names == {"profile.csv", "channels.parquet", "profile.json", "profile.svg"}
    assert len(read_table(out / "profile.csv")) == 10


def test_evaluate_takes_a_foreign_network_with_its_own_preprocess(
    skipshift, small_set, monkeypatch
):
    folder = small_set.parent
    monkeypatch.chdir(folder)
    # one logit, above 0 where an image is darker than half of full scale: the discs of the set
    (folder / "dark.py").write_text(
        "import torch\n"
        "class Dark(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.level = torch.nn.Parameter(torch.tensor(0.0))\n"
        "    def forward(self, x):\n"
        "        return {'out': self.level - x.mean(1, keepdim=True)}\n"
        "def levels(image):\n"
        "    return image / 1.0\n"
    )
    monkeypatch.syspath_prepend(folder)
    torch.save({"level": torch.tensor(160.0)}, "net.pt")
    options = ["--net", "dark:Dark", "--preprocess", "dark:levels", "--precision", "fp32"]
    code, shown, err = skipshift(
        "evaluate", "net.pt", small_set, "o", *options, "--classes", "ground", "--classes", "disc"
    )
    assert code == 0, err
    iou = read_table(folder / "o" / "iou.csv").set_index("class")["iou"]
    cases = list(read_cases(read_manifest(small_set).query("split == 'test'"), 2))
    found, discs = (
        np.stack(part) for part in zip(*((c.image, c.mask == 1) for c in cases), strict=True)
    )
    found = found.sum(-1, dtype=int) < 3 * 160
    assert iou["disc"] == pytest.approx((found & discs).sum() / (found | discs).sum())
    assert "Dark net.pt" in shown
    code, _, err = skipshift("evaluate", "net.pt", small_set, "o", *options, "--processes", "2")
    assert code == 0, err
    assert list(read_table(folder / "o" / "iou.csv")["iou"]) == list(iou)


def test_profile_takes_a_foreign_network_with_its_own_preprocess(skipshift, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner.py").write_text(
        "from monai.networks.nets import BasicUNet\n"
        "def net():\n"
        "    return BasicUNet(3, 1, 2, features=(4, 4, 4, 4, 4, 4))\n"
        "def tenth(image):\n"
        "    return image / 10\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(importlib.import_module("owner").net().state_dict(), "net.pt")
    rng = np.random.default_rng(0)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        for case in "abc":
            np.save(tmp_path / name / case, rng.random((32, 32, 32)))
    options = ["--volumes", "--preprocess", "owner:tenth", "--layers", "s*", "--layers", "down_1"]
    code, _, err = skipshift("profile", "net.pt", "old", "new", "o", "--net", "owner:net", *options)
    assert code == 0, err
    assert read_table(tmp_path / "o" / "profile.csv")["layer"].tolist() == [
        "s8", "s4", "s2", "s1", "down_1",
    ]  # fmt: skip


def test_profile_measures_what_is_named_side_by_side(skipshift, small_set, run_folder):
    out = small_set.parent / "o"
    options = ("--distances", "wasserstein,hellinger", "--pooling", "average,sample")
    code, shown, _ = skipshift("profile", run_folder, small_set, "brightness:0.5", out, *options)
    assert code == 0
    table = read_table(out / "profile.csv")
    assert table.groupby(["measure", "pooling"]).size().tolist() == [10] * 4
    assert "The s" in shown
    assert len(list(out.glob("profile-*-*.svg"))) == 3
    code, _, error = skipshift("profile", run_folder, small_set, "x", out, "--distances", "l2")
    assert code == 2
    assert "distances must be distinct ones of hellinger, " in error


def test_a_fingerprint_stands_for_a_set_of_images(skipshift, small_set, run_folder, tmp_path):
    a, b, both = (tmp_path / name for name in ("a.npz", "b.json", "both.npz"))
    made = ("profile", run_folder, small_set, "--fingerprint")
    code, shown, err = skipshift(*made, a, "--part", "2")
    assert code == 0, err
    assert "4 images of 4 groups in 2 parts; 0.0% of a layer beyond the edges at most" in shown
    _, shown, _ = skipshift(*made, tmp_path / "c.npz", "--part", "3")
    assert "3 images of 3 groups in 1 parts; " in shown
    assert "left out, as they fill no part: 1" in shown
    rows = pd.read_csv(small_set)
    train = rows[rows["split"] == "train"].assign(split="test")
    train.to_csv(small_set.parent / "train.csv", index=False)
    others = ("profile", run_folder, small_set.parent / "train.csv")
    assert skipshift(*others, "--fingerprint", b, "--edges", a)[0] == 0
    merging = ("profile", run_folder, f"{a},{b}", "--fingerprint", both)
    assert "14 images of 14 groups in 7 parts" in skipshift(*merging)[1]
    for sets in ((both, small_set), (both, b), (small_set, both)):
        code, shown, err = skipshift("profile", run_folder, *sets, tmp_path / "o")
        assert code == 0, err
        assert "lies beyond the fingerprint's edges." in shown
        assert len(read_table(tmp_path / "o" / "profile.csv")) == 10
    code, _, err = skipshift("profile", run_folder, both, b, "o", "--preprocess", "zscore")
    assert code == 1
    assert "both.npz: was made with another preprocess than zscore; say --preprocess unit" in err
    code, _, err = skipshift("profile", run_folder, both, small_set, "o", "--bins", "50")
    assert code == 1
    assert "pooling and bins must be those of the fingerprint, average and 100" in err


def test_carry_writes_a_table_and_pictures_and_says_what_it_found(skipshift, small_set, run_folder):
    out = small_set.parent / "o"
    code, shown, err = skipshift(
        "carry", run_folder, small_set, "brightness:0.5", out, "--paths", "L1", "--paths", "L2",
        "--subsets", "--precision", "fp32",
    )  # fmt: skip
    assert code == 0, err
    assert "The shift costs " in shown
    table = read_table(out / "carry.csv")
    assert table["path"].tolist() == ["none", "L1", "L2", "all"]
    about = json.loads((out / "carry.json").read_text())
    assert about["paths"]["L1"] == "decoder.blocks.3(skip_connection)"
    assert about["settings"]["subsets"] is True
    assert {path.suffix for path in out.iterdir()} == {".csv", ".json", ".svg", ".png"}


def test_carry_pairs_two_domains_by_the_names_of_their_cases(skipshift, small_set, run_folder):
    rows = pd.read_csv(small_set)
    turned = rows.iloc[::-1].assign(domain="other")
    pd.concat([rows, turned]).to_csv(small_set, index=False)
    places = (f"{small_set}#original", f"{small_set}#other", small_set.parent / "o")
    code, shown, err = skipshift("carry", run_folder, *places, "--paths", "L1")
    assert code == 0, err
    # the same images under the same names: nothing is lost
    assert "The shift costs no IoU" in shown


def test_a_study_file_is_read_from_its_own_folder(skipshift, small_set, tmp_path_factory):
    plan = {
        "manifest": "manifest.csv",
        "encoders": ["resnet18"],
        "skips": ["L4-pruned"],
        "run_folds": [0],
        "shifts": ["brightness:0.5"],
        "training": {"encoder_weights": None, "epochs": 1, "crop": 32},
    }
    file = small_set.parent / "study.yaml"
    file.write_text(yaml.safe_dump(plan))
    out = tmp_path_factory.mktemp("study") / "o"
    code, shown, err = skipshift("study", file, out)
    assert code == 0, err
    assert shown.rstrip().endswith(f"page: {out / 'report.html'}")
    pd.testing.assert_frame_equal(
        read_table(out / "tables" / "layers.csv"),
        read_table(out / "runs" / "resnet18.L4-pruned.fold0.seed0" / "layers.csv"),
    )


def test_progress_passes_items_on_and_ends_with_a_line(capsys):
    assert list(show(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == "letters: done\n"


def test_the_command_is_installed_and_knows_its_version():
    command = Path(sys.executable).with_name("skipshift")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout)
