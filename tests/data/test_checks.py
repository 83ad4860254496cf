import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skipshift.data.checks.findings import (
    Finding,
    errors_of,
    finding_at,
    raise_errors,
    summary,
    to_json,
    to_text,
)
from skipshift.data.checks.preflight import check_manifest
from skipshift.data.images import read_labels, write_png
from skipshift.data.prepare.options import SynthSpec
from skipshift.data.prepare.synthetic import write_synthetic
from skipshift.errors import SkipshiftError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A clean synthetic set of 16 training and 4 test cases."""
    spec = SynthSpec(
        tmp_path_factory.mktemp("made"), images=20, size=128, canvas=750, cells=(2, 12)
    )
    return write_synthetic(spec)


@pytest.fixture
def manifest(made, tmp_path):
    shutil.copytree(made.parent, tmp_path / "set")
    return tmp_path / "set" / "manifest.csv"


def edit(manifest, row, **changes):
    frame = pd.read_csv(manifest, keep_default_na=False)
    for column, value in changes.items():
        frame.loc[row, column] = value
    frame.to_csv(manifest, index=False)


def case_of(manifest, split, place=0):
    """Row number and row of a case of a split."""
    frame = pd.read_csv(manifest)
    row = frame.index[frame["split"] == split][place]
    return row, frame.loc[row]


def rules_of(findings, severity="error"):
    return [finding.what for finding in findings if finding.severity == severity]


def test_a_clean_set_has_no_findings(manifest):
    assert check_manifest(manifest) == []
    assert check_manifest(manifest, ("background", "cell"), crop=96, workers=1) == []


def test_all_broken_rules_are_found_at_once(manifest):
    rows = [case_of(manifest, "train", place)[0] for place in range(4)]
    edit(manifest, rows[0], image="../outside.png", group=case_of(manifest, "test")[1]["group"])
    edit(manifest, rows[1], image="images/none.png", mask="/etc/passwd")
    edit(manifest, rows[2], split="validation", case=case_of(manifest, "train", 3)[1]["case"])
    assert set(rules_of(check_manifest(manifest))) >= {
        "group on both sides of the split",
        "path that leaves the manifest's folder",
        "missing file",
        "unknown split",
        "repeated case",
    }


def test_each_broken_rule_is_one_finding(manifest):
    for place, changes in enumerate(({"image": "a.png"}, {"image": "/b.png"}, {"image": "c.png"})):
        edit(manifest, place, **changes)
    edit(manifest, 4, mask="d.png")
    counts = {finding.what: finding.count for finding in check_manifest(manifest)}
    assert counts == {"missing file": 3, "path that leaves the manifest's folder": 1}


def test_broken_files_are_counted_and_the_first_three_named(manifest):
    for place in range(4):
        file = manifest.parent / case_of(manifest, "train", place)[1]["image"]
        file.write_bytes(file.read_bytes()[:1000])
    (finding,) = check_manifest(manifest)
    assert (finding.what, finding.count, len(finding.where)) == ("file that cannot be read", 4, 3)
    assert "truncated" in finding.where[0]


def test_a_mask_of_another_size_is_an_error(manifest):
    row = case_of(manifest, "train")[1]
    write_png(manifest.parent / row["mask"], np.zeros((64, 128), np.uint8))
    (finding,) = check_manifest(manifest)
    assert finding.what == "mask and image of different sizes"
    assert "is 64 x 128, but its image is 128 x 128" in finding.where[0]


def test_labels_outside_the_classes_are_an_error(manifest):
    row = case_of(manifest, "test")[1]
    mask = np.zeros((128, 128), np.uint8)
    mask[:9] = 7
    write_png(manifest.parent / row["mask"], mask)
    for classes in (None, ("background", "cell")):
        (finding,) = errors_of(check_manifest(manifest, classes))
        assert finding.what == "labels outside the classes 0..1"
        assert finding.where == (f"{row['mask']}: 7",)


def test_a_class_without_a_pixel_in_training_is_an_error(manifest):
    (finding,) = check_manifest(manifest, ("background", "cell", "parasite"))
    assert finding.what == "class with no pixel in training"
    assert finding.where == ("parasite",)


def test_masks_of_255_lack_the_classes_between(manifest):
    for file in (manifest.parent / "masks").iterdir():
        write_png(file, np.asarray(Image.open(file)) * np.uint8(255))
    (finding,) = errors_of(check_manifest(manifest))
    assert (finding.count, finding.where[0]) == (254, "class 1")


@pytest.mark.parametrize(
    ("crop", "fault"), [(None, "multiples of 32, got 100 x 128"), (128, "does not fit")]
)
def test_sides_that_the_network_cannot_take_are_an_error(manifest, crop, fault):
    row = case_of(manifest, "test")[1]
    for column in ("image", "mask"):
        file = manifest.parent / row[column]
        write_png(file, np.asarray(Image.open(file))[:100])
    (finding,) = errors_of(check_manifest(manifest, crop=crop))
    assert finding.what == "sides that the network cannot take"
    assert fault in finding.where[0]
    assert errors_of(check_manifest(manifest, crop=96)) == []


def test_grey_images_among_colour_images_are_an_error(manifest):
    file = manifest.parent / case_of(manifest, "test")[1]["image"]
    write_png(file, np.asarray(Image.open(file))[..., 0])
    (finding,) = errors_of(check_manifest(manifest))
    assert finding.what == "images whose number of channels is not the 3 of training"


@pytest.mark.parametrize(("split", "severity"), [("test", "error"), ("train", "warning")])
def test_a_flipped_copy_is_an_error_across_the_split_and_a_warning_within(
    manifest, split, severity
):
    origin, copy = case_of(manifest, "train")[1], case_of(manifest, split, 3)[1]
    for column in ("image", "mask"):
        pixels = np.asarray(Image.open(manifest.parent / origin[column]))
        write_png(manifest.parent / copy[column], np.ascontiguousarray(pixels[:, ::-1]))
    (finding,) = check_manifest(manifest)
    assert finding.severity == severity
    assert origin["image"] in finding.where[0]
    assert copy["image"] in finding.where[0]


def test_near_duplicates_within_a_group_are_allowed(manifest):
    origin, second = case_of(manifest, "train")[1], case_of(manifest, "train", 1)[0]
    Image.open(manifest.parent / origin["image"]).save(manifest.parent / "a.jpg", quality=80)
    edit(manifest, second, image="a.jpg", mask=origin["mask"], group=origin["group"])
    assert check_manifest(manifest) == []
    edit(manifest, second, image=origin["image"])
    assert rules_of(check_manifest(manifest), "warning") == ["same image twice in a split"]


def test_swapped_channels_and_another_spacing_are_warnings(manifest):
    frame = pd.read_csv(manifest, keep_default_na=False).assign(spacing="0.25")
    away = frame["split"] == "test"
    frame.loc[away, ["domain", "spacing"]] = ["other", "0.4x0.5"]
    frame.to_csv(manifest, index=False)
    for name in frame["image"][away]:
        file = manifest.parent / name
        write_png(file, np.asarray(Image.open(file))[..., ::-1])
    findings = check_manifest(manifest)
    assert rules_of(findings, "error") == []
    rules = [what.split(" of domain ")[0] for what in rules_of(findings, "warning")]
    assert rules == ["channel order", "spacing"]


def test_a_file_that_is_not_a_manifest_is_an_error(tmp_path):
    (finding,) = check_manifest(tmp_path / "none.csv")
    assert "does not exist" in finding.where[0]


def test_a_study_stops_with_the_first_error_in_one_line(tmp_path):
    findings = finding_at("warning", "padding", ["x"], "crop") + finding_at(
        "error", "file", ["a", "b"], "go"
    )
    with pytest.raises(SkipshiftError, match=r"m\.csv: file: a; go$"):
        raise_errors(findings, tmp_path / "m.csv")
    raise_errors(findings[:1], tmp_path / "m.csv")
    with pytest.raises(SkipshiftError, match=r"; 1 more: skipshift check"):
        raise_errors(findings[1:] * 2, tmp_path / "m.csv")


def test_findings_are_written_errors_first_and_as_json():
    findings = finding_at("warning", "padding", "x", "crop") + finding_at(
        "error", "file", "abcde", "go"
    )
    text = to_text(findings).splitlines()
    assert text[:6] == ["error: file", "    a", "    b", "    c", "    and 2 more", "    -> go"]
    assert text[-1] == summary(findings) == "1 error, 1 warning"
    back = [
        Finding(**one | {"where": tuple(one["where"])}) for one in json.loads(to_json(findings))
    ]
    assert back == findings
    assert finding_at("error", "nothing", [], "") == []


def test_a_value_that_is_ignored_is_no_class(manifest):
    file = manifest.parent / case_of(manifest, "train")[1]["mask"]
    mask = read_labels(file).copy()
    mask[:4] = 255
    write_png(file, mask)
    found = check_manifest(manifest, ("background", "cell"))
    assert rules_of(found) == ["labels outside the classes 0..1"]
    assert "or ignore the value if it is not to be counted" in found[0].way_out
    assert check_manifest(manifest, ("background", "cell"), ignore=255) == []
    assert check_manifest(manifest, ignore=255) == []
    write_png(file, np.full_like(mask, 255))
    assert check_manifest(manifest, ("background", "cell"), ignore=255) == []
