import cv2
import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skipshift.data.images import (
    centre_crop,
    read_image,
    read_mask,
    read_native,
    stretch_to_16_bit,
    write_png,
)
from skipshift.data.manifest import COLUMNS, read_cases, read_manifest
from skipshift.data.sets.reading import read_pair, read_set
from skipshift.data.sets.sources import find_pair
from skipshift.data.splits import draw_folds
from skipshift.errors import SkipshiftError
from skipshift.specs import ReadingSpec


def edit(manifest, **changes):
    """Change columns of a manifest's first row."""
    frame = pd.read_csv(manifest, keep_default_na=False)
    for column, value in changes.items():
        frame.loc[0, column] = value
    frame.to_csv(manifest, index=False)


@pytest.mark.parametrize("shape", [(20, 30, 3), (20, 30, 1)])
def test_png_files_survive_writing_and_reading(tmp_path, rng, shape):
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "a.png", pixels)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels.squeeze())


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("shape", [(20, 1600, 3), (20, 30, 1)])
def test_16_bit_files_keep_their_levels_and_are_rounded_to_8(tmp_path, rng, shape, ending):
    pixels = rng.integers(0, 65536, shape).astype(np.uint16)
    path = tmp_path / f"a.{ending}"
    write_png(path, pixels) if ending == "png" else cv2.imwrite(str(path), pixels[..., ::-1])
    assert np.array_equal(read_native(path), pixels)
    assert np.array_equal(read_image(path), np.rint(pixels / 257).astype(np.uint8))


def test_a_truncated_16_bit_colour_image_is_an_error(tmp_path, rng):
    write_png(tmp_path / "a.png", rng.integers(0, 65536, (64, 64, 3)).astype(np.uint16))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:9000])
    with pytest.raises(SkipshiftError, match=r"a\.png: .*truncated"):
        read_image(tmp_path / "a.png")


def test_a_16_bit_colour_image_that_opencv_cannot_decode_is_an_error(tmp_path, monkeypatch):
    write_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint16))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    with pytest.raises(SkipshiftError, match=r"a\.png: cannot be read as a 16-bit image"):
        read_image(tmp_path / "a.png")


def test_palette_images_give_colours_and_palette_masks_give_indices(tmp_path, rng):
    indices = rng.integers(0, 4, (8, 8), dtype=np.uint8)
    palette = rng.integers(0, 256, (4, 3), dtype=np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette(palette.ravel().tolist())
    image.save(tmp_path / "p.png")
    assert np.array_equal(read_image(tmp_path / "p.png"), palette[indices])
    assert np.array_equal(read_mask(tmp_path / "p.png", 4), indices)


def test_stretched_values_fill_the_range_and_keep_their_order(rng):
    values = rng.normal(0, 50, (9, 9))
    levels = stretch_to_16_bit(values)
    assert (levels.min(), levels.max()) == (0, 65535)
    assert np.array_equal(np.argsort(levels, None), np.argsort(values, None))
    assert stretch_to_16_bit(np.full((3, 3), 7.0)) is None
    with pytest.raises(ValueError, match="contains NaN or infinity"):
        stretch_to_16_bit(np.array([0.0, np.nan, 1.0]))


@pytest.mark.parametrize("mode", ["1", "P", "L"])
def test_masks_of_any_single_channel_mode_give_indices(tmp_path, mode):
    indices = np.array([[0, 1], [1, 0]], np.uint8)
    image = Image.fromarray(indices.astype(bool)) if mode == "1" else Image.fromarray(indices)
    if mode == "P":
        image = image.convert("P")
        image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", 2), indices)


def test_labels_beyond_the_classes_are_an_error(tmp_path):
    write_png(tmp_path / "m.png", np.array([[0, 7]], np.uint8))
    with pytest.raises(SkipshiftError, match=r"m\.png: mask has labels 7, .*classes are 0\.\.1"):
        read_mask(tmp_path / "m.png", 2)


def test_a_value_to_ignore_is_read_and_any_other_refused(tmp_path):
    mask = np.array([[0, 255, 1]], np.uint8)
    write_png(tmp_path / "m.png", mask)
    assert np.array_equal(read_mask(tmp_path / "m.png", 2, ignore=255), mask)
    with pytest.raises(SkipshiftError, match=r"labels 255, .* or set ignore to the value"):
        read_mask(tmp_path / "m.png", 2)
    with pytest.raises(SkipshiftError, match=r"labels 255, .*or correct the mask$"):
        read_mask(tmp_path / "m.png", 2, ignore=9)


def test_files_that_are_not_a_whole_image_are_an_error(tmp_path, rng):
    (tmp_path / "text.png").write_text("hello")
    write_png(tmp_path / "cut.png", rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    faults = {
        "text": "is not an image",
        "cut": "truncated",
        "float": "is not of 8 or 16 bits",
        "no": "does not exist",
    }
    for name, fault in faults.items():
        ending = "tif" if name == "float" else "png"
        with pytest.raises(SkipshiftError, match=rf"{name}\.{ending}: .*{fault}"):
            read_image(tmp_path / f"{name}.{ending}")


def test_a_huge_image_is_an_error_before_it_is_decoded(tmp_path):
    Image.new("1", (30000, 30000)).save(tmp_path / "huge.png")
    with pytest.raises(
        SkipshiftError, match=r"huge\.png: has more than \d+ pixels; cut it into tiles"
    ):
        read_image(tmp_path / "huge.png")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"image": "images/none.png"}, r"line 2: images/none\.png does not exist"),
        ({"image": "../x.png"}, r"line 2: path '\.\./x\.png' leaves the manifest's folder"),
        ({"mask": "/etc/passwd"}, "leaves the manifest's folder"),
        ({"case": " "}, "line 2: case ' ' is empty; give it another name"),
        ({"domain": ""}, "line 2: domain '' is empty; give it another name"),
        ({"group": "a\x1b[31m"}, r"group 'a\\x1b\[31m' has characters that cannot be shown"),
        ({"stratum": "s" * 201}, r"stratum 's{40}\.\.\.' is longer than 200 characters"),
        ({"domain": "A "}, "domain 'A ' begins or ends with a space"),
        ({"image": "i" * 5000}, r"line 2: 'i{40}\.\.\.' does not exist"),
        ({"split": "validation"}, "line 2 has split 'validation'"),
        ({"case": "case-01"}, "line 3 repeats case 'case-01'"),
        ({"group": "case-13"}, "group 'case-13' is both in train and in test"),
    ],
)
def test_an_error_in_a_manifest_names_the_line(small_set, changes, fault):
    edit(small_set, **changes)
    with pytest.raises(SkipshiftError, match=fault):
        read_manifest(small_set)


def test_a_manifest_without_a_column_or_cases_is_an_error(small_set):
    frame = pd.read_csv(small_set)
    frame.drop(columns="group").to_csv(small_set, index=False)
    with pytest.raises(SkipshiftError, match="lacks the column group"):
        read_manifest(small_set)
    frame.head(0).to_csv(small_set, index=False)
    with pytest.raises(SkipshiftError, match="has no cases"):
        read_manifest(small_set)


def test_further_columns_of_a_manifest_are_kept(small_set):
    frame = pd.read_csv(small_set)
    frame.insert(0, "spacing", "1.25x1.25")
    frame.assign(fold=7).to_csv(small_set, index=False)
    cases = read_manifest(small_set)
    assert list(cases.columns) == [*COLUMNS, "spacing", "fold"]
    assert set(cases["spacing"]) == {"1.25x1.25"}


def test_the_path_of_a_manifest_may_contain_parent_folders(small_set):
    (small_set.parent / "studies").mkdir()
    indirect = small_set.parent / "studies" / ".." / small_set.name
    pd.testing.assert_frame_equal(read_manifest(indirect), read_manifest(small_set))


def test_cases_are_read_in_order_with_any_number_of_threads(small_set):
    rows = read_manifest(small_set)
    a, b = (list(read_cases(rows, 2, threads=n)) for n in (1, 3))
    assert [case.case for case in a] == rows["case"].tolist()
    assert all(np.array_equal(x.image, y.image) for x, y in zip(a, b, strict=True))


def test_a_mask_of_another_size_than_its_image_is_an_error(small_set):
    write_png(small_set.parent / "masks" / "case-03.png", np.zeros((64, 32), np.uint8))
    with pytest.raises(SkipshiftError, match=r"case-03\.png: is 64 x 32, but its image is 64 x 64"):
        list(read_cases(read_manifest(small_set), 2))


def test_a_centre_crop_keeps_the_centre():
    pixels = np.arange(49).reshape(7, 7).astype(np.uint8)
    assert centre_crop(pixels, 3).tolist() == pixels[2:5, 2:5].tolist()
    with pytest.raises(ValueError, match="crop of 8 does not fit"):
        centre_crop(pixels, 8)


def test_folds_keep_groups_whole_and_strata_balanced(rng):
    frame = pd.DataFrame({"case": [f"c{i}" for i in range(200)], "domain": "original"})
    frame["group"] = [f"g{i // 2}" for i in range(200)]
    frame["stratum"] = np.where(rng.random(100) < 0.4, "low", "high").repeat(2)
    frame["split"] = "train"
    folds = draw_folds(frame, 5)
    assert (folds.groupby("group")["fold"].nunique() == 1).all()
    sizes = folds.groupby(["stratum", "fold"]).size().unstack()
    assert (sizes.max(axis=1) - sizes.min(axis=1) <= 2).all()
    pd.testing.assert_frame_equal(folds, draw_folds(frame, 5))


def test_fewer_groups_than_folds_are_an_error(small_set):
    with pytest.raises(SkipshiftError, match="10 groups in the training split cannot fill 11"):
        draw_folds(read_manifest(small_set), 11)


def test_a_set_is_a_folder_or_the_test_cases_of_a_manifest(small_set):
    folder = read_set(str(small_set.parent / "images"))
    test = read_set(f"{small_set}#original")
    assert folder.images.shape == (14, 64, 64, 3)
    assert test.groups == tuple(f"case-{i}" for i in range(10, 14))
    assert np.array_equal(folder.images[10:], test.images)


def test_a_shifted_reference_keeps_its_groups(small_set):
    reference, shifted = read_pair(str(small_set), "brightness:0.5", ReadingSpec(crop=32))
    assert reference.groups == shifted.groups
    assert np.array_equal(shifted.images, reference.images // 2)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("{}/masks/none", "none: does not exist; give a folder of images, a manifest or"),
        ("{}/images/case-00.png", "is an image; give its folder"),
        ("{}/images#original", "is a folder, which has no domains"),
        ("brightness:0.5", "a shift can only be SHIFTED"),
        ("{}/empty", "contains no images"),
        ("{}/manifest.csv#scanner", r"no test cases of domain 'scanner', only original"),
    ],
)
def test_a_source_without_images_is_an_error(small_set, source, fault):
    (small_set.parent / "empty").mkdir()
    with pytest.raises(SkipshiftError, match=fault):
        read_set(source.format(small_set.parent))


@pytest.mark.parametrize("name", ["brigtness:0.75", "brightness", "hue:1"])
def test_an_unknown_shift_lists_the_shifts(small_set, name):
    with pytest.raises(SkipshiftError, match=f"{name}: is not a file, .* saturation:FACTOR"):
        read_pair(str(small_set), name)
    with pytest.raises(SkipshiftError, match=f"{name}: is not a file, .* saturation:FACTOR"):
        find_pair(str(small_set), name, labelled=True)


@pytest.mark.parametrize(
    ("shape", "sides", "remedy"),
    [
        ((50, 70, 3), "50 x 70 x 3", "add --crop SIDE, --resize SIDE or --tile SIDE"),
        ((64, 32, 1), "64 x 32 x 1", "convert {} to the same channels$"),
    ],
)
def test_images_of_different_shapes_are_refused_with_both_shapes(tmp_path, shape, sides, remedy):
    write_png(tmp_path / "set" / "a.png", np.zeros((64, 32, 3), np.uint8))
    write_png(tmp_path / "set" / "b.png", np.zeros(shape, np.uint8))
    fault = rf"b\.png: is {sides}, but a\.png is 64 x 32 x 3 .*; {remedy.format('all images')}"
    with pytest.raises(SkipshiftError, match=fault):
        read_set(str(tmp_path / "set"))
    write_png(tmp_path / "a" / "a.png", np.zeros((64, 32, 3), np.uint8))
    write_png(tmp_path / "b" / "b.png", np.zeros(shape, np.uint8))
    with pytest.raises(
        SkipshiftError, match=f"{sides}, .* 64 x 32 x 3 .*; {remedy.format('both')}"
    ):
        read_pair(str(tmp_path / "a"), str(tmp_path / "b"))


def test_volumes_are_not_read_from_images(small_set):
    with pytest.raises(SkipshiftError, match=r"is an image, but --volumes takes NIfTI or NPY"):
        read_set(str(small_set), ReadingSpec(volumes=True))


@pytest.mark.parametrize(
    ("name", "dtype", "channels"),
    [
        ("a.png", np.uint16, 1), ("a.png", np.uint16, 3), ("a.tif", np.float32, 1),
        ("a.npy", np.float64, 5), ("a.npy", np.uint8, 3),
    ],
)  # fmt: skip
def test_images_of_any_depth_survive_writing_and_reading(tmp_path, rng, name, dtype, channels):
    values = (rng.random((6, 8, channels)) * 200).astype(dtype)
    if name.endswith("npy"):
        np.save(tmp_path / name, values)
    else:
        cv2.imwrite(str(tmp_path / name), values[..., ::-1])
    images = read_set(str(tmp_path)).images
    assert images.dtype == dtype
    assert np.array_equal(images[0], values)


def test_a_volume_gives_slices_of_one_group_or_one_image(tmp_path, rng):
    values = rng.normal(size=(8, 6, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii.gz")
    slices, volume = read_set(str(tmp_path)), read_set(str(tmp_path), ReadingSpec(volumes=True))
    assert slices.images.shape == (3, 6, 8, 1)
    assert len(set(slices.groups)) == 1
    assert np.array_equal(volume.images[0], slices.images)
    assert np.array_equal(slices.images[1, ..., 0], values[..., 1].T)


def test_a_volume_of_several_frames_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 6, 3, 2)), np.eye(4)), tmp_path / "v.nii.gz")
    with pytest.raises(SkipshiftError, match=r"v\.nii\.gz: has 2 frames; save each"):
        read_set(str(tmp_path))


def test_volumes_are_cropped_in_the_plane_of_their_slices(tmp_path, rng):
    np.save(tmp_path / "v.npy", rng.normal(size=(5, 34, 36)))
    assert read_set(str(tmp_path), ReadingSpec(crop=32, volumes=True)).images.shape == (
        1,
        5,
        32,
        32,
        1,
    )


def test_arrays_that_are_not_images_are_an_error(tmp_path):
    (tmp_path / "a.npy").write_text("nothing")
    with pytest.raises(SkipshiftError, match=r"a\.npy: cannot be read as an array"):
        read_set(str(tmp_path))
    np.save(tmp_path / "a.npy", np.zeros(4))
    with pytest.raises(SkipshiftError, match=r"a\.npy: must be \(H, W\) or \(H, W, C\), got \(4,"):
        read_set(str(tmp_path))


def test_a_truncated_16_bit_image_is_an_error(tmp_path, rng):
    cv2.imwrite(str(tmp_path / "a.png"), rng.integers(0, 65536, (64, 64), dtype=np.uint16))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:4000])
    with pytest.raises(SkipshiftError, match=r"a\.png: cannot be read as an image: .*truncated"):
        read_set(str(tmp_path))


def test_a_large_picture_is_refused_before_it_is_decoded_unless_it_is_cropped(tmp_path):
    Image.new("1", (13000, 7000)).save(tmp_path / "a.png")
    fault = r"a\.png: is 7000 x 13000 \(height x width\), more than 33554432 .* or --crop"
    with pytest.raises(SkipshiftError, match=fault):
        read_set(str(tmp_path))
    assert read_set(str(tmp_path), ReadingSpec(crop=32)).images.shape == (1, 32, 32, 1)


def test_shifts_apply_only_to_8_bit_images(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 3), np.uint16))
    fault = "brightness:0.5: shifts apply to 8-bit images, but the reference has uint16"
    with pytest.raises(SkipshiftError, match=fault):
        read_pair(str(tmp_path), "brightness:0.5")
