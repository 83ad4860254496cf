import cv2
import numpy as np
import pandas as pd
import pytest

from pyramids import write_pyramid
from skipshift.data.images import write_png
from skipshift.data.sets.reading import read_found, read_found_pair, read_set
from skipshift.data.sets.sources import find_pair, find_set, paired_by_case
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.specs import ReadingSpec


def write_folder(folder, names, sides=(32, 32), rng=None):
    rng = rng or np.random.default_rng(0)
    for name in names:
        write_png(folder / f"{name}.png", rng.integers(0, 256, (*sides, 3), dtype=np.uint8))
    return str(folder)


@pytest.mark.parametrize("pattern", ["{group}_{case}.png", "{group}_*"])
def test_a_pattern_of_names_gives_the_groups_of_a_folder(tmp_path, pattern):
    folder = write_folder(tmp_path, ["p1_a", "p1_b", "p2_a"])
    found = find_set(folder, ReadingSpec(group=pattern))
    assert found.groups == ("p1", "p1", "p2")
    assert found.unit == "3 images in 2 groups"
    assert "give --group if several are of one patient" in find_set(folder).unit


def test_a_csv_gives_the_groups_of_a_folder_or_names_what_it_lacks(tmp_path):
    folder = write_folder(tmp_path / "set", ["a", "b"])
    table = tmp_path / "groups.csv"
    table.write_text("image,group\na.png,p1\nb,p1\n")
    assert find_set(folder, ReadingSpec(group=str(table))).groups == ("p1", "p1")
    table.write_text("image,group\na.png,p1\n")
    with pytest.raises(SkipshiftError, match=r"groups\.csv: has no row for the image b\.png"):
        find_set(folder, ReadingSpec(group=str(table)))
    table.write_text("image,group\na.png,p1\nb.png,x\x1b[0m\n")
    with pytest.raises(SkipshiftError, match=r"groups\.csv: line 3: group 'x\\x1b\[0m' has char"):
        find_set(folder, ReadingSpec(group=str(table)))


def test_a_name_that_does_not_match_and_a_pattern_for_manifests_are_errors(tmp_path, small_set):
    folder = write_folder(tmp_path / "set", ["a"])
    with pytest.raises(SkipshiftError, match=r"a\.png: does not match the pattern '\{group\}_\*'"):
        find_set(folder, ReadingSpec(group="{group}_*"))
    with pytest.raises(ArgumentError, match="group is for folders; a manifest has a column group"):
        find_pair(str(small_set), "brightness:0.5", ReadingSpec(group="{group}_*"))


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\u202eb"])
def test_a_file_whose_name_cannot_be_shown_is_refused(tmp_path, name):
    folder = write_folder(tmp_path, [name])
    with pytest.raises(SkipshiftError, match="has characters that cannot be shown; rename it") as e:
        find_set(folder)
    assert str(e.value).isprintable()


def test_a_file_may_have_any_name_that_can_be_shown(tmp_path):
    assert len(find_set(write_folder(tmp_path, ["<script>", "'\"", "$\\frac"])).items) == 3


def test_a_sample_draws_each_image_alike_and_keeps_the_shares_of_groups(tmp_path):
    names = [f"p{i % 3}_{i:02d}" for i in range(30)] + [f"q_{i}" for i in range(6)]
    folder, groups = write_folder(tmp_path, names), "{group}_*"
    drawn = np.zeros(len(names))
    for seed in range(200):
        found = find_set(folder, ReadingSpec(group=groups, sample=18), seed)
        shares = pd.Series(found.groups).value_counts()
        assert len(found.items) == 18
        assert (shares.drop("q") == 5).all()
        assert shares["q"] == 3
        drawn += np.isin(sorted(names), [item.case for item in found.items])
    # each is drawn with probability 1/2
    assert np.abs(drawn / 200 - 0.5).max() < 5 * 0.5 / 200**0.5


def test_a_sample_larger_than_the_set_is_the_set(tmp_path):
    folder = write_folder(tmp_path, ["a", "b"])
    assert find_set(folder, ReadingSpec(sample=9)).items == find_set(folder).items


def test_images_of_several_sizes_are_resized_as_opencv_does_or_cut_into_tiles(tmp_path, rng):
    write_folder(tmp_path, ["a"], (64, 96), rng)
    folder = write_folder(tmp_path, ["b"], (32, 32), rng)
    with pytest.raises(SkipshiftError, match=r"b\.png: .*; add --crop SIDE, --resize SIDE or --ti"):
        find_set(folder)
    whole = cv2.imread(str(tmp_path / "a.png"))[..., ::-1]
    resized = read_set(folder, ReadingSpec(resize="32x64")).images
    assert resized.shape == (2, 32, 64, 3)
    assert np.array_equal(resized[0], cv2.resize(whole, (64, 32), interpolation=cv2.INTER_AREA))
    found = find_set(folder, ReadingSpec(tile=32))
    assert found.unit == "7 tiles in 2 groups"
    tiles = read_found(found).images[:6].reshape(2, 3, 32, 32, 3).swapaxes(1, 2)
    assert np.array_equal(tiles.reshape(64, 96, 3), whole)


def test_masks_are_tiled_and_resized_with_their_images(small_set):
    names = str(small_set), "brightness:0.5"
    whole = read_found(find_set(names[0], labelled=True), 2)
    tiled = read_found(find_set(names[0], ReadingSpec(tile=32), labelled=True), 2)
    assert np.array_equal(tiled.masks[0], whole.masks[0, :32, :32])
    assert tiled.masks.sum() == whole.masks.sum()
    resized = read_found(find_set(names[0], ReadingSpec(resize="32"), labelled=True), 2)
    assert np.array_equal(resized.masks[0], whole.masks[0, ::2, ::2])
    first, second = read_found_pair(find_pair(*names, ReadingSpec(resize="32"), labelled=True), 2)
    assert np.array_equal(first.masks, second.masks)


def test_a_sample_of_paired_sets_holds_the_same_cases(small_set):
    pair = find_pair(str(small_set), f"{small_set}#original", ReadingSpec(sample=4), labelled=True)
    assert paired_by_case(*pair).items == pair[0].items


def test_tiles_of_a_slide_are_those_with_tissue(tmp_path, rng):
    picture = np.full((512, 768, 3), 245, np.uint8)
    picture[:256, :256] = rng.integers(90, 160, (256, 256, 3))
    write_pyramid(tmp_path / "s.tif", picture)
    found = find_set(str(tmp_path), ReadingSpec(tile=128))
    assert [item.part for item in found.items] == [(0, 0), (128, 0), (0, 128), (128, 128)]
    images = read_found(found).images
    assert np.array_equal(images[1], picture[:128, 128:256])
    coarse = find_set(str(tmp_path), ReadingSpec(tile=128, mpp=0.5))
    assert [item.part for item in coarse.items] == [(0, 0)]
    assert read_found(coarse).images.shape == (1, 128, 128, 3)
    with pytest.raises(SkipshiftError, match=r"no tile of 512 with more than 0\.5 tissue"):
        find_set(str(tmp_path), ReadingSpec(tile=512))
    assert len(find_set(str(tmp_path), ReadingSpec(tile=512, tissue=0.1)).items) == 1


def test_a_folder_of_slides_is_told_to_be_tiled(tmp_path):
    (tmp_path / "a.svs").touch()
    with pytest.raises(SkipshiftError, match=r"contains no images .*; whole slides need --tile"):
        find_set(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"tile": 40}, "tile must be a multiple of 32, got 40"),
        ({"resize": "a"}, "resize must be HEIGHTxWIDTH or SIDE, got 'a'"),
        ({"resize": "64x40"}, "resize must be a multiple of 32, got 40"),
        ({"crop": 32, "tile": 32}, "crop and tile exclude each other"),
        ({"tile": 32, "volumes": True}, "tile and volumes exclude each other"),
        ({"mpp": 0.5}, "mpp needs tile"),
        ({"sample": 0}, "sample must be at least 1, got 0"),
    ],
)
def test_a_wrong_way_of_reading_is_refused(options, fault):
    with pytest.raises(ArgumentError, match=fault):
        ReadingSpec(**options)


def test_a_typo_of_a_folder_names_the_one_that_is_there(tmp_path):
    write_folder(tmp_path / "scanner-a", ["a"])
    with pytest.raises(SkipshiftError, match=r"scaner-a: does not exist; did you mean .*scanner-a"):
        find_set(str(tmp_path / "scaner-a"))


def test_a_set_that_memory_cannot_hold_asks_for_a_sample(tmp_path, monkeypatch):
    folder = write_folder(tmp_path, ["a", "b"])
    monkeypatch.setattr("skipshift.data.sets.sources.MOST_BYTES", 1 << 10)
    with pytest.raises(SkipshiftError, match=r"2 images of 32 x 32 x 3 take .*; add --sample N"):
        find_set(folder)
