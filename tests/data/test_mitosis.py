"""`prepare mitosis`: patches, masks, transfer to other scans, review, and errors."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pyramids import write_pyramid, write_sliderunner
from skipshift.cli.main import main
from skipshift.data.images import read_image, read_labels, write_png
from skipshift.data.manifest import read_manifest
from skipshift.data.prepare.corrections import digest
from skipshift.data.prepare.mitosis import (
    CLASSES,
    HELD_OUT,
    choose_slides,
    find_scans,
    prepare_mitosis,
    split_specimens,
)
from skipshift.data.prepare.published import read_points, read_slide_tables
from skipshift.data.prepare.slide_options import MitosisSpec
from skipshift.data.prepare.stains import STAINS, haematoxylin, middle_parts, propose
from skipshift.data.preprocess import unit
from skipshift.data.slides.registration import Registration
from skipshift.errors import SkipshiftError
from skipshift.networks.mask_proposals import proposer
from skipshift.page import review
from skipshift.records import read_json
from skipshift.spec_files import read_spec
from skipshift.study_specs import StudySpec

STUDIES = Path(__file__).parents[2] / "studies"
SIDE = 400
FIGURE, NEGATIVE = "mitotic figure", "not mitotic figure"
POINTS = [(FIGURE, (110, 120)), (FIGURE, (180, 150)), (NEGATIVE, (200, 300))]


def picture(rng, points, side=SIDE):
    """Pink background with a dark ellipse of 24 x 14 pixels at each point."""
    image = np.full((side, side, 3), [232, 190, 215], np.uint8)
    for _, place in points:
        cv2.ellipse(image, place, (12, 7), 30, 0, 360, (70, 40, 120), -1)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def write_midog(path, slides, classes=(FIGURE, NEGATIVE)):
    """Slides: name -> (side, points), as boxes of 50 x 50 given by two corners."""
    images = [
        {"id": i, "file_name": name, "width": side, "height": side}
        for i, (name, (side, _)) in enumerate(slides.items(), 1)
    ]
    annotations = []
    for i, (_, points) in enumerate(slides.values(), 1):
        for label, (x, y) in points:
            box = [x - 25, y - 25, x + 25, y + 25]
            kind = classes.index(label) + 1
            annotations.append({"image_id": i, "category_id": kind, "bbox": box})  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    path.write_text(json.dumps(content))


@pytest.fixture
def src(tmp_path, rng):
    """Three annotated slides by scanner A, each shifted a little, and the first one also by B."""
    root, slides = tmp_path / "src", {}
    for number in range(3):
        points = [(label, (x + number, y)) for label, (x, y) in POINTS]
        image = picture(rng, points)
        write_pyramid(root / f"A/s{number}.tiff", image)
        slides[f"s{number}.tiff"] = (SIDE, points)
        if number == 0:
            write_pyramid(root / "B/s0.tiff", np.roll(image, (9, 17), axis=(0, 1)))
    write_midog(root / "MIDOG.json", slides)
    return root


def prepare(src, name="out", **options):
    out = src.parent / name
    spec = MitosisSpec(src, out, **({"workers": 2, "holdout": 1} | options))
    prepare_mitosis(spec)
    return out


def cases(out):
    return read_manifest(out / "manifest.csv")


def about(out):
    return read_json(out / "prepare.json")


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_patch_is_centred_on_its_point_and_its_mask_covers_the_figure(src):
    rows = cases(prepare(src))
    assert rows["case"].str.match(r"s\d-x\d{6}-y\d{6}$").all()
    for row in rows[rows["domain"] == "A"].itertuples():
        x, y = (int(text[1:]) for text in row.case.split("-")[1:])
        assert (int(row.x), int(row.y)) == (x - 64, y - 64)
        whole = read_image(src / f"A/{row.group}.tiff")
        assert np.array_equal(read_image(row.image), whole[y - 64 : y + 64, x - 64 : x + 64])
        truth = np.zeros((128, 128), np.uint8)
        for label, place in POINTS:
            here = (place[0] + int(row.group[1]) - x + 64, place[1] - y + 64)
            if label == FIGURE:
                cv2.ellipse(truth, here, (12, 7), 30, 0, 360, 1, -1)
        mask = read_labels(row.mask)
        assert (mask & truth).sum() / (mask | truth).sum() > 0.9


def test_a_figure_has_the_same_mask_in_every_patch_that_contains_it(src):
    rows = cases(prepare(src)).query("domain == 'A'")
    for _, pair in rows.groupby("group"):
        (x, y), (right, down) = pair[["x", "y"]].astype(int).to_numpy()
        first, second = (read_labels(Path(path)) for path in pair["mask"])
        shift = (right - x, down - y)
        shared = first[shift[1] :, shift[0] :]
        assert np.array_equal(shared, second[: 128 - shift[1], : 128 - shift[0]])
        assert shared.any()


def test_held_out_slides_are_test_slides_and_the_missing_table_is_reported(src):
    out = prepare(src, holdout=2)
    rows = cases(out)
    assert rows.query("domain == 'A'").groupby("split")["group"].nunique().to_dict() == {
        "train": 1,
        "test": 2,
    }
    assert "2 of 3 slides of domain A are held out for testing" in about(out)["notes"][0]
    assert set(rows["reviewed"]) == {"no"}
    assert set(rows["spacing"]) == {"0.00025x0.00025"}


def test_a_sliderunner_database_gives_the_same_patches(src):
    first = prepare(src)
    slides = {
        f"s{n}.svs": (SIDE, SIDE, [(1, label, [(x + n, y)]) for label, (x, y) in POINTS])
        for n in range(3)
    }
    (src / "MIDOG.json").unlink()
    write_sliderunner(src / "MITOS_WSI_CMC.sqlite", slides, [FIGURE, NEGATIVE])
    second = prepare(src, "second")
    assert digests(first / "images") == digests(second / "images")
    assert digests(first / "masks") == digests(second / "masks")


def test_hard_negatives_are_cut_on_request_with_empty_masks(src):
    assert not set(cases(prepare(src))["stratum"]) - {FIGURE}
    rows = cases(prepare(src, "more", hard_negatives=True)).query("domain == 'A'")
    assert rows["stratum"].value_counts().to_dict() == {FIGURE: 6, "hard negative": 3}
    for row in rows[rows["stratum"] == "hard negative"].itertuples():
        assert not read_labels(row.mask).any()


def test_output_does_not_depend_on_workers(src):
    assert digests(prepare(src, workers=1)) == digests(prepare(src, "two", workers=3))


def test_a_coarser_resolution_shows_more_of_the_slide(src):
    rows = cases(prepare(src, mpp=0.5))
    row = rows.query("case == 's0-x000180-y000150'").iloc[0]
    whole = read_image(src / "A/s0.tiff")[150 - 128 : 150 + 128, 180 - 128 : 180 + 128]
    shrunk = whole.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
    assert np.abs(read_image(Path(row["image"])).astype(float) - shrunk).mean() < 1
    assert row["spacing"] == "0.0005x0.0005"


def register(src, turn=((1, 0, 17), (0, 1, 9)), errors=((1.0, 1.0),), moving="s0.tiff"):
    """Save the registration of s0 to its shifted scan by B; errors by columns of the slide."""
    shape = np.shape(errors)
    affines = np.broadcast_to([*turn, (0, 0, 1)], (*shape, 3, 3)).astype(float)
    depths = np.zeros(shape, int)
    found = Registration(
        "s0.tiff", moving, (SIDE, SIDE), 0.25, affines, np.array(errors), depths, {}
    )
    found.save(src.parent / "registrations/B/s0")
    return {"registrations": src.parent / "registrations"}


def all_for_testing(src):
    """A table that assigns every slide but one to testing."""
    (src / "lists.csv").write_text("Slide;Dataset\n0s;train\ns0;test\ns1;train\ns2;test\n")
    return {"tables": (Path("lists.csv"),)}


def test_a_figure_and_its_mask_are_transferred_to_another_scan(src):
    out = prepare(src, **register(src), **all_for_testing(src))
    rows = cases(out).query("group == 's0'")
    assert rows.groupby("domain").size().to_dict() == {"A": 2, "B": 2}
    for _, pair in rows.groupby("case"):
        for kind, read in (("image", read_image), ("mask", read_labels)):
            first, second = (read(Path(path)) for path in pair[kind])
            assert np.array_equal(first, second)


def test_a_mask_is_transferred_over_a_quarter_turn(src):
    image = read_image(src / "A/s0.tiff")
    write_pyramid(src / "B/s0.tiff", np.ascontiguousarray(np.rot90(image, -1)))
    turn = ((0, -1, SIDE - 1), (1, 0, 0))
    out = prepare(src, **register(src, turn), **all_for_testing(src))
    for _, pair in cases(out).query("group == 's0'").groupby("case"):
        first, second = (read_labels(Path(path)) for path in pair["mask"])
        # the middle of an even patch lies between pixels, half of one beside the point
        shifts = [np.roll(np.rot90(first, -1), shift, axis=1) for shift in (-1, 0, 1)]
        assert any(np.array_equal(shifted, second) for shifted in shifts)


def test_a_point_with_a_large_registration_error_is_left_out_on_all_scans(src):
    # pixels of 0.25 micrometres
    options = register(src, errors=((5.0, 1.0),))
    out = prepare(src, **options, **all_for_testing(src))
    rows = cases(out).query("group == 's0'")
    assert list(rows["case"]) == ["s0-x000180-y000150"] * 2
    remark = "cases with a registration error above 1.0 micrometres, left out"
    assert about(out)["remarks"][remark] == ["s0-x000110-y000120"]


def test_a_registration_to_another_slide_is_an_error(src):
    with pytest.raises(SkipshiftError, match=r"maps to x.tiff, but .* of domain B is s0.tiff"):
        prepare(src, **register(src, moving="x.tiff"))


def test_scans_without_registration_and_patches_beyond_the_slide_are_reported(src, rng):
    near = [(FIGURE, (30, 200)), (FIGURE, (200, 200))]
    write_pyramid(src / "A/edge.tiff", picture(rng, near))
    slides = {f"s{n}.tiff": (SIDE, [(FIGURE, (110 + n, 120))]) for n in range(3)}
    write_midog(src / "MIDOG.json", slides | {"edge.tiff": (SIDE, near), "gone.tiff": (SIDE, [])})
    remarks = about(prepare(src))["remarks"]
    assert remarks["cases that extend beyond their slide, left out"] == ["edge-x000030-y000200"]
    assert remarks["annotated slides that are missing"] == ["gone.tiff"]
    unregistered = "slides without a registration to transfer points, left out"
    training = "slides of training specimens in other domains, left out"
    assert (remarks.get(unregistered) or remarks[training]) == ["B/s0.tiff"]


def test_tables_give_split_scanner_and_specimen(src):
    (src / "lists.csv").write_text(
        "Slide;Dataset;Scanner;Specimen\n"
        "s0;val;XR;dog\ns1;test;Hamammatsu XR;cat\ns2;test;CS2;cow\n"
    )
    options = {"tables": (Path("lists.csv"),), "scanners": ("XR=Hamammatsu XR",), "train": "XR"}
    (src / "B/s0.tiff").unlink()
    rows = cases(prepare(src, **options))
    found = rows.groupby("group")[["domain", "split"]].first().to_dict("index")
    assert found == {
        "dog": {"domain": "XR", "split": "train"},
        "cat": {"domain": "XR", "split": "test"},
        "cow": {"domain": "CS2", "split": "test"},
    }


def test_a_slide_with_the_points_of_another_is_left_out_as_its_copy(src):
    points = [(label, (x + 1, y)) for label, (x, y) in POINTS]
    write_pyramid(src / "A/renamed.tiff", read_image(src / "A/s1.tiff"))
    write_midog(src / "other.json", {"renamed.tiff": (SIDE, points)})
    out = prepare(src)
    remark = "slides with the same points as another, treated as copies, left out"
    assert about(out)["remarks"][remark] == ["renamed.tiff (s1.tiff)"]
    assert "renamed" not in set(cases(out)["group"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Slide;Dataset\ns0;train\ns0.tiff;test\n", r"s0.tiff has Dataset test, but train in lis"),
        ("Slide;Dataset\ns0;training\n", "s0 has Dataset 'training'; it must be one of train, val"),
        ("File;Dataset\ns0;train\n", "has no column 'Slide'"),
        (
            "Slide;Dataset;Specimen\ns0;train;dog\ns1;test;dog\n",
            "A/s1.tiff: is in test, but s0.tiff of the same specimen in train",
        ),
    ],
)
def test_contradicting_tables_are_an_error(src, content, message):
    (src / "lists.csv").write_text(content)
    with pytest.raises(SkipshiftError, match=message):
        prepare(src, tables=(Path("lists.csv"),))


def test_a_slide_with_contradicting_tables_may_be_left_out(src):
    (src / "paper.csv").write_text("Slide,Dataset\ns0,train\ns1,train\ns2,test\n")
    (src / "code.csv").write_text("Slide,Dataset\ns1,test\n")
    options = {"tables": (Path("paper.csv"), Path("code.csv"))}
    with pytest.raises(SkipshiftError, match=r"s1 has Dataset test, but train in paper.csv; .*--l"):
        prepare(src, **options)
    assert set(cases(prepare(src, **options, leave_out=("s1.tiff",)))["group"]) == {"s0", "s2"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "Z"}, "has no slide of domain Z, only of A, B; choose .* --train"),
        ({"holdout": 3}, "has 3 slides with points in domain A, too few to hold out 3"),
        ({"leave_out": ("s9",)}, "has no slide s9; correct --leave-out"),
        ({"annotations": (Path("no.json"),)}, "no.json: cannot be read"),
        (
            {"corrections": Path("nowhere")},
            "nowhere: is not a folder; give the",
        ),
        (
            {"registrations": Path("nowhere")},
            "nowhere: contains no DOMAIN/SPECIMEN/registration.json",
        ),
    ],
)
def test_a_source_that_does_not_fit_is_an_error(src, options, message):
    with pytest.raises(SkipshiftError, match=message):
        prepare(src, **options)


def test_annotations_that_do_not_fit_are_an_error(src):
    slides = {"s0.tiff": (SIDE + 1, POINTS), "s1.tiff": (SIDE, []), "s2.tiff": (SIDE, POINTS[:1])}
    write_midog(src / "MIDOG.json", slides)
    with pytest.raises(SkipshiftError, match=r"s0.tiff: is 400 x 400, but .* slide of 401 x 401"):
        prepare(src)
    write_midog(src / "other.json", {"s0.tiff": (SIDE, POINTS)})
    with pytest.raises(SkipshiftError, match=r"annotates s0.tiff, and so does MIDOG.json; choose"):
        prepare(src)
    (src / "other.json").unlink()
    odd = {f"s{n}.tiff": (SIDE, [("Eosinophil", (150 + n, 150)), *POINTS]) for n in range(3)}
    write_midog(src / "MIDOG.json", odd, ("Eosinophil", FIGURE, NEGATIVE))
    with pytest.raises(SkipshiftError, match="has points of unknown class 'Eosinophil'; assign it"):
        prepare(src)
    assert len(cases(prepare(src, labels=("Eosinophil=other",))).query("domain == 'A'")) == 6
    (src / "MIDOG.json").unlink()
    with pytest.raises(SkipshiftError, match=r"has no annotations .*name them with --annotat"):
        prepare(src)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 100}, "size must be a multiple of 32, got 100"),
        ({"holdout": 0}, "holdout must be at least 1, got 0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"mpp": -1.0}, "mpp and most_error must be above 0, got -1.0 and 1.0"),
        ({"labels": ("Mitose=cell",)}, "labels must be NAME=figure, =negative or =other"),
        ({"scanners": ("A",)}, "scanners must be DOMAIN=SCANNER, got A"),
        ({"preprocess": "zscore"}, "builder and preprocess need proposals"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_a_wrong_argument_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        MitosisSpec(Path("s"), Path("o"), **options)


def test_haematoxylin_is_recovered_from_a_mixture_of_stains(rng):
    stains = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    amounts = rng.uniform(0, 0.6, (9, 9, 3)) * [1, 1, 0]
    levels = 256 * 10 ** -(amounts @ stains) - 1
    found = haematoxylin(np.rint(levels).astype(np.uint8))
    assert np.abs(found - amounts[..., 0]).max() < 0.02


def test_both_plates_of_an_anaphase_are_proposed_and_a_neighbour_is_not():
    image = np.full((160, 160, 3), [232, 190, 215], np.uint8)
    truth = np.zeros((160, 160), np.uint8)
    for x, mark in ((70, 1), (90, 1), (125, 0)):
        for canvas, colour in ((image, (70, 40, 120)), (truth, mark)):
            cv2.ellipse(canvas, (x, 80), (5, 14), 0, 0, 360, colour, -1)
    mask = propose(image, 0.25)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.95
    assert not mask[:, 110:].any()


def test_parts_far_from_the_centre_and_specks_are_removed():
    mask = np.zeros((64, 64), bool)
    mask[28:36, 28:36] = mask[28:36, 50:60] = mask[39, 39] = True
    kept = middle_parts(mask, 0.25)
    assert np.argwhere(kept).min(axis=0).tolist() == [28, 28]
    assert kept.sum() == 64


def test_real_figures_are_darker_inside_their_mask_than_around_it(shared):
    files = sorted((shared / "data/histology/ami_br_patches").rglob("*.png"))
    sharper, found = 0, 0
    for file in files[::5]:
        image = read_image(file)
        mask = propose(image, 0.25)
        ring = cv2.dilate(mask, np.ones((11, 11), np.uint8)) - mask
        found += mask.any()
        sharper += mask.any() and image[mask == 1].mean() < image[ring == 1].mean() - 30
    assert found >= 0.95 * len(files[::5])
    assert sharper >= 0.95 * found


def test_every_figure_of_the_published_files_is_one_case(shared, tmp_path):
    files = shared / "data/histology/annotations"
    table = read_slide_tables([files / "MIDOGpp_datasets_xvalidation.csv"], ())
    points, copies = read_points([files / "MIDOG++.json"])
    assert not copies
    for name in points:
        (tmp_path / name).touch()
    fixed = tuple(f"XR=Hama{m}atsu XR" for m in ("m", "mm"))
    spec = MitosisSpec(tmp_path, tmp_path / "o", train="XR", scanners=fixed)
    scans, _ = find_scans(spec, points, table)
    splits, _ = split_specimens(scans, spec)
    jobs, remarks = choose_slides(scans, splits, {}, spec)
    left = "slides of training specimens in other domains, left out"
    assert (len(jobs), len(remarks[left])) == (231, 272)
    trained = [unit for unit in jobs if unit.split == "train"]
    assert {unit.scan.domain for unit in trained} == {"XR"}
    assert len(trained) == 120
    assert len({case for unit in jobs for case in unit.cases}) == sum(len(u.centres) for u in jobs)


def test_copies_under_other_names_are_detected_in_the_published_files(shared):
    files = shared / "data/histology/annotations"
    parts = [files / f"MIDOG_{name}.json" for name in ("AperioCS2", "HamamatsuS360", "HamamatsuXR")]
    _, copies = read_points([files / "MIDOG.json", *parts])
    assert len(copies) == 148


def corrected(src, out, **content):
    """A folder of corrections: the CSV's lines, and masks by case."""
    folder = src.parent / "back"
    folder.mkdir(exist_ok=True)
    (folder / "marks.csv").write_text("case,mark,mask\n" + content.pop("marks", ""))
    for case, mask in content.items():
        write_png(folder / f"{case}.png", mask)
    return prepare(src, out, corrections=folder)


def test_only_reviewed_masks_are_marked_as_reviewed(src):
    rows = cases(prepare(src)).query("domain == 'A'").set_index("case")
    accepted, _, stale, rejected, painted, _ = rows.index
    seen = digest(read_labels(Path(rows["mask"][accepted])))
    marks = f"{accepted},accept,{seen}\n{rejected},reject,\n{stale},accept,0123\nnone,reject,\n"
    mine = np.zeros((128, 128), np.uint8)
    mine[50:70, 40:80] = 255
    out = corrected(src, "second", marks=marks, **{painted: mine})
    after = cases(out).query("domain == 'A'").set_index("case")
    assert set(rows.index) - set(after.index) == {rejected}
    assert set(after.index[after["reviewed"] == "yes"]) == {accepted, painted}
    assert np.array_equal(read_labels(Path(after["mask"][painted])), mine > 0)
    remarks = about(out)["remarks"]
    assert remarks["cases rejected in review, left out"] == [rejected]
    assert remarks["corrections that match no case"] == ["none"]
    assert remarks["masks that have changed since they were accepted, to be reviewed again"] == [
        stale
    ]


def test_a_painted_mask_is_transferred_to_other_scans(src):
    folder = src.parent / "back"
    mine = np.zeros((128, 128), np.uint8)
    mine[40:60, 50:90] = 255
    write_png(folder / "s0-x000180-y000150.png", mine)
    options = all_for_testing(src) | {"corrections": folder}
    rows = cases(prepare(src, **register(src), **options))
    rows = rows.query("case == 's0-x000180-y000150'")
    assert rows["reviewed"].tolist() == ["yes", "yes"]
    for path in rows["mask"]:
        assert np.array_equal(read_labels(Path(path)), mine > 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"marks": "s0,good,\n"},
            "line 2: case 's0' has mark 'good'; it must be one of accept",
        ),
        ({"marks": "s0,accept,\n"}, "line 2: case 's0' is accepted but its column mask is empty"),
        ({"marks": "s0,reject,\ns0,accept,1\n"}, "line 3: case 's0' already has mark reject"),
        (
            {"marks": "s0,reject,\n", "s0": np.ones((9, 9), np.uint8)},
            "s0.png: is painted, but its case is rejected",
        ),
        (
            {f"s{n}-x00018{n}-y000150": np.ones((9, 8), np.uint8) for n in range(3)},
            "png: is 8 x 9, but its case is 128 x 128; repaint it at that size",
        ),
    ],
)
def test_contradicting_corrections_are_an_error(src, content, message):
    with pytest.raises(SkipshiftError, match=message):
        corrected(src, "second", **content)


def test_the_pages_of_the_review_show_every_mask_once(src, monkeypatch):
    monkeypatch.setattr(review, "BATCH", 4)
    out = prepare(src, hard_negatives=True, **register(src), **all_for_testing(src))
    shown = review.write_review(out)
    assert shown == f"review: {out / 'review'}, 6 masks on 2 pages"
    text = "".join(path.read_text() for path in sorted((out / "review").glob("*.html")))
    assert "http" not in text.replace("http-equiv", "")
    rows = cases(out).query("domain == 'A' and stratum == 'mitotic figure'")
    masks = re.findall(r'data-case="(.*?)" data-mask="(.*?)" data-png="data:.*?,(.*?)"', text)
    assert [case for case, _, _ in masks] == rows["case"].tolist()
    for (_, seen, coded), path in zip(masks, rows["mask"], strict=True):
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(coded), np.uint8), 0)
        assert np.array_equal(pixels > 0, read_labels(Path(path)) > 0)
        assert digest(pixels) == seen


class Darkness(torch.nn.Module):
    """Class 1 where red is below a half, everywhere in the patch."""

    def __init__(self, stride=1):
        super().__init__()
        self.weight, self.stride = torch.nn.Parameter(torch.tensor(1.0)), stride

    def forward(self, images):
        return (0.5 - self.weight * images[:, :1])[..., :: self.stride, :: self.stride]


def test_a_network_proposes_what_it_segments_at_the_centre(rng):
    image = picture(rng, [(FIGURE, (96, 96)), (FIGURE, (40, 40))], 192)
    mask = proposer(Darkness(), unit)(image, 0.25)
    expected = image[..., 0] < 127.5
    expected[:64, :64] = False
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Darkness(stride=2), "gives maps of 96 x 96 for images of 192 x 192; its output must"),
        (torch.nn.Conv2d(1, 2, 1), "proposals: the network cannot run on .*choose another network"),
        (torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.Flatten()), "must give logits"),
    ],
)
def test_a_network_that_cannot_propose_is_an_error(net, message):
    with pytest.raises(SkipshiftError, match=message):
        proposer(net, unit)(np.zeros((192, 192, 3), np.uint8), 0.25)


def test_the_command_line_prepares_and_writes_the_review(src, capsys):
    for words in (["--review"], ["--review"]):
        with pytest.raises(SystemExit) as done:
            main(["prepare", "mitosis", str(src), str(src.parent / "o"), "--holdout", "1", *words])
        assert not done.value.code
    shown = capsys.readouterr().out
    assert "classes: [background, mitotic figure]" in shown
    assert re.search(r"review: .*o/review, \d masks on 1 pages", shown)


def test_the_studies_of_the_set_fit_it():
    for name in ("paper-ms-mf", "small-ms-mf"):
        study = read_spec(StudySpec, STUDIES / f"{name}.yaml")
        assert (tuple(study.classes), study.training.crop) == (CLASSES, MitosisSpec.size)


def test_the_slides_of_the_paper_are_held_out_if_present(tmp_path):
    names = [*HELD_OUT, "a", "b", "c"]
    for name in names:
        (tmp_path / f"A/{name}.svs").parent.mkdir(exist_ok=True)
        (tmp_path / f"A/{name}.svs").touch()
    slides = {f"{n}.svs": (9, [(FIGURE, (i, i))]) for i, n in enumerate(names)}
    write_midog(tmp_path / "a.json", slides)
    spec = MitosisSpec(tmp_path, tmp_path / "o")
    scans, _ = find_scans(spec, read_points([tmp_path / "a.json"])[0], {})
    splits, notes = split_specimens(scans, spec)
    assert {name for name, split in splits.items() if split == "test"} == set(HELD_OUT)
    assert "the four whose figures add up to the paper's 5,605" in notes[0]
    drawn, notes = split_specimens(scans, replace(spec, holdout=3))
    assert list(drawn.values()).count("test") == 3
    assert "drawn at random" in notes[0]
