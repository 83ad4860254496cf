import importlib
import io
import json
import re
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console

from discs import write_discs
from skipshift.cli.main import _show_warning, app, show
from skipshift.data.images import read_labels, write_png
from skipshift.data.manifest import read_cases, read_manifest
from skipshift.errors import ArgumentError, SkipshiftWarning
from skipshift.networks.unet import Unet
from skipshift.records import PROFILE_LAYERS, read_table
from skipshift.specs import ProfileSpec

COMMANDS = [
    "demo", "synth", "prepare", "register", "check", "study", "evaluate", "profile", "fingerprint",
    "carry", "remedy", "diagnose", "estimate", "score", "export", "report", "doctor",
]  # fmt: skip


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
        (["bogus"], "score, export, report, doctor (see skipshift --help)"),
        (["synth"], "OUT is missing (see skipshift synth --help)"),
        (["synth", "o", "--images", "many"], "--images must be a whole number, got many"),
        (["synth", "o", "--cells", "9", "3"], "1 <= LOW <= HIGH, got 9,3"),
        (["synth", "o", "--cells", "9,3"], "1 <= LOW <= HIGH, got 9,3"),
        (["synth", "o", "--cells", "5"], "--cells needs two values, got 1"),
        (["synth", "o", "--cells=5,6,7"], "--cells needs two values, got 3"),
        (["synth", "o", "--cells", "5", "x"], "--cells must be whole numbers, got x"),
        (["synth", "o", "--boxes", "b.json"], "--templates and --boxes need --smear"),
        (["demo", "o", "--seed", "-1"], "--seed must be at least 0, got -1"),
        (["check", "m.csv", "--json=maybe"], "--json takes no value, got maybe"),
        (["check", "m.csv", "--classes", ""], "--classes must not be empty"),
        (["check", "m.csv", "--classes", "a,a"], "--classes must be distinct names"),
        (["evaluate", "n", "m.csv", "o", "--classes", "a,a"], "--classes must be distinct names"),
        (["profile", "n", "a", "b", "o", "--layers", "a,"], "--layers must not be empty"),
        (["profile", "n", "a", "b", "o", "--memory", "nan"], "--memory must be a number, got nan"),
        (["profile", "n", "a", "b", "o", "--seed", "-1"], "--seed must be at least 0, got -1"),
        (["carry", "n", "a", "b", "o", "--seed", "-1"], "--seed must be at least 0, got -1"),
        (["fingerprint", "n", "a", "f.npz", "--seed", "-1"], "--seed must be at least 0, got -1"),
        (["profile", "a", "b", "c", "d", "--net", "n"], "NET must be given by position"),
        (["chekc"], 'Did you mean "check"? Commands are prepare, '),
        (
            ["profile", "n", "a", "b", "o", "--distances", "hellinger,energi"],
            "--distances: unknown distance energi; choose from hellinger, ",
        ),
        (
            ["profile", "n", "a", "b", "o", "--distances", "energy,energy"],
            "each once, got energy, energy",
        ),
        (["synth", "o", "--image", "9"], "Unknown option"),
        (["demo", "o", "--size", "huge"], "--size must be small or smallest, got huge"),
        (["check", "m.csv", "--crop", "50"], "--crop must be a multiple of 32, got 50"),
        (["check", "m.csv", "--workers", "0"], "workers must be at least 1, got 0"),
        (["evaluate", "{net}", "{manifest}", "o", "--shifts", "brightness:-1"], "factor >= 0"),
        (["evaluate", "{net}", "{manifest}", "o", "--shifts", "hue:1"], "must be KIND:FACTOR"),
        (
            ["evaluate", "{net}", "{manifest}", "o", "--metrics", "hausdorff"],
            "unknown metric hausdorff",
        ),
        (["evaluate", "{net}", "{manifest}", "o", "--tolerance", "-1"], "tolerance must be at"),
        (["profile", "{net}", "a", "b", "o", "c"], "too many arguments: c"),
        (["profile", "{net}", "a", "b", "o", "--pooling"], "--pooling needs a value"),
        (["profile", "{net}", "a", "b", "o", "--bins", "x"], "must be a whole number or fd, got x"),
        (["profile", "{net}", "a", "b", "o", "--seed", "1.5"], "must be a whole number, got 1.5"),
        (["profile", "{net}", "a", "b", "o", "--memory", "1G"], "must be a number, got 1G"),
        (["profile", "{net}", "a", "b", "o", "--pooling", "none,max"], "unknown pooling max"),
        (["study", "s.yaml", "o", "--jobs", "0"], "at least 1, got 0 (see skipshift study --help)"),
        (["prepare", "mms"], "SRC is missing (see skipshift prepare mms --help)"),
        (["prepare", "dicom", "s", "o"], 'Unknown command "dicom"'),
        (["prepare", "mms", "s", "o", "--train", "Z"], "train must be one of the vendors"),
        (["prepare", "folder", "s", "o", "--border"], "--border needs --instances (see"),
        (["prepare", "scc", "s", "o", "--size", "100"], "size must be a multiple of 32, got 100"),
        (["prepare", "mitosis", "s", "o", "--holdout", "0"], "holdout must be at least 1, got 0"),
        (
            ["carry", "{net}", "{manifest}", "brightness:2", "o", "--mode", "swap"],
            "--mode must be paired, quantile, zero or mean, got swap",
        ),
        (
            ["carry", "{net}", "{manifest}", "brightness:2", "o", "--paths", "L9"],
            "its paths are L1",
        ),
        (["profile", "{net}", "a", "b", "o", "--preprocess", "hue"], "unknown preprocess 'hue'"),
        (
            ["profile", "{net}", "{manifest}", "contrast:0.5", "o", "--layers", "e3"],
            "layer 'e3' is not in the network",
        ),
        (
            ["profile", "{net}", "{manifest}", "contrast:0.5", "o", "--builder", "net"],
            "'net' must have the form module:function",
        ),
        (["profile", "{net}", "a"], "SHIFTED is missing (see skipshift profile --help)"),
        (["profile", "{net}", "a", "b", "o", "--part", "2"], "Unknown option"),
        (["profile", "{net}", "a", "b", "o", "--crop", "40"], "crop must be a multiple of 32"),
        (
            ["profile", "{net}", "a", "b", "o", "--null-draws", "-1"],
            "--null-draws must be at least",
        ),
        (["fingerprint", "{net}", "a", "f.csv"], "OUT must end in .npz or .json, got f.csv"),
        (["fingerprint", "{net}", "a", "f.npz", "--bins", "fd"], "must be a whole number, got fd"),
        (
            ["fingerprint", "{net}", "{manifest}", "f.npz", "--pooling", "none,sample"],
            "pooling must be one of average, sample, none, got 'none,sample'",
        ),
        (["fingerprint", "{net}", "{manifest}", "f.npz", "--part", "0"], "at least 1"),
        (
            ["fingerprint", "{net}", "a", "f.npz", "--edges", "e", "--part", "2"],
            "part is fixed by the fingerprint given as --edges or IMAGES; leave it out",
        ),
        (["carry", "{net}", "{manifest}", "brightness:0.5", "o", "--crop", "40"], "of 32"),
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
        (["synth", "{tmp}/o", "--smear", "{tmp}/none.png"], "none.png: does not exist"),
        (["synth", "{tmp}/o", "--smear", "{manifest}"], "manifest.csv: is not an image"),
        (["synth", "{tmp}/images"], "is not empty and has no synth.json"),
        (["study", "{tmp}/none.yaml", "{tmp}/o"], "none.yaml: does not exist"),
        (["report", "{tmp}"], "is not a study folder (no study.yaml)"),
        (["report", "{tmp}/none"], "none: does not exist"),
        (["check", "{tmp}/none.csv"], "none.csv: does not exist"),
        (["check", "{manifest}#original"], "'#domain' is not taken"),
        (["check", "{tmp}"], "is a folder; give a manifest"),
        (["prepare", "folder", "{tmp}/none", "{tmp}/o"], "none: does not exist"),
        (["prepare", "mms", "{manifest}", "{tmp}/o"], "manifest.csv: is not a folder"),
        (["prepare", "mms", "{tmp}/empty", "{tmp}/o"], "empty: has no information CSV"),
        (["prepare", "folder", "{tmp}", "{tmp}/o"], "no file matches the pattern"),
        (["prepare", "scc", "{tmp}/empty", "{tmp}/o"], "empty: has no annotations"),
        (["prepare", "mitosis", "{tmp}/empty", "{tmp}/o"], "empty: has no annotations"),
        (
            ["evaluate", "{tmp}", "{manifest}", "{tmp}/o"],
            "is not a run folder (no run.json), nor an smp",
        ),
        (["evaluate", "{net}", "{tmp}/odd", "{tmp}/o"], "is a folder without masks"),
        (
            ["evaluate", "{net}", "{manifest}", "{tmp}/o", "--classes", "a"],
            "the network predicts 2 classes but 1 name was given (a)",
        ),
        (
            ["evaluate", "{net}", "{tmp}/none.csv", "{tmp}/o"],
            "none.csv: does not exist; give a manifest",
        ),
        (["profile", "{tmp}/none", "{manifest}", "{manifest}", "{tmp}/o"], "none: does not exist"),
        (["profile", "{net}", "{tmp}/empty", "brightness:0.5", "{tmp}/o"], "empty: contains no"),
        (["profile", "{net}", "{tmp}/odd", "brightness:0.5", "{tmp}/o"], "multiples of 32"),
        (["profile", "{net}", "{tmp}/none.npz", "{tmp}", "{tmp}/o"], "none.npz: does not exist"),
        (
            ["profile", "{net}", "{tmp}/f.json", "brightness:0.5", "{tmp}/o"],
            "needs images to change",
        ),
        (["profile", "{net}", "{tmp}/g.json", "{tmp}", "{tmp}/o"], "g.json: is not a fingerprint"),
        (
            ["fingerprint", "{net}", "{manifest}", "{tmp}/f.npz"],
            "4 groups cannot fill a part of 5",
        ),
        (["carry", "{net}", "{tmp}/odd", "brightness:0.5", "{tmp}/o"], "is a folder without masks"),
        (
            ["carry", "{net}", "{manifest}", "{tmp}/two.csv", "{tmp}/o"],
            "'case-13' must occur exactly once",
        ),
    ],
)
def test_a_bad_file_is_one_line_and_exit_code_1(skipshift, small_set, run_folder, words, fault):
    tmp = small_set.parent
    (tmp / "empty").mkdir()
    (tmp / "g.json").write_text("{}")
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
    assert reader in (Path(__file__).parents[2] / "README.md").read_text()
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


def test_an_internal_value_error_is_not_the_users_mistake(skipshift, small_set, monkeypatch):
    def broken(*_):
        return np.zeros(2) + np.zeros(3)

    monkeypatch.setattr("skipshift.data.checks.preflight.check_manifest", broken)
    code, _, err = skipshift("check", small_set)
    assert code == 1
    expected = r"skipshift: unexpected ValueError: operands .* \(add --debug to see where\)\n"
    assert re.fullmatch(expected, err)
    assert "in broken" in skipshift("check", small_set, "--debug")[2]


def test_an_argument_error_of_a_command_names_the_command(skipshift, small_set, monkeypatch):
    def broken(*_):
        raise ArgumentError("cases must be many, got 1")

    monkeypatch.setattr("skipshift.data.checks.preflight.check_manifest", broken)
    code, _, err = skipshift("check", small_set)
    assert code == 2
    assert err == "skipshift: cases must be many, got 1 (see skipshift check --help)\n"


def test_an_error_in_the_users_own_code_is_not_a_wrong_argument(skipshift, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faulty.py").write_text("def net():\n    raise ValueError('my own')\n")
    (tmp_path / "net.pt").touch()
    write_discs(tmp_path, np.random.default_rng(0))
    words = ("images", "brightness:0.5", "o", "--builder", "faulty:net")
    code, _, err = skipshift("profile", "net.pt", *words)
    assert code == 1
    assert err == "skipshift: unexpected ValueError: my own (add --debug to see where)\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--classes", "a,b"], ("a", "b")),
        (["--classes", "a", "--classes", "b,c"], ("a", "b", "c")),
        ([r"--classes=a\,b,c"], ("a,b", "c")),
        ([], ()),
    ],
)
def test_a_list_takes_repeated_options_and_commas(words, expected):
    _, bound, _ = app.parse_args(["check", "m.csv", *words], exit_on_error=False)
    assert bound.arguments["spec"].classes == expected


@pytest.mark.parametrize("words", [["--cells", "5,6"], ["--cells=5,6"], ["--cells", "5", "6"]])
def test_a_pair_takes_a_comma_or_two_values(monkeypatch, skipshift, words):
    given = []
    write = "skipshift.data.prepare.synthetic.write_synthetic"
    monkeypatch.setattr(write, lambda spec, _: given.append(spec.cells))
    monkeypatch.setattr("skipshift.records.read_json", lambda _: {"templates": {"source": "x"}})
    assert skipshift("synth", *words, "o")[0] == 0
    assert given == [(5, 6)]


def test_profile_takes_its_whole_spec_from_the_command_line():
    options = {
        "distances": "auc,energy", "pooling": "none", "bins": "fd", "null-draws": "1",
        "bootstrap-draws": "2", "permutation-draws": "3", "memory": "0.5", "batch-size": "4",
        "seed": "5",
    }  # fmt: skip
    assert {name.replace("-", "_") for name in options} == {f.name for f in fields(ProfileSpec)}
    words = [f"--{name}={value}" for name, value in options.items()]
    _, bound, _ = app.parse_args(["profile", "n", "a", "b", "o", *words], exit_on_error=False)
    assert bound.arguments["spec"].settings == ProfileSpec(
        distances=("auc", "energy"), pooling=("none",), bins="fd", null_draws=1,
        bootstrap_draws=2, permutation_draws=3, memory=0.5, batch_size=4, seed=5,
    )  # fmt: skip


@pytest.mark.parametrize("width", [60, 200])
def test_help_is_wrapped_once(width):
    console = Console(width=width, file=io.StringIO())
    app.help_print(["profile"], console=console)
    out = console.file.getvalue()
    lines = [line for line in out.splitlines() if line.startswith("For each layer")]
    text = re.sub(r"[│\s]+", " ", out)
    assert "profile.json and profile.svg, which shows the first distance and pooling" in text
    assert width - 20 < len(lines[0]) <= width


@pytest.mark.parametrize(("kind", "word"), [(UserWarning, "warning"), (SkipshiftWarning, "note")])
def test_a_warning_is_one_line(capsys, kind, word):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = _show_warning
        warnings.warn("a.csv: is gone,\nso made again", kind, stacklevel=1)
    assert capsys.readouterr().err == f"skipshift: {word}: a.csv: is gone, so made again\n"


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


def test_evaluate_writes_and_prints_the_metrics_asked_for(skipshift, small_set, run_folder):
    out = small_set.parent / "o"
    code, shown, _ = skipshift(
        "evaluate", run_folder, small_set, out, "--metrics", "boundary_iou,ece", "--tolerance", "3"
    )
    assert code == 0
    table = read_table(out / "metrics.csv")
    assert list(table["class"]) == ["background", "cell", "all"]
    assert "boundary_iou" in shown
    assert read_table(out / "metrics.parquet")["run"].unique().tolist() == ["net"]


@pytest.fixture
def bordered(small_set):
    """The small set with 255 in the upper quarter of each mask."""
    for file in (small_set.parent / "masks").iterdir():
        mask = read_labels(file).copy()
        mask[:16] = 255
        write_png(file, mask)
    return small_set


def test_a_value_to_ignore_is_named_on_the_command_line(skipshift, bordered, run_folder):
    out, ignore = bordered.parent / "o", ("--ignore", "255")
    for words in (
        ("check", bordered),
        ("evaluate", run_folder, bordered, out),
        ("carry", run_folder, bordered, "brightness:0.5", out, "--paths", "L1"),
    ):
        code, _, err = skipshift(*words)
        assert code == 1, words
        code, _, err = skipshift(*words, *ignore)
        assert code == 0, err
    cases = read_table(out / "cases.parquet")
    pixels = (cases["tp"] + cases["fn"]).groupby(cases["case"]).sum()
    assert (pixels == 48 * 64).all()
    code, _, err = skipshift("evaluate", run_folder, bordered, out, "--ignore", "1")
    assert code == 1
    assert "ignore must be 0 or a mask value that is no class, got 1 of 2 classes" in err


def test_check_prints_findings_and_fails_on_an_error(skipshift, small_set):
    code, shown, _ = skipshift("check", small_set)
    assert code == 0
    assert shown.endswith("0 errors, 0 warnings\n")
    code, shown, err = skipshift("check", small_set, "--classes", "ground,disc,rim", "--json")
    assert code == 1
    assert [finding["where"] for finding in json.loads(shown)] == [["rim"]]
    assert err.splitlines()[-1].endswith("manifest.csv: 1 error, 0 warnings; fix the errors above")


def test_profile_writes_tables_and_a_picture(skipshift, small_set, run_folder):
    out = small_set.parent / "o"
    code, shown, _ = skipshift("profile", run_folder, small_set, "brightness:0.5", out)
    assert code == 0
    assert "e32" in shown
    names = {path.name for path in out.iterdir()}
    pictures = {"profile.svg", "report.html", "u.svg", "u.pdf", "u.png"}
    assert names == {"layers.csv", "channels.parquet", "profile.json", *pictures}
    assert len(read_table(out / "layers.csv", PROFILE_LAYERS)) == 10


@pytest.mark.slow  # starts processes that import torch
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
    options = ["--builder", "dark:Dark", "--preprocess", "dark:levels", "--precision", "fp32"]
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
    code, _, err = skipshift(
        "profile", "net.pt", "old", "new", "o", "--builder", "owner:net", *options
    )
    assert code == 0, err
    assert read_table(tmp_path / "o" / "layers.csv", PROFILE_LAYERS)["layer"].tolist() == [
        "s8", "s4", "s2", "s1", "down_1",
    ]  # fmt: skip


def test_profile_measures_what_is_named_side_by_side(skipshift, small_set, run_folder):
    out = small_set.parent / "o"
    options = ("--distances", "wasserstein,hellinger", "--pooling", "average,sample")
    code, shown, _ = skipshift("profile", run_folder, small_set, "brightness:0.5", out, *options)
    assert code == 0
    table = read_table(out / "layers.csv", PROFILE_LAYERS)
    assert table.groupby(["measure", "pooling"]).size().tolist() == [10] * 4
    assert "adjusted for 10 layers" in shown
    assert len(list(out.glob("profile-*-*.svg"))) == 3
    code, _, error = skipshift("profile", run_folder, small_set, "x", out, "--distances", "l2")
    assert code == 2
    assert "unknown distance l2; choose from hellinger, " in error


@pytest.mark.slow  # profiles several times
def test_a_fingerprint_stands_for_a_set_of_images(skipshift, small_set, run_folder, tmp_path):
    a, b, both = (tmp_path / name for name in ("a.npz", "b.json", "both.npz"))
    make = ("fingerprint", run_folder, small_set)
    code, shown, err = skipshift(*make, a, "--part", "2")
    assert code == 0, err
    assert "4 images of 4 groups in 2 parts; at most 0.0% of a layer's values lie beyond" in shown
    _, shown, _ = skipshift(*make, tmp_path / "c.npz", "--part", "3")
    assert "3 images of 3 groups in 1 parts; " in shown
    assert "groups left out, too few for another part: 1" in shown
    rows = pd.read_csv(small_set)
    train = rows[rows["split"] == "train"].assign(split="test")
    train.to_csv(small_set.parent / "train.csv", index=False)
    others = ("fingerprint", run_folder, small_set.parent / "train.csv", b, "--edges", a)
    assert skipshift(*others)[0] == 0
    merging = ("fingerprint", run_folder, f"{a},{b}", both)
    assert "14 images of 14 groups in 7 parts" in skipshift(*merging)[1]
    for sets in ((both, small_set), (both, b), (small_set, both)):
        code, shown, err = skipshift("profile", run_folder, *sets, tmp_path / "o")
        assert code == 0, err
        assert "lies beyond the fingerprint's edges." in shown
        assert len(read_table(tmp_path / "o" / "layers.csv", PROFILE_LAYERS)) == 10
    code, _, err = skipshift("profile", run_folder, both, b, "o", "--preprocess", "zscore")
    assert code == 1
    assert "both.npz: was made with preprocess unit, not zscore; add --preprocess unit" in err
    code, _, err = skipshift("profile", run_folder, both, small_set, "o", "--bins", "50")
    assert code == 1
    assert "--pooling and --bins must be those of the fingerprint, average and 100" in err


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
    names = {path.name for path in out.iterdir()}
    pictures = {"carry.svg", "carry.png", "report.html", "u.svg", "u.pdf", "u.png"}
    assert names == {"carry.csv", "carry.json", *pictures}


def test_carry_pairs_two_domains_by_the_names_of_their_cases(skipshift, small_set, run_folder):
    rows = pd.read_csv(small_set)
    turned = rows.iloc[::-1].assign(domain="other")
    pd.concat([rows, turned]).to_csv(small_set, index=False)
    places = (f"{small_set}#original", f"{small_set}#other", small_set.parent / "o")
    code, shown, err = skipshift("carry", run_folder, *places, "--paths", "L1")
    assert code == 0, err
    # the same images under the same names: nothing is lost
    assert "The shift costs no IoU" in shown


@pytest.mark.slow  # trains a network
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


def test_the_package_runs_as_a_module_and_help_imports_nothing_heavy():
    code = (
        "import runpy, sys; sys.argv = ['skipshift', {words}]\n"
        "try: runpy.run_module('skipshift', run_name='__main__')\n"
        "except SystemExit: print(sorted(set({heavy}) & set(sys.modules)))"
    )
    heavy = ["torch", "pandas", "numpy", "cv2", "pydantic", "tqdm", "yaml", "matplotlib", "PIL"]
    for words in ("'--help'", "'profile', '--help'", "'--version'", "'prfile'"):
        command = [sys.executable, "-c", code.format(words=words, heavy=heavy)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", words


def test_the_command_is_installed_and_knows_its_version():
    command = Path(sys.executable).with_name("skipshift")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout)


def test_prepared_sets_are_merged_by_the_command(skipshift, tmp_path, rng):
    for name in ("a", "b"):
        write_discs(tmp_path / name, rng)
        rows = pd.read_csv(tmp_path / name / "manifest.csv").assign(domain=name)
        rows.to_csv(tmp_path / name / "manifest.csv", index=False)
    both = f"{tmp_path}/a/manifest.csv,{tmp_path}/b/manifest.csv"
    code, shown, err = skipshift("prepare", "merge", tmp_path / "o", "--manifests", both)
    assert code == 0, err
    assert f"manifest: {tmp_path}/o/manifest.csv" in shown
    assert set(pd.read_csv(tmp_path / "o/manifest.csv")["domain"]) == {"a", "b"}
