import cv2
import numpy as np
import pytest

from pyramids import write_coco, write_pyramid
from skipshift.data.slides.annotations import read_annotations
from skipshift.data.slides.overlays import checkerboard
from skipshift.data.slides.quadtree import register
from skipshift.data.slides.reader import open_slide
from skipshift.data.slides.registration import Registration
from skipshift.errors import SkipshiftError

SIDE = 2048
TUMOR = "Tumor"


def tissue(seed, side=SIDE):
    """A white slide with a disc of tissue full of coloured cells."""
    rng = np.random.default_rng(seed)
    picture = np.full((side, side, 3), 240, np.uint8)
    cv2.circle(picture, (side // 2, side // 2), int(side * 0.42), (225, 190, 215), -1)
    for _ in range(4000):
        angle, radius = rng.uniform(0, 2 * np.pi), side * 0.4 * np.sqrt(rng.uniform())
        at = side / 2 + radius * np.array([np.cos(angle), np.sin(angle)])
        colour = tuple(int(c) for c in rng.integers(60, 200, 3))
        sides = tuple(int(s) for s in rng.integers(3, 14, 2))
        middle = tuple(int(c) for c in at)
        cv2.ellipse(picture, middle, sides, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
    return picture


def rescan(picture, back):
    """A second scan: pixel p shows the point back(p), in other colours and with noise."""
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).astype(np.float64)
    looked = back(grid.reshape(-1, 2)).reshape(SIDE, SIDE, 2).astype(np.float32)
    other = cv2.remap(picture, looked, None, cv2.INTER_LINEAR, borderValue=(240, 240, 240))
    noise = np.random.default_rng(9).normal(0, 3, other.shape)
    return np.clip(other * [0.9, 0.95, 1.05] + 6 + noise, 0, 255).astype(np.uint8)


def similarity(points):
    """From the second scan to the first: rotation by 100 degrees, scale 1 / 1.1, translation."""
    angle, middle = np.deg2rad(100), np.array([SIDE / 2, SIDE / 2])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points - middle - [30, -12]) @ turn.T / 1.1 + middle


def waves(points):
    """A deformation of 8 pixels that no single affine map can describe."""
    return points + 8 * np.sin(points[:, ::-1] / 500)


def pair(folder, back, seed=0):
    first = tissue(seed)
    write_pyramid(folder / "a.tif", first)
    write_pyramid(folder / "b.tif", rescan(first, back), mpp=0.5)
    return folder / "a.tif", folder / "b.tif"


def points_in_tissue():
    rng = np.random.default_rng(1)
    points = rng.uniform(-0.38, 0.38, (500, 2)) * SIDE
    return SIDE / 2 + points[np.linalg.norm(points, axis=1) < 0.38 * SIDE]


@pytest.mark.parametrize(
    "back",
    [
        similarity,
        pytest.param(waves, marks=pytest.mark.slow),  # registers two slides
        pytest.param(lambda points: points, marks=pytest.mark.slow),
    ],
)
def test_points_are_transferred_to_their_true_position(tmp_path, back):
    with open_slide(pair(tmp_path, back)[0]) as a, open_slide(tmp_path / "b.tif") as b:
        registration = register(a, b, depth=3, side=512)
    points = points_in_tissue()
    transferred, errors = registration.transfer(points)
    # transferred to the second scan and mapped back by the truth, a point is itself again
    misses = np.linalg.norm(back(transferred) - points, axis=1)
    assert np.median(misses) < 0.5
    assert np.quantile(misses, 0.95) < 2
    # the error bound holds for points that were not matched
    assert np.mean(misses < errors) > 0.8
    assert registration.target_error["median"] < 0.5


@pytest.mark.slow  # registers two slides twice
def test_a_deeper_tree_follows_a_deformation(tmp_path):
    a, b = pair(tmp_path, waves)
    with open_slide(a) as first, open_slide(b) as second:
        coarse, fine = (register(first, second, depth, 512) for depth in (0, 3))
    points = points_in_tissue()
    misses = [np.linalg.norm(waves(r.transfer(points)[0]) - points, axis=1) for r in (coarse, fine)]
    assert np.median(misses[0]) > 2 > 6 * np.median(misses[1])
    assert coarse.errors[0, 0] > 2


@pytest.mark.slow  # registers two slides
def test_empty_glass_keeps_the_map_of_its_parent(tmp_path):
    a, b = pair(tmp_path, similarity)
    with open_slide(a) as first, open_slide(b) as second:
        registration = register(first, second, depth=3, side=256)
    assert registration.depths[0, 0] < registration.depths.max()
    corner = np.array([[5.0, 5.0]])
    assert np.abs(similarity(registration.transfer(corner)[0]) - corner).max() < 10


def test_the_number_of_threads_does_not_change_the_result(tmp_path):
    a, b = pair(tmp_path, waves)
    with open_slide(a) as first, open_slide(b) as second:
        one, two = (register(first, second, 1, 256, workers) for workers in (1, 3))
    assert np.array_equal(one.affines, two.affines)
    assert np.array_equal(one.errors, two.errors)


def test_slides_of_two_specimens_are_an_error(tmp_path):
    a = write_pyramid(tmp_path / "a.tif", tissue(0))
    b = write_pyramid(tmp_path / "b.tif", tissue(1))
    empty = write_pyramid(tmp_path / "empty.tif", np.full((600, 600, 3), 250, np.uint8))
    with open_slide(a) as first, open_slide(b) as second, open_slide(empty) as third:
        with pytest.raises(SkipshiftError, match=r"b\.tif: does not match .*a\.tif"):
            register(first, second)
        with pytest.raises(SkipshiftError, match=r"empty\.tif: does not match"):
            register(first, third)


def test_a_registration_survives_saving_and_loading(tmp_path):
    a, b = pair(tmp_path, similarity)
    with open_slide(a) as first, open_slide(b) as second:
        registration = register(first, second, depth=1, side=256)
        board = checkerboard(first, second, registration, side=256)
        thumbnail = first.thumbnail(256)
    registration.save(tmp_path)
    again = Registration.load(tmp_path / "registration.json")
    points = points_in_tissue()
    for mine, theirs in zip(again.transfer(points), registration.transfer(points), strict=True):
        assert np.array_equal(mine, theirs)
    assert again.mpp == pytest.approx(0.5)
    # every other square is of the first scan
    assert np.array_equal(board[:16, :16], thumbnail[:16, :16])
    assert not np.array_equal(board[:16, 16:32], thumbnail[:16, 16:32])
    (tmp_path / "none.json").write_text('{"affines": 1}')
    with pytest.raises(SkipshiftError, match=r"none\.json: not a registration"):
        Registration.load(tmp_path / "none.json")


@pytest.mark.slow  # registers two slides
def test_the_command_transfers_annotations(tmp_path, capsys):
    from skipshift.cli.main import main

    a, b = pair(tmp_path, similarity)
    outline = np.array([[800, 800], [1200, 800], [1200, 1200], [800, 1200]])
    file = write_coco(tmp_path / "scc.json", {"a.tif": (SIDE, SIDE, [(TUMOR, outline)])}, [TUMOR])
    words = ["register", str(a), str(b), str(tmp_path / "o"), "--annotations", str(file)]
    with pytest.raises(SystemExit) as done:
        main([*words, "--side", "512"])
    assert not done.value.code
    assert "target registration error on" in capsys.readouterr().out
    transferred = read_annotations(tmp_path / "o" / "annotations.json")["b.tif"].shapes
    assert transferred[0].label == "Tumor"
    assert np.abs(similarity(transferred[0].points) - outline).max() < 3
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert names == {
        "registration.json", "annotations.json", "annotations.geojson", "checkerboard.png",
        "checkerboard-detail.png",
    }  # fmt: skip
    with pytest.raises(SystemExit) as done:
        main(["register", str(b), str(a), str(tmp_path / "p"), "--annotations", str(file)])
    assert done.value.code == 1
    assert "scc.json: has no slide b.tif; its first is a.tif" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_a_notebook_shows_the_error_and_names_as_text():
    error = {"median": 0.25, "p90": 1.5, "most": 3.0, "points": 40}
    whole = np.eye(3)[None, None], np.ones((1, 1)), np.zeros((1, 1), int)
    shown = Registration("<b>.svs", "b.svs", (64, 64), 0.5, *whole, error)._repr_html_()
    assert "<p>&lt;b&gt;.svs to b.svs</p>" in shown
    assert "90th percentile 1.50 pixels (0.75 micrometres)" in shown
