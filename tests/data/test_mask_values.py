"""Masks whose values are not exact, or not to be counted."""

import json

import numpy as np
import pytest
from PIL import Image

from skipshift.data.images import read_labels, write_png
from skipshift.data.prepare.folder import prepare_folder
from skipshift.data.prepare.options import FolderSpec
from skipshift.errors import SkipshiftError

SIDE = 96


@pytest.fixture
def discs():
    """Boolean masks of four discs each, one with a single large one."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return [
        np.any([np.hypot(y - cy, x - cx) < r for cy, cx, r in parts], axis=0)
        for parts in ([(20, 20, 9), (70, 60, 12), (40, 80, 8)], [(48, 48, 30)])
    ]


def prepare(tmp_path, arrays, ending="png", save=None, **options):
    """Prepare arrays (H, W) as files of a format beside grey images; those written, and remarks."""
    for number, mask in enumerate(arrays):
        write_png(tmp_path / f"src/A/images/{number}.png", np.full(mask.shape, 9, np.uint8))
        (tmp_path / "src/A/masks").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(tmp_path / f"src/A/masks/{number}.{ending}", **(save or {}))
    out = tmp_path / "out"
    prepare_folder(FolderSpec(tmp_path / "src", out, workers=1, **options))
    written = [read_labels(out / f"masks/A/{number}.png") for number in range(len(arrays))]
    return written, json.loads((out / "prepare.json").read_text())["remarks"]


BETWEEN = "masks with values between two levels, read as the nearer one"


@pytest.mark.parametrize(
    "options",
    [{"instances": True}, {"threshold": 127}, {"colours": ("background=0", "object=255")},
     {"masks": ("object={domain}/masks/{case}.*",)}],
)  # fmt: skip
def test_ringing_of_a_jpeg_mask_is_no_object(tmp_path, discs, options):
    masks = [disc * np.uint8(255) for disc in discs]
    written, remarks = prepare(tmp_path, masks, "jpg", {"quality": 75}, **options)
    assert all(np.array_equal(a, b) for a, b in zip(written, discs, strict=True))
    if "threshold" not in options:
        stored = np.asarray(Image.open(tmp_path / "src/A/masks/0.jpg"))
        count = int(((stored > 0) & (stored < 255)).sum())
        assert remarks[BETWEEN][0] == f"0.jpg ({count} pixels)"


def test_the_refusal_of_a_jpeg_mask_leads_to_the_threshold(tmp_path, discs):
    with pytest.raises(SkipshiftError, match=r"lossy format may have .* say with --threshold"):
        prepare(tmp_path, [disc * np.uint8(255) for disc in discs], "jpg")


def test_a_resized_mask_goes_to_the_nearer_level(tmp_path, discs):
    large = [Image.fromarray(disc * np.uint8(255)) for disc in discs]
    small = [np.asarray(one.resize((48, 48), Image.Resampling.BILINEAR)) for one in large]
    written, remarks = prepare(tmp_path, small, instances=True)
    assert all(np.array_equal(a, b > 127) for a, b in zip(written, small, strict=True))
    assert len(remarks[BETWEEN]) == 2


def test_numbered_objects_are_no_levels(tmp_path, rng):
    """Numbers up to 255, also where 255 is a rim around objects of small numbers."""
    numbers = np.arange(144, dtype=np.uint8).repeat(64).reshape(-1, SIDE)
    objects = rng.integers(0, 20, (12, 12)).repeat(8, 0).repeat(8, 1)
    rims = np.where(np.arange(SIDE) % 8 < 2, 255, objects)
    written, remarks = prepare(tmp_path, [numbers, rims.astype(np.uint8)], instances=True)
    assert np.array_equal(written[0], numbers > 0)
    assert np.array_equal(written[1], rims > 0)
    assert BETWEEN not in remarks


def test_a_lossy_mask_of_many_levels_is_refused(tmp_path, rng):
    numbers = rng.integers(0, 12, (12, 12)).repeat(8, 0).repeat(8, 1).astype(np.uint8) * 20
    with pytest.raises(SkipshiftError, match=r"0\.jpg: has many levels, .* save masks as PNG, or"):
        prepare(tmp_path, [numbers], "jpg", instances=True)


def test_masks_below_the_threshold_are_named(tmp_path, discs):
    _, remarks = prepare(tmp_path, [disc.astype(np.uint8) for disc in discs], threshold=127)
    assert len(remarks["masks with values above 0, but none above the threshold"]) == 2


def test_a_threshold_needs_two_classes(tmp_path, discs):
    with pytest.raises(ValueError, match="threshold parts background and one class, got 3 classes"):
        prepare(tmp_path, discs, threshold=1, classes=("a", "b", "c"))


def test_ignored_values_become_255(tmp_path):
    mask = np.array([0, 1, 2, 7], np.uint8).repeat(SIDE * 24).reshape(SIDE, SIDE)
    [labels], _ = prepare(tmp_path, [mask], classes=("a", "b", "c"), ignore=7)
    assert np.array_equal(labels, np.where(mask == 7, 255, mask))


def test_ignored_values_are_no_objects(tmp_path):
    mask = np.array([0, 1, 2, 255], np.uint8).repeat(SIDE * 24).reshape(SIDE, SIDE)
    [labels], _ = prepare(tmp_path, [mask], instances=True, ignore=255)
    assert np.array_equal(labels, np.where(mask == 255, 255, mask > 0))


def test_a_mask_of_ignored_pixels_alone_has_no_foreground(tmp_path):
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    _, remarks = prepare(tmp_path, [mask], ignore=255)
    assert remarks["cases without foreground, kept"] == ["0"]


def test_pixels_outside_of_the_field_of_view_become_255(tmp_path, discs):
    """As in DRIVE: GIF files of 0 and 255 beside the masks."""
    (tmp_path / "src/A/view").mkdir(parents=True)
    for number in range(2):
        view = Image.fromarray(discs[1 - number] * np.uint8(255))
        view.save(tmp_path / f"src/A/view/{number}_view.gif")
    masks = [disc.astype(np.uint8) for disc in discs]
    written, _ = prepare(tmp_path, masks, valid="{domain}/view/{case}_view.gif")
    for number in range(2):
        expected = np.where(discs[1 - number], masks[number], 255)
        assert np.array_equal(written[number], expected)


def test_an_image_without_its_field_of_view_is_refused(tmp_path, discs):
    with pytest.raises(SkipshiftError, match=r"png: has no field-of-view masks; correct --valid"):
        prepare(tmp_path, discs, valid="{domain}/view/{case}.gif")


def test_a_field_of_view_of_another_size_is_refused(tmp_path, discs):
    write_png(tmp_path / "src/A/view/0.png", np.ones((8, 8), np.uint8))
    with pytest.raises(SkipshiftError, match="its field-of-view mask is 1 x 8 x 8, the image"):
        prepare(tmp_path, discs[:1], valid="{domain}/view/{case}.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -1}, "threshold must be at least 0, got -1"),
        ({"ignore": -1}, "ignore must be at least 0, got -1"),
        ({"colours": ("a=0", "b=1"), "threshold": 1}, "colours and threshold exclude each other"),
        ({"colours": ("a=#000000",), "ignore": 1}, "ignore needs masks of values, got colours"),
        ({"pages": ("slices", "slices")}, "pages must name each kind once, got slices, slices"),
        ({"pages": ("objects",), "colours": ("a=0",)}, "colours, instances, pages of objects and"),
    ],
)
def test_options_that_contradict_each_other_are_an_error(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        FolderSpec(tmp_path, tmp_path / "out", **options)


@pytest.mark.parametrize(("tag", "told"), [(1, []), (6, ["0"])])
def test_an_image_that_exif_turns_beside_a_mask_that_it_does_not_is_told(tmp_path, tag, told):
    about = Image.Exif()
    about[274] = tag
    (tmp_path / "src/A/images").mkdir(parents=True)
    mask = np.eye(32, dtype=np.uint8)
    picture = Image.fromarray(np.full((32, 32), 9, np.uint8) + mask)
    picture.save(tmp_path / "src/A/images/0.png", exif=about)
    write_png(tmp_path / "src/A/masks/0.png", mask)
    prepare_folder(FolderSpec(tmp_path / "src", tmp_path / "out", workers=1))
    remarks = json.loads((tmp_path / "out/prepare.json").read_text())["remarks"]
    found = remarks.get("images that EXIF turns and their masks not; see whether they fit", [])
    assert found == told
