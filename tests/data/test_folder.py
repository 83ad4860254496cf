"""`prepare folder`: layouts, formats, types of masks, splits, and errors."""

import hashlib
import json
import re
import shlex
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skipshift.cli.main import main
from skipshift.data.images import read_labels, read_native, write_png
from skipshift.data.manifest import read_manifest
from skipshift.data.prepare.folder import prepare_folder
from skipshift.data.prepare.merge import merge_sets
from skipshift.data.prepare.options import FolderSpec, MergeSpec
from skipshift.data.prepare.patterns import compile_pattern
from skipshift.errors import SkipshiftError

DOCS = Path(__file__).parents[2] / "docs/howto/data.md"


@pytest.fixture
def src(tmp_path, rng):
    """Two domains of five images of 40 x 50 with masks of class indices, in the default layout."""
    for domain in ("A", "B"):
        for number in range(5):
            image = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            write_png(tmp_path / f"src/{domain}/images/{domain}{number}.png", image)
            mask = (rng.random((40, 50)) < 0.3).astype(np.uint8)
            write_png(tmp_path / f"src/{domain}/masks/{domain}{number}.png", mask)
    return tmp_path / "src"


def prepare(src, name="out", **options):
    out = src.parent / name
    prepare_folder(FolderSpec(src, out, **({"workers": 2, "train": ("A",)} | options)))
    return out


def one_case(tmp_path, image, mask, **options):
    """Prepare one image with one mask, both saved as NPY; return both as written."""
    for kind, array in (("images", image), ("masks", mask)):
        (tmp_path / f"one/A/{kind}").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"one/A/{kind}/x.npy", array)
    out = prepare(tmp_path / "one", **options)
    return read_native(out / "images/A/x.png"), read_labels(out / "masks/A/x.png")


def about(out):
    return json.loads((out / "prepare.json").read_text())


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_default_layout_is_kept_pixel_by_pixel(src):
    (src.parent / "out").mkdir()
    cases = read_manifest(prepare(src) / "manifest.csv")
    assert len(cases) == 10
    for row in cases.itertuples():
        for kind, file in (("images", row.image), ("masks", row.mask)):
            stored = np.asarray(Image.open(src / f"{row.domain}/{kind}/{row.case}.png"))
            assert np.array_equal(np.asarray(Image.open(file)), stored)


@pytest.mark.parametrize("ending", ["png", "tif", "jpg", "bmp", "npy", "nii.gz"])
def test_every_format_gives_the_same_set(tmp_path, ending):
    y, x = np.mgrid[:64, :96]
    image, mask = (2 * y + x).astype(np.uint8)[..., None].repeat(3, 2), (x > y).astype(np.uint8)
    if ending == "nii.gz":
        image = image[..., :1]
    for kind, array in (("images", image), ("masks", mask)):
        path = tmp_path / f"src/A/{kind}/x.{ending if kind == 'images' else 'png'}"
        path.parent.mkdir(parents=True)
        if kind == "masks":
            write_png(path, array)
        elif ending == "npy":
            np.save(path, array)
        elif ending == "nii.gz":
            nibabel.save(nibabel.Nifti1Image(array[..., 0].T, np.diag([-2, -3, 1, 1])), path)
        else:
            Image.fromarray(array).save(path, **({"quality": 100} if ending == "jpg" else {}))
    out = prepare(tmp_path / "src")
    levels = read_native(out / "images/A/x.png").astype(int)
    assert np.abs(levels - image).max() <= (2 if ending == "jpg" else 0)
    assert np.array_equal(read_labels(out / "masks/A/x.png"), mask)


def test_a_volume_is_cut_into_slices_beside_its_mask(tmp_path, rng):
    affine = np.diag([1.5, 2.5, 8, 1])
    image = rng.integers(0, 900, (33, 40, 4)).astype(np.int16)
    mask = (image > 600).astype(np.uint8)
    for kind, array in (("images", image), ("masks", mask)):
        (tmp_path / f"src/A/{kind}").mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"src/A/{kind}/p.nii.gz")
    cases = read_manifest(prepare(tmp_path / "src", rescale=True, square=True) / "manifest.csv")
    assert cases["case"].tolist() == [f"p-z{z:02d}" for z in range(4)]
    assert set(cases["group"]) == {"p"}
    assert set(cases["spacing"]) == {"2.5x1.5"}
    for z, row in enumerate(cases.itertuples()):
        levels, labels = read_native(Path(row.image))[..., 0], read_labels(Path(row.mask))
        assert levels.shape == labels.shape == (32, 32)
        # bright pixels were labelled, so image and mask were reoriented alike
        assert levels[labels == 1].min() > levels[labels == 0].max()
        assert labels.sum() == mask[::-1, ::-1, z].T[4:36, 0:32].sum()


def test_16_bit_values_are_kept(tmp_path, rng):
    image = rng.integers(0, 4096, (32, 32), dtype=np.uint16)
    levels, _ = one_case(tmp_path, image, np.ones((32, 32), np.uint8))
    assert np.array_equal(levels[..., 0], image)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_written_with_the_requested_channels(src, channels, rng):
    write_png(src / "A/images/A0.png", rng.integers(0, 256, (40, 50), dtype=np.uint8))
    with pytest.raises(SkipshiftError, match=r"1 have 1 and 9 have 3; add --channels 1 or 3"):
        prepare(src)
    for row in read_manifest(prepare(src, channels=channels) / "manifest.csv").itertuples():
        mode = "L" if channels == 1 else "RGB"
        stored = Image.open(src / f"{row.domain}/images/{row.case}.png").convert(mode)
        difference = np.asarray(Image.open(row.image)).astype(int) - np.asarray(stored)
        assert np.abs(difference).max() <= 1


def test_colours_are_mapped_to_named_classes(tmp_path):
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 128, 255]], np.uint8)
    indices = np.arange(32 * 32).reshape(32, 32) % 3
    for kind, array in (("images", colours[indices]), ("masks", colours[indices])):
        write_png(tmp_path / f"src/A/{kind}/x.png", array)
    names = ("background=#000000", "vein=#0080ff", "artery=#FF0000")
    out = prepare(tmp_path / "src", colours=names)
    assert about(out)["classes"] == ["background", "vein", "artery"]
    expected = np.array([0, 2, 1])[indices]
    assert np.array_equal(read_labels(out / "masks/A/x.png"), expected)


def test_values_are_mapped_to_named_classes(tmp_path):
    mask = np.array([0, 255, 100] * 352, np.uint8)[:1024].reshape(32, 32)
    names = ("background=0", "cell=255", "background=100")
    _, labels = one_case(tmp_path, mask, mask, colours=names)
    assert np.array_equal(labels, mask == 255)


def naive_border(objects):
    """1 inside, 2 where any of the 8 neighbours differs."""
    padded = np.pad(objects, 1, mode="edge")
    around = [np.roll(padded, (y, x), (0, 1))[1:-1, 1:-1] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    edge = np.any([part != objects for part in around], axis=0)
    return np.where(objects > 0, 1 + edge, 0)


@pytest.mark.parametrize("border", [False, True])
def test_instances_become_one_class_or_two(tmp_path, rng, border):
    objects = rng.integers(0, 3, (8, 8)).repeat(4, 0).repeat(4, 1).astype(np.uint16) * 300
    image = np.zeros((32, 32), np.uint8)
    _, labels = one_case(tmp_path, image, objects, instances=True, border=border)
    assert np.array_equal(labels, naive_border(objects) if border else objects > 0)


def test_instances_in_separate_files_are_merged(tmp_path):
    """The layout in which the Data Science Bowl 2018 is distributed."""
    left, right = np.zeros((2, 32, 32), np.uint8)
    left[4:20, 4:16], right[4:20, 16:28] = 255, 255
    write_png(tmp_path / "src/a1/images/a1.png", left)
    for name, mask in (("m1", left), ("m2", right)):
        write_png(tmp_path / f"src/a1/masks/{name}.png", mask)
    layout = {"images": "{case}/images/*.png", "masks": ("{case}/masks/*.png",), "train": ()}
    out = prepare(tmp_path / "src", instances=True, border=True, **layout)
    objects = (left > 0) + 2 * (right > 0)
    assert np.array_equal(read_labels(out / "masks/original/a1.png"), naive_border(objects))


def test_one_mask_file_per_class_is_merged_in_order(shared, tmp_path):
    masks = tuple(f"{n}/{{group}}-IM-{{case}}.dcm.png" for n in ("epi", "endo"))
    spec = FolderSpec(
        shared / "data/sunnybrook",
        tmp_path / "o",
        images="images/{group}-IM-{case}.dcm.png",
        masks=(f"MYO={masks[0]}", f"LV={masks[1]}"),
    )
    cases = read_manifest(prepare_folder(spec))
    index = pd.read_csv(shared / "data/sunnybrook/index.csv")
    labels = np.stack([read_labels(Path(mask)) for mask in cases["mask"]])
    myo = index["epi_px"] - index["endo_px"] + index["endo_outside_epi_px"]
    assert (labels == 2).sum() == index["endo_px"].sum()
    assert (labels == 1).sum() == myo.sum()
    assert cases["group"].nunique() == index["patient"].nunique() == 20


def test_groups_from_the_pattern_are_never_split(tmp_path, rng):
    for patient in range(10):
        for number in range(3):
            for kind in ("img", "lab"):
                pixels = rng.integers(0, 2, (32, 32), dtype=np.uint8)
                write_png(tmp_path / f"src/S/p{patient}/{kind}/{number}.png", pixels)
    patterns = {
        "images": "{domain}/{group}/img/{case}.png",
        "masks": ("{domain}/{group}/lab/{case}.png",),
    }
    cases = read_manifest(
        prepare(tmp_path / "src", train=(), holdout=0.3, **patterns) / "manifest.csv"
    )
    sides = cases.groupby("group")["split"].agg(["nunique", "first"])
    assert (sides["nunique"] == 1).all()
    assert (sides["first"] == "test").sum() == 3
    assert cases["case"].is_unique


def test_a_table_gives_domains_groups_strata_and_splits(src):
    names = [f"{domain}{number}" for domain in "AB" for number in range(5)]
    table = pd.DataFrame({"file": [f"{name}.png" for name in names], "scanner": "S1"})
    table["patient"] = [f"p{i // 2}" for i in range(10)]
    table["set"] = ["train"] * 6 + ["test"] * 4
    table["stratum"] = "x"
    table.to_csv(src / "t.csv", index=False)
    columns = ("case=file", "domain=scanner", "group=patient", "split=set")
    patterns = {"images": "*/images/{case}.png", "masks": ("*/masks/{case}.png",)}
    out = prepare(src, table=Path("t.csv"), columns=columns, **patterns)
    cases = read_manifest(out / "manifest.csv").set_index("case")
    assert cases["group"].tolist() == table["patient"].tolist()
    assert cases["split"].tolist() == table["set"].tolist()
    assert set(cases["domain"]) == {"S1"}


def test_other_domains_are_tested_without_training_groups(src):
    for kind in ("images", "masks"):
        for number in range(5):
            (src / f"B/{kind}/B{number}.png").rename(src / f"B/{kind}/A{number}.png")
    out = prepare(src)
    cases = read_manifest(out / "manifest.csv")
    held = set(cases.loc[(cases["domain"] == "A") & (cases["split"] == "test"), "group"])
    assert len(held) == 1
    assert set(cases.loc[cases["domain"] == "B", "group"]) == held
    left_out = about(out)["remarks"]["cases of other domains from training groups, left out"]
    assert len(left_out) == 4
    assert "treated as one specimen" in about(out)["notes"][0]


def test_a_class_without_a_file_is_absent_and_reported(src):
    (src / "A/masks/A0.png").rename(src / "A/extra.png")
    masks = ("x={domain}/masks/{case}.png", "y={domain}/images/{case}.png")
    out = prepare(src, masks=masks)
    remark = "images without a file for some class, treated as absent"
    assert about(out)["remarks"][remark] == ["A/images/A0.png"]
    assert set(np.unique(read_labels(out / "masks/A/A0.png"))) <= {0, 2}


def test_files_without_a_counterpart_are_reported(src):
    (src / "A/masks/A0.png").unlink()
    (src / "B/images/B1.png").unlink()
    (src / "A/images/notes.txt").write_text("x")
    write_png(src / "A/masks/A1.png", np.zeros((40, 50), np.uint8))
    remarks = about(prepare(src))["remarks"]
    assert remarks == {
        "files of unsupported formats, left out": ["A/images/notes.txt"],
        "images without a mask, left out": ["A/images/A0.png"],
        "masks without an image": ["B/masks/B1.png"],
        "cases without foreground, kept": ["A1"],
    }


def test_output_does_not_depend_on_workers_and_a_complete_set_is_kept(src):
    one, three = (prepare(src, f"w{n}", workers=n) for n in (1, 3))
    assert digests(one) == digests(three)
    before = {path: path.stat().st_mtime_ns for path in one.rglob("*")}
    prepare(src, "w1")
    assert {path: path.stat().st_mtime_ns for path in one.rglob("*")} == before
    with pytest.raises(SkipshiftError, match=r"contains a set with holdout 0\.2, not 0\.4"):
        prepare(src, "w1", holdout=0.4)
    (one / "images/A/A0.png").unlink()
    with pytest.raises(SkipshiftError, match=r"images/A/A0\.png does not exist; restore the file"):
        prepare(src, "w1")


def test_sets_of_two_layouts_are_merged(src, rng):
    for kind in ("pictures", "labels"):
        write_png(src / f"C/{kind}/c.png", rng.integers(0, 2, (40, 50, 3), dtype=np.uint8)[..., :1])
    write_png(src / "C/pictures/c.png", rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    other = {"images": "{domain}/pictures/{case}.png", "masks": ("{domain}/labels/{case}.png",)}
    sets = [prepare(src, "one"), prepare(src, "two", train=("C",), holdout=0, **other)]
    out = src.parent / "both"
    manifests = tuple(one / "manifest.csv" for one in sets)
    cases = read_manifest(merge_sets(MergeSpec(out, manifests=manifests)))
    assert cases["domain"].value_counts().to_dict() == {"A": 5, "B": 5, "C": 1}
    for row in cases.itertuples():
        first = sets[row.domain == "C"]
        for kind, file in (("images", row.image), ("masks", row.mask)):
            stored = (first / f"{kind}/{row.domain}/{row.case}.png").read_bytes()
            assert Path(file).read_bytes() == stored


def test_sets_that_contradict_each_other_are_not_merged(src):
    sets = [prepare(src, "one"), prepare(src, "two", classes=("a", "b"))]
    manifests = tuple(one / "manifest.csv" for one in sets)
    with pytest.raises(SkipshiftError, match=r"has the classes a, b, but .* --classes"):
        merge_sets(MergeSpec(src.parent / "both", manifests=manifests))
    again = prepare(src, "three", seed=1, holdout=0.4) / "manifest.csv"
    with pytest.raises(SkipshiftError, match="is in train of one manifest and in test of another"):
        merge_sets(MergeSpec(src.parent / "both", manifests=(manifests[0], again)))
    with pytest.raises(ValueError, match="manifests must be two or more, each once, got m"):
        MergeSpec(src, manifests=(Path("m"),))


def spoil_label(src):
    mask = np.zeros((40, 50), np.uint8)
    mask[7, 9] = 5
    write_png(src / "A/masks/A2.png", mask)


def spoil_size(src):
    write_png(src / "A/masks/A2.png", np.zeros((40, 48), np.uint8))


def spoil_type(src):
    (src / "A/images/A2.png").unlink()
    np.save(src / "A/images/A2.npy", np.zeros((40, 50)))


def spoil_array(src):
    (src / "A/images/A2.png").unlink()
    np.save(src / "A/images/A2.npy", np.zeros((2, 40, 50, 3), np.uint8))


def spoil_pickle(src):
    (src / "A/images/A2.png").unlink()
    np.save(src / "A/images/A2.npy", np.array([{}]), allow_pickle=True)


def spoil_frames(src):
    (src / "A/images/A2.png").unlink()
    volume = nibabel.Nifti1Image(np.zeros((50, 40, 1, 3), np.uint8), np.eye(4))
    nibabel.save(volume, src / "A/images/A2.nii.gz")


def spoil_share(src):
    (src / "A/masks/A2.png").unlink()
    np.save(src / "A/masks/A2.npy", np.full((40, 50), 0.5))


def spoil_twice(src):
    Image.open(src / "A/images/A2.png").save(src / "A/images/A2.tif")


def spoil_masks(src):
    Image.open(src / "A/masks/A2.png").save(src / "A/masks/A2.tif")


def spoil_colour(src):
    write_png(src / "A/masks/A2.png", np.zeros((40, 50, 3), np.uint8))


def spoil_solid(src):
    (src / "A/masks/A2.png").unlink()
    np.save(src / "A/masks/A2.npy", np.zeros((2, 40, 50), np.uint8))


def spoil_text(src):
    (src / "A/images/A2.png").unlink()
    np.save(src / "A/images/A2.npy", np.array([["a"]]))


def spoil_side(src):
    for kind in ("images", "masks"):
        write_png(src / f"A/{kind}/A2.png", np.zeros((20, 50), np.uint8))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            spoil_label,
            r"A2\.png: label 5 at row 7, column 9 \(1 pixels\) has no .* --classes",
        ),
        (spoil_size, r"A2\.png: its mask is 1 x 40 x 48, the image 1 x 40 x 50"),
        (spoil_type, r"A2\.npy: has values of type float64, .* add --rescale"),
        (spoil_array, r"A2\.npy: must be \(H, W\) or .* got \(2, 40, 50, 3\)"),
        (spoil_pickle, r"A2\.npy: cannot be read as an array"),
        (spoil_frames, r"A2\.nii\.gz: has 3 frames; save each as a volume"),
        (spoil_share, r"A2\.npy: a mask must contain whole numbers"),
        (spoil_twice, r"A2\.tif: is case 'A2' of domain 'A', and so is .*A2\.png; narrow"),
        (spoil_masks, r"A2\.tif: is a mask of case 'A2', and so is .*A2\.png; narrow"),
        (spoil_solid, r"A2\.npy: a mask must be \(H, W\), got \(2, 40, 50\)"),
        (spoil_text, r"A2\.npy: is not an array of numbers"),
        (spoil_side, r"A2\.png: an image must be at least 32 x 32, got 20 x 50"),
        (spoil_colour, r"A2\.png: a mask must have one channel of class indices, got mode RGB"),
    ],
)
def test_an_invalid_source_is_an_error_and_leaves_no_output(src, spoil, message):
    spoil(src)
    with pytest.raises(SkipshiftError, match=message):
        prepare(src, square=spoil is spoil_side)
    assert list(src.parent.iterdir()) == [src]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "{domain}/pics/{case}.*"}, r"no file matches .*; the first is A/images/A0"),
        ({"table": Path("none.csv")}, r"none\.csv: cannot be read as a CSV"),
        ({"table": Path("t.csv")}, r"t\.csv: has no column 'case', .* --columns case=COLUMN"),
        ({"table": Path("t.csv"), "columns": ("case=x",)}, r"t\.csv: has no column 'x', only"),
        ({"table": Path("t.csv"), "columns": ("case=id",)}, r"t\.csv: line 3 repeats case 'A0'"),
        ({"table": Path("s.csv")}, "case 'A0' has split 'val'; it must be one of train, test"),
        ({"table": Path("g.csv")}, "group 'p' is in both train and test"),
        ({"colours": ("a=#000000", "b=#00ff00")}, r"colour #010101 at row .* has no class"),
        ({"table": Path("d.csv"), "images": "*/images/{case}.png", "masks": ("*/masks/{case}.png",),
          "train": ("x/y",)}, "'x/y' is not a valid file name"),
        ({"table": Path("e.csv")}, "no image can be used: images without a row"),
    ],
)  # fmt: skip
def test_a_wrong_table_or_pattern_is_an_error(src, options, message):
    names = [f"{domain}{number}" for domain in "AB" for number in range(5)]
    (src / "t.csv").write_text("id\nA0\nA0\n")
    (src / "s.csv").write_text("case,split\n" + "".join(f"{name},val\n" for name in names))
    rows = (f"{name},{split},p\n" for name, split in zip(names, ["train", "test"] * 5, strict=True))
    (src / "g.csv").write_text("case,split,group\n" + "".join(rows))
    (src / "d.csv").write_text("case,domain\n" + "".join(f"{name},x/y\n" for name in names))
    (src / "e.csv").write_text("case,group\nZ,p\n")
    with pytest.raises(SkipshiftError, match=message):
        prepare(src, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": ()}, r"train must be one or more of the domains A, B; got none"),
        ({"train": ("C",)}, r"train must be one or more of the domains A, B; got C"),
        ({"images": "{domain}/{what}/{case}.*"}, r"has \{what\}, which is not one of \{domain\}"),
        ({"images": "{domain}/images/*"}, r"must contain \{case\}"),
        (
            {"masks": ("{domain}/{group}/{case}.*",)},
            r"has \{group\}, which is missing in",
        ),
        ({"masks": ()}, "masks must be one pattern, or NAME=PATTERN for each"),
        (
            {"masks": ("a={case}", "{case}")},
            "masks must be one pattern, or NAME=PATTERN for each",
        ),
        ({"colours": ("a=#000000",), "instances": True}, "exclude each other"),
        ({"colours": ("a=#000000", "b=3")}, "must be all NAME=#RRGGBB or all NAME=VALUE, got '3'"),
        ({"colours": ("a=black",)}, "must be all NAME=#RRGGBB or all NAME=VALUE, got 'black'"),
        ({"colours": ("a=0",), "classes": ("b",)}, "classes must include 'a'"),
        ({"instances": True, "classes": ("a",)}, "classes must name background, object"),
        ({"border": True}, "border needs instances"),
        ({"holdout": 1.0}, r"holdout must be in \[0, 1\)"),
        ({"columns": ("case=x",)}, "columns need table"),
        ({"table": Path("t.csv"), "columns": ("slide=id",)}, "NAME one of .*, got 'slide=id'"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_inconsistent_options_are_an_error(src, options, message):
    (src / "t.csv").write_text("id\nA0\n")
    with pytest.raises(ValueError, match=message):
        prepare(src, **options)


def test_a_repeated_field_matches_the_same_text():
    expression = compile_pattern("{case}/images/{case}.png")
    assert expression.fullmatch("a/images/a.png")
    assert not expression.fullmatch("a/images/b.png")


def test_an_unwritable_output_folder_is_an_error(src):
    with pytest.raises(SkipshiftError, match=r"o: cannot be written: Not a directory"):
        prepare(src, "src/A/images/A0.png/o")


def test_mask_files_of_different_sizes_are_an_error(src):
    write_png(src / "A/more/A0.png", np.zeros((20, 20), np.uint8))
    masks = ("x={domain}/masks/{case}.png", "y={domain}/more/{case}.png")
    with pytest.raises(SkipshiftError, match=r"more/A0\.png: differs in size from A0\.png"):
        prepare(src, masks=masks)


def commands_in_the_docs():
    return re.findall(r"^skipshift prepare folder (?!SRC).*$", DOCS.read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", commands_in_the_docs(), ids=lambda line: line.split()[3])
def test_the_commands_in_the_docs_give_their_counts(line, shared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    volume = nibabel.Nifti1Image(np.arange(3200.0).reshape(40, 40, 2) // 1000, np.eye(4))
    for name in ("patient001_frame01", "patient001_frame01_gt"):
        (tmp_path / "ACDC/training/patient001").mkdir(parents=True, exist_ok=True)
        nibabel.save(volume, tmp_path / f"ACDC/training/patient001/{name}.nii.gz")
    for kind, name in (("images", "ab"), ("masks", "m1"), ("masks", "m2")):
        write_png(tmp_path / f"stage1_train/ab/{kind}/{name}.png", np.ones((32, 32), np.uint8))
    for folder, name in (
        ("images", "21_training.tif"),
        ("1st_manual", "21_manual1.gif"),
        ("mask", "21_training_mask.gif"),
    ):
        (tmp_path / "DRIVE/training" / folder).mkdir(parents=True)
        Image.new("L", (40, 40), 255).save(tmp_path / "DRIVE/training" / folder / name)
    words = shlex.split(line.replace("../shared", str(shared)).replace(" OUT ", " o "))[1:]
    with pytest.raises(SystemExit) as done:
        main(words)
    shown = capsys.readouterr()
    assert not done.value.code, shown.err
    table = re.search(
        rf"{re.escape(line)}\n```\n\n\| split .*\n\|-.*\n((?:\|.*\n)+)", DOCS.read_text()
    )
    for row in table[1].splitlines() if table else ():
        assert re.search(r"\s+".join(row.strip("| ").split(" | ")), shown.out)
