"""`prepare scc`: on synthetic slides in the distributed layouts and on real slides."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from pyramids import write_coco, write_pyramid, write_sliderunner
from shipped_studies import STUDIES, commands
from skipshift.cli.main import main
from skipshift.data.images import read_image, read_labels
from skipshift.data.manifest import read_manifest
from skipshift.data.prepare.scc import TISSUES, prepare_scc
from skipshift.data.prepare.slide_options import SccSpec
from skipshift.data.prepare.specimens import split_specimens
from skipshift.data.prepare.writing import describe
from skipshift.data.slides.annotations import read_annotations, write_qupath
from skipshift.data.slides.registration import Registration
from skipshift.errors import SkipshiftError
from skipshift.spec_files import read_spec
from skipshift.study_specs import StudySpec

SIZE = (960, 720)
DERMIS = np.array([(100, 90), (860, 100), (850, 620), (110, 630)])
TUMOR = np.array([(300, 200), (640, 210), (630, 520), (310, 500)])
SCANNERS = ("A=cs2", "B=nz20")
IDENTITY = np.eye(2, 3)
MOVED = np.array([[1.1, 0.02, 30.0], [-0.02, 1.1, 55.0]])
"""Affine map from the first scanner's image to the second's."""


def picture(rng, affine=IDENTITY):
    """Pink tissue with a darker tumor on bright glass."""
    margin = 0 if affine is IDENTITY else 160
    width, height = SIZE[0] + margin, SIZE[1] + margin
    pixels = np.full((height, width, 3), (243, 241, 245), np.float64)
    for points, colour in ((DERMIS, (225, 150, 190)), (TUMOR, (130, 70, 150))):
        places = points @ affine[:, :2].T + affine[:, 2]
        cv2.fillPoly(pixels, [np.rint(places).astype(np.int32)], colour)
    grain = cv2.resize(rng.normal(0, 6, (height // 4, width // 4)), (width, height))
    return np.clip(pixels + grain[..., None], 1, 255).astype(np.uint8)


def transferred(points):
    return points @ MOVED[:, :2].T + MOVED[:, 2]


class Slides:
    """Synthetic multi-scanner set: specimens 1 and 2 for training, 3 for testing."""

    def __init__(self, root, rng):
        self.root, self.outlines = root, {}
        for specimen in ("scc_01", "scc_02", "scc_03"):
            self.add(f"{specimen}_cs2.tif", picture(rng), [("Dermis", DERMIS), ("SCC", TUMOR)])
            moved = [("Dermis", transferred(DERMIS)), ("SCC", transferred(TUMOR))]
            self.add(f"{specimen}_nz20.tif", picture(rng, MOVED), moved)
        rows = ["Slide;Dataset", "scc_01;train", "scc_02;val", "scc_03;test"]
        (root / "scc_dataset.csv").write_text("\n".join(rows) + "\n", encoding="utf-8-sig")

    def add(self, name, pixels, shapes):
        write_pyramid(self.root / name, pixels, mpp=0.5)
        self.outlines[name] = (pixels.shape[1], pixels.shape[0], shapes)
        self.write()

    def write(self):
        write_coco(self.root / "scc.json", self.outlines, list(TISSUES))


@pytest.fixture
def slides(tmp_path, rng):
    return Slides(tmp_path / "slides", rng)


def prepare(slides, name="out", **options):
    out = slides.root.parent / name
    fixed = {"scanners": SCANNERS, "size": 64, "patches": 12, "workers": 2}
    prepare_scc(SccSpec(slides.root, out, **(fixed | options)))
    return out


def cases(out):
    return read_manifest(out / "manifest.csv")


def about(out):
    return json.loads((out / "prepare.json").read_text())


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_training_specimens_are_sampled_and_test_specimens_gridded(slides):
    table = cases(prepare(slides))
    train, test = (table[table["split"] == split] for split in ("train", "test"))
    assert set(train["group"]) == {"scc_01", "scc_02"}
    assert set(train["domain"]) == {"A"}
    assert train.groupby("group").size().tolist() == [12, 12]
    assert set(test["group"]) == {"scc_03"}
    assert set(test["domain"]) == {"A", "B"}
    x, y = (test.loc[test["domain"] == "A", axis].astype(int) for axis in "xy")
    assert (x % 64 == 0).all()
    assert (y % 64 == 0).all()


def test_an_image_equals_the_slide_at_its_position(slides, rng):
    pixels = picture(rng)
    slides.add("scc_01_cs2.tif", pixels, [("Dermis", DERMIS), ("SCC", TUMOR)])
    table = cases(prepare(slides)).query("group == 'scc_01'")
    for row in table.itertuples():
        x, y = int(row.x), int(row.y)
        assert np.array_equal(read_image(Path(row.image)), pixels[y : y + 64, x : x + 64])


def test_a_mask_equals_the_outlines_at_its_position(slides):
    full = np.zeros(SIZE[::-1], np.uint8)
    cv2.fillPoly(full, [DERMIS.astype(np.int32)], 1)
    cv2.fillPoly(full, [TUMOR.astype(np.int32)], 2)
    table = cases(prepare(slides)).query("domain == 'A'")
    seen = set()
    for row in table.itertuples():
        x, y = int(row.x), int(row.y)
        mask = read_labels(Path(row.mask))
        assert (mask != full[y : y + 64, x : x + 64]).mean() < 0.02
        seen |= set(np.unique(mask).tolist())
    assert seen == {0, 1, 2}


def test_test_patches_are_exactly_those_with_mostly_tissue(slides):
    table = cases(prepare(slides)).query("split == 'test' and domain == 'A'")
    full = np.zeros(SIZE[::-1], np.uint8)
    cv2.fillPoly(full, [DERMIS.astype(np.int32)], 1)
    shares = {
        (x, y): full[y : y + 64, x : x + 64].mean()
        for y in range(0, SIZE[1] - 63, 64)
        for x in range(0, SIZE[0] - 63, 64)
    }
    places = set(zip(table["x"].astype(int), table["y"].astype(int), strict=True))
    assert {place for place, share in shares.items() if share > 0.52} <= places
    assert {place for place, share in shares.items() if share < 0.48} & places == set()


def test_a_region_has_the_same_name_and_content_in_all_domains(slides):
    out = prepare(slides)
    test = cases(out).query("split == 'test'").set_index(["domain", "case"])
    names = [set(test.loc[domain].index) for domain in "AB"]
    assert names[0] == names[1]
    for name in names[0]:
        first, other = (test.loc[domain, name] for domain in "AB")
        middle = np.array([[int(first["x"]), int(first["y"])]]) + 32
        expected = transferred(middle)[0] - 32
        assert np.abs(expected - [int(other["x"]), int(other["y"])]).max() <= 1
        masks = [read_labels(Path(row["mask"])) for row in (first, other)]
        # the second scanner magnifies by a tenth
        shares = [np.bincount(mask.ravel(), minlength=3) / mask.size for mask in masks]
        assert np.abs(shares[0] - shares[1]).max() < 0.15


def test_slides_of_equal_size_count_as_registered_and_share_outlines(slides, rng):
    slides.add("scc_03_nz20.tif", picture(rng), [])
    test = cases(prepare(slides)).query("split == 'test'").set_index(["domain", "case"])
    a, b = (test.loc[domain].sort_index() for domain in "AB")
    assert a["x"].tolist() == b["x"].tolist()
    for name in a.index:
        first, other = (read_labels(Path(part.loc[name, "mask"])) for part in (a, b))
        assert (first != other).mean() < 0.02


def register(slides, fixed="scc_03_cs2.tif", moving="scc_03_nz20.tif"):
    affine = np.vstack([MOVED, [0, 0, 1]])[None, None]
    found = Registration(
        fixed, moving, SIZE, None, affine, np.ones((1, 1)), np.zeros((1, 1), int), {}
    )
    found.save(slides.root.parent / "registrations/B/scc_03")
    return {"registrations": slides.root.parent / "registrations"}


def test_a_registration_aligns_a_slide_without_outlines(slides):
    outlined = prepare(slides)
    del slides.outlines["scc_03_nz20.tif"]
    slides.write()
    assert len(cases(prepare(slides, "alone"))) < len(cases(outlined))
    registered = prepare(slides, "registered", **register(slides))
    assert digests(registered / "images") == digests(outlined / "images")
    assert digests(registered / "masks") == digests(outlined / "masks")
    with pytest.raises(SkipshiftError, match=r"nz20\.tif starts from x\.tif, .* register that"):
        prepare(slides, "other", **register(slides, fixed="x.tif"))


def test_a_slide_that_cannot_be_aligned_is_cut_independently_or_left_out(slides, rng):
    fewer = [("Dermis", transferred(DERMIS)[:3])]
    slides.add("scc_03_nz20.tif", picture(rng, MOVED), fewer)
    out = prepare(slides)
    remark = "slides that cannot be aligned with their reference scan, cut independently"
    assert about(out)["remarks"][remark] == ["scc_03_nz20.tif"]
    own = cases(out).query("domain == 'B'")
    assert own["case"].str.startswith("scc_03-B-x").all()
    slides.add("scc_03_nz20.tif", picture(rng, MOVED), [])
    out = prepare(slides, "none")
    left = "slides without outlines that cannot be aligned, left out"
    assert about(out)["remarks"][left] == ["scc_03_nz20.tif"]
    assert set(cases(out)["domain"]) == {"A"}


def test_patches_have_the_requested_resolution(slides):
    table = cases(prepare(slides, mpp=1.0))
    assert set(table["spacing"]) == {"0.001x0.001"}
    row = table.query("split == 'test' and domain == 'A'").iloc[0]
    second = table.query("split == 'test' and domain == 'A'").iloc[1]
    assert int(second["x"]) - int(row["x"]) == 128
    assert read_image(Path(row["image"])).shape == (64, 64, 3)


def test_samples_of_a_specimen_depend_on_seed_and_name_only(slides):
    def places(name, **options):
        table = cases(prepare(slides, name, **options)).query("group == 'scc_01'")
        return list(zip(table["x"], table["y"], table["stratum"], strict=True))

    first = places("a")
    assert places("b", patches=20)[:12] == first
    assert places("c", seed=1) != first
    (slides.root / "scc_02_cs2.tif").unlink()
    assert places("d") == first


def test_the_centre_of_a_training_patch_has_the_class_of_its_stratum(slides):
    table = cases(prepare(slides, patches=40)).query("split == 'train'")
    assert set(table["stratum"]) == {"background", "non-tumor", "tumor"}
    for row in table.query("stratum != 'background'").itertuples():
        middle = read_labels(Path(row.mask))[28:36, 28:36]
        assert ("background", "non-tumor", "tumor").index(row.stratum) in middle


def test_output_does_not_depend_on_workers_and_a_complete_set_is_kept(slides):
    one, three = (prepare(slides, f"w{n}", workers=n) for n in (1, 3))
    assert digests(one) == digests(three)
    before = {path: path.stat().st_mtime_ns for path in one.rglob("*")}
    prepare(slides, "w1")
    assert {path: path.stat().st_mtime_ns for path in one.rglob("*")} == before
    with pytest.raises(SkipshiftError, match="contains a set with patches 12, not 13"):
        prepare(slides, "w1", patches=13)


def test_a_database_and_folders_of_scanners_give_the_same_patches(slides):
    expected = prepare(slides)
    other, rows = slides.root.parent / "other", {}
    for name, (width, height, shapes) in slides.outlines.items():
        specimen, _, scanner = name.removesuffix(".tif").rpartition("_")
        (other / scanner).mkdir(parents=True, exist_ok=True)
        shutil.copy(slides.root / name, other / scanner / f"{specimen}.tif")
        points = [(3, label, np.rint(corners)) for label, corners in shapes]
        rows[f"{scanner}/{specimen}.tif"] = (width, height, points)
    write_sliderunner(other / "a.sqlite", rows, list(TISSUES))
    shutil.copy(slides.root / "scc_dataset.csv", other / "t.csv")
    out = slides.root.parent / "database"
    prepare_scc(SccSpec(other, out, scanners=SCANNERS, size=64, patches=12, workers=1))
    assert cases(out)["case"].tolist() == cases(expected)["case"].tolist()
    theirs, mine = digests(expected), digests(out)
    files = [name for name in theirs if name.startswith(("images/A", "masks/A"))]
    assert files
    assert all(mine[name] == theirs[name] for name in files)


def test_outlines_of_a_shared_file_name_belong_to_the_first_scanner(slides):
    for name in list(slides.outlines):
        specimen, _, scanner = name.removesuffix(".tif").rpartition("_")
        (slides.root / scanner).mkdir(exist_ok=True)
        (slides.root / name).rename(slides.root / scanner / f"{specimen}.tif")
        shape = slides.outlines.pop(name)
        slides.outlines.setdefault(f"{specimen}.tif", shape)
    slides.write()
    out = prepare(slides)
    remark = "slides without outlines that cannot be aligned, left out"
    assert about(out)["remarks"][remark] == ["scc_03.tif"]
    assert set(cases(out)["domain"]) == {"A"}


def test_everything_left_out_is_reported(slides, rng):
    slides.add("scc_04_cs2.tif", picture(rng), [])
    slides.add("scc_05_cs2.tif", picture(rng), [("SCC", TUMOR)])
    slides.add("scc_06_p1000.tif", picture(rng), [("SCC", TUMOR)])
    rows = ["Slide;Dataset", "scc_01;train", "scc_03;test", "scc_04;test", "scc_05;test"]
    (slides.root / "scc_dataset.csv").write_text("\n".join([*rows, "scc_09;train"]))
    out = prepare(slides)
    remarks = about(out)["remarks"]
    assert remarks["slides of unknown scanners, left out"] == ["scc_06_p1000.tif"]
    assert remarks["specimens without a row in the table, left out"] == ["scc_02"]
    assert remarks["specimens of the table without slides"] == ["scc_09"]
    assert remarks["slides of specimens without outlines, left out"] == ["scc_04_cs2.tif"]
    remark = "slides of training specimens in other domains, left out"
    assert remarks[remark] == ["scc_01_nz20.tif"]
    remark = "cases with more than 10 % unannotated tissue, labelled non-tumor"
    assert {name.split("-")[0] for name in remarks[remark]} == {"A/scc_05"}
    assert "classes: [background, non-tumor, tumor]" in describe(out)


def test_regions_beyond_a_slide_and_slides_without_regions_are_reported(slides, rng):
    near = transferred(DERMIS) - (150, 150)
    slides.add("scc_03_nz20.tif", picture(rng, MOVED)[150:, 150:], [("Dermis", near)])
    slides.add("scc_03_cs2.tif", picture(rng), [("Dermis", DERMIS)])
    tiny = np.array([(10, 10), (12, 10), (12, 12)])
    glass = np.full_like(picture(rng), 240)
    glass[8:14, 8:14] = 90
    slides.add("scc_04_cs2.tif", glass, [("SCC", tiny)])
    (slides.root / "scc_dataset.csv").write_text("Slide;Dataset\nscc_03;test\nscc_04;test\n")
    remarks = about(prepare(slides))["remarks"]
    assert remarks["slides without a region to cut, left out"] == ["scc_04_cs2.tif"]
    beyond = remarks["cases that extend beyond their slide, padded with white"]
    assert beyond
    assert all(name.startswith("B/scc_03-x") for name in beyond)


def test_without_a_table_a_fifth_is_held_out_and_reported(slides):
    (slides.root / "scc_dataset.csv").unlink()
    out = prepare(slides)
    assert cases(out).groupby("split")["group"].nunique().to_dict() == {"test": 1, "train": 2}
    [note] = about(out)["notes"]
    assert note.startswith("no table of splits: 1 of 3 specimens are drawn at random")


def test_the_real_table_has_the_papers_nine_test_specimens(shared):
    table = shared / "data/histology/annotations/scc_dataset.csv"
    splits, notes = split_specimens([], table, SccSpec(Path("s"), Path("o")))
    assert Counter(splits.values()) == {"train": 35, "test": 9}
    assert notes == []


def test_a_table_may_list_file_names_as_that_of_catch(slides, shared):
    for number in (1, 3):
        name = slides.root / f"scc_0{number}_cs2.tif"
        name.rename(slides.root / f"SCC_0{number}_1_cs2.tif")
        slides.outlines[f"SCC_0{number}_1_cs2.tif"] = slides.outlines.pop(name.name)
    slides.write()
    shutil.copy(
        shared / "data/histology/annotations/CATCH_datasets.csv", slides.root / "scc_dataset.csv"
    )
    assert set(cases(prepare(slides))["group"]) >= {"SCC_01_1"}


def test_real_slides_are_cut(shared, tmp_path):
    samples = shared / "data/histology/wsi_4scanner"
    scanners = ("A=Aperio", "B=AxioScan", "C=NanoZoomer2.0HT", "D=NanoZoomerS210")
    outlines = {}
    for text in scanners:
        [file] = (samples / text[2:]).iterdir()
        (tmp_path / "s" / text[2:]).mkdir(parents=True)
        (tmp_path / "s" / text[2:] / f"BB{file.suffix}").symlink_to(file)
        outlines[f"{text[2:]}/BB{file.suffix}"] = (1, 1, [("SCC", DERMIS + 1500)])
    write_coco(tmp_path / "s/a.json", outlines, list(TISSUES))
    (tmp_path / "s/t.csv").write_text("Slide;Dataset\nBB;test\n")
    out = tmp_path / "o"
    prepare_scc(SccSpec(tmp_path / "s", out, scanners=scanners, workers=2, tissue=0.1))
    table = cases(out)
    assert set(table["domain"]) == set("ABCD")
    assert table.groupby("domain")["case"].nunique().nunique() == 1


@pytest.mark.parametrize("study", ["small-ms-cct", "paper-ms-cct"])
def test_the_studies_of_the_set_fit_it(slides, rng, study):
    file = next(file for file in STUDIES if file.stem == study)
    for scanner in ("cs2", "nz210", "nz20", "p1000", "gt450"):
        slides.add(f"scc_03_{scanner}.tif", picture(rng), [("SCC", TUMOR)])
    out = slides.root.parent / "o"
    words = commands(file)[0]
    with pytest.raises(SystemExit) as done:
        main([*words[:2], str(slides.root), str(out), *words[4:]])
    assert not done.value.code
    spec, test = read_spec(StudySpec, file), cases(out).query("split == 'test'")
    assert list(spec.classes) == about(out)["classes"]
    assert set(spec.profile_shifts) < set(test["domain"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"size": 1024},
            "is 960 x 720, smaller than a patch of 1024 pixels; choose a",
        ),
        ({"scanners": ("A=none",)}, "has no slide SPECIMEN_SCANNER.* or .* first of 6 slides is"),
        ({"table": Path("no.csv")}, r"no.csv: is not a file in .*; correct --table"),
        ({"annotations": Path("no.json")}, r"no.json: is not a file in .*; correct --annotations"),
    ],
)
def test_inputs_that_do_not_fit_are_an_error(slides, options, message):
    with pytest.raises(SkipshiftError, match=message):
        prepare(slides, **options)
    assert not (slides.root.parent / "out").exists()


def test_contradicting_files_are_an_error(slides):
    (slides.root / "copy").mkdir()
    shutil.copy(slides.root / "scc_01_cs2.tif", slides.root / "copy/scc_01_cs2.tif")
    with pytest.raises(
        SkipshiftError, match=r"cs2\.tif: is the same specimen and scanner as .*copy"
    ):
        prepare(slides)
    shutil.rmtree(slides.root / "copy")
    shutil.copy(slides.root / "scc.json", slides.root / "two.json")
    with pytest.raises(SkipshiftError, match=r"has scc\.json and two\.json; choose one with --a"):
        prepare(slides)
    (slides.root / "two.json").unlink()
    table = slides.root / "scc_dataset.csv"
    table.write_text("Slide;Dataset\nscc_01;pilot\n")
    with pytest.raises(SkipshiftError, match="scc_01 has Dataset 'pilot'; it must be one of train"):
        prepare(slides)
    table.write_text("Slide;Dataset\nscc_01.tif;train\nscc_01.svs;test\n")
    with pytest.raises(SkipshiftError, match="has scc_01 in both train and test; remove one"):
        prepare(slides)
    table.write_text("Slide,Dataset\nscc_01,train\n")
    with pytest.raises(SkipshiftError, match="has no column 'Slide'; it must be Slide;Dataset"):
        prepare(slides)
    (slides.root / "scc.json").unlink()
    with pytest.raises(SkipshiftError, match=r"annotations \(\*\.json, \*\.sqlite, \*\.geo"):
        prepare(slides)


@pytest.mark.parametrize("folder", [".", "drawn"])
def test_outlines_of_qupath_give_the_same_masks(slides, folder):
    one = prepare(slides, "one")
    (slides.root / folder).mkdir(exist_ok=True)
    for name, annotated in read_annotations(slides.root / "scc.json").items():
        write_qupath(slides.root / folder / f"{Path(name).stem}.geojson", annotated)
    (slides.root / "scc.json").unlink()
    two = prepare(slides, "two", annotations=Path(folder) if folder != "." else None)
    assert digests(one / "masks") == digests(two / "masks")


def test_a_tissue_unknown_to_catch_must_be_assigned(slides):
    slides.outlines["scc_01_cs2.tif"][2].append(("Nerve", DERMIS))
    write_coco(slides.root / "scc.json", slides.outlines, [*TISSUES, "Nerve"])
    with pytest.raises(SkipshiftError, match="outline of unknown class 'Nerve'; assign it"):
        prepare(slides)
    assert len(cases(prepare(slides, labels=("Nerve=non-tumor",))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scanners": ("A",)}, "scanners must be DOMAIN=SCANNER, each once, got A"),
        ({"scanners": ("A=x", "A=y")}, "each once, got A=x, A=y"),
        ({"train": ("Z",)}, "train must be some of the domains"),
        ({"size": 100}, "size must be a multiple of 32, got 100"),
        ({"mpp": 0.0}, "mpp must be above 0"),
        ({"tissue": 1.0}, r"tissue must be in \[0, 1\), got 1.0"),
        ({"holdout": -0.1}, r"holdout must be in \[0, 1\), got -0.1"),
        ({"labels": ("Nerve=nerve",)}, "labels must be NAME=background, =non-tumor or =tumor"),
        ({"patches": 0}, "patches must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_a_wrong_argument_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        SccSpec(Path("s"), Path("o"), **options)
