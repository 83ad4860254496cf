"""`prepare mms`: on synthetic data in the distributed layout and on real volumes."""

import hashlib
import json
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from skipshift.data.images import read_labels, read_native
from skipshift.data.manifest import read_manifest
from skipshift.data.prepare.mms import prepare_mms
from skipshift.data.prepare.options import MmsSpec
from skipshift.data.prepare.writing import describe
from skipshift.data.volumes import open_volume
from skipshift.errors import SkipshiftError

ED, ES, FRAMES = 0, 2, 4
AFFINE = np.array([[-1.2, 0, 0.5, 9], [0, -1.3, -0.6, 7], [0.2, -0.1, 9.0, 5], [0, 0, 0, 1]])
CENTRES = {"A": "1", "B": "2", "C": "4", "D": "5"}


def volumes(rng, shape=(40, 70, 3)):
    """A 4-D image (X, Y, Z, T) and its mask, labelled in all slices but the first of ED and ES."""
    image = rng.integers(0, 3000, (*shape, FRAMES)).astype(np.int16)
    mask = np.zeros(image.shape, np.uint8)
    for frame in (ED, ES):
        mask[15:25, 30:45, 1:, frame] = 2
        mask[18:22, 33:40, 1:, frame] = 1
        mask[10:14, 30:40, 1:, frame] = 3
    return image, mask


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


class Challenge:
    """Synthetic data in the layout of the challenge."""

    def __init__(self, root):
        self.root, self.rows = root, []

    def add(self, subject, vendor, part, image, mask, affine=AFFINE):
        folder = self.root / part / subject
        if image is not None:
            save(folder / f"{subject}_sa.nii.gz", image, affine)
        if mask is not None:
            save(folder / f"{subject}_sa_gt.nii.gz", mask, affine)
        self.rows.append((subject, "Name", vendor, CENTRES[vendor], ED, ES, "30"))
        self.write_csv()

    def write_csv(self):
        columns = ["External code", "VendorName", "Vendor", "Centre", "ED", "ES", "Age"]
        pd.DataFrame(self.rows, columns=columns).to_csv(self.root / "211230_info.csv")

    def edit(self, row, **changes):
        names = {"centre": 3, "ed": 4}
        values = list(self.rows[row])
        for name, value in changes.items():
            values[names[name]] = value
        self.rows[row] = tuple(values)
        self.write_csv()


@pytest.fixture
def challenge(tmp_path, rng):
    """Three training and two test subjects of A, three test subjects of B, two of C, none of D."""
    built = Challenge(tmp_path / "OpenDataset")
    for number in range(3):
        built.add(f"A{number}", "A", "Training/Labeled", *volumes(rng))
    for vendor, count in (("A", 2), ("B", 3), ("C", 2)):
        for number in range(count):
            built.add(f"{vendor}T{number}", vendor, "Testing", *volumes(rng, (66, 80, 3)))
    return built


def prepare(challenge, name="out", **options):
    out = challenge.root.parent / name
    prepare_mms(MmsSpec(challenge.root, out, **({"workers": 2} | options)))
    return out


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def about(out):
    return json.loads((out / "prepare.json").read_text())


def test_every_labelled_slice_becomes_a_case_of_its_patient(challenge):
    cases = read_manifest(prepare(challenge) / "manifest.csv")
    subjects = [f"A{n}" for n in range(3)] + ["AT0", "AT1", "BT0", "BT1", "BT2", "CT0", "CT1"]
    expected = {f"{s}-{p}-z{z:02d}" for s in subjects for p in ("ED", "ES") for z in (1, 2)}
    assert set(cases["case"]) == expected
    assert (cases["group"] == cases["case"].str.split("-").str[0]).all()
    assert (cases["stratum"] == cases["case"].str.split("-").str[1]).all()
    assert set(cases.loc[cases["split"] == "train", "group"]) == {"A0", "A1", "A2"}
    assert cases["domain"].tolist() == cases["group"].str[0].tolist()


def test_stored_values_can_be_recovered_from_the_files(challenge, rng):
    image, mask = volumes(rng, (96, 96, 3))
    challenge.add("X", "A", "Training/Labeled", image, mask)
    out = prepare(challenge)
    stored = image[:, :, 1, ES].T
    levels = read_native(out / "images/A/X-ES-z01.png")[..., 0]
    assert (levels.min(), levels.max()) == (0, 65535)
    back = levels / 65535 * (stored.max() - stored.min()) + stored.min()
    assert np.array_equal(np.rint(back), stored)
    assert np.array_equal(read_labels(out / "masks/A/X-ES-z01.png"), mask[:, :, 1, ES].T)


@pytest.mark.parametrize(
    ("shape", "side"), [((240, 196), 192), ((320, 320), 320), ((512, 440), 416), ((256, 256), 256)]
)
def test_slices_are_cut_to_the_sizes_of_the_paper(challenge, rng, shape, side):
    challenge.add("X", "A", "Training/Labeled", *volumes(rng, (*shape, 2)))
    out = prepare(challenge, keep_empty=True)
    levels = read_native(out / "images/A/X-ED-z01.png")
    assert levels.shape == (side, side, 1)
    assert (levels.min(), levels.max()) == (0, 65535)


@pytest.mark.parametrize("axes", ["01", "10"])
@pytest.mark.parametrize("flips", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_output_does_not_depend_on_the_stored_orientation(challenge, rng, axes, flips):
    image, mask = volumes(rng, (64, 64, 3))
    challenge.add("X", "A", "Training/Labeled", image, mask)
    expected = digests(prepare(challenge, "a"))["images/A/X-ED-z01.png"]
    turn = np.array([[int(axes[0]), flips[0]], [int(axes[1]), flips[1]], [2, 1]])
    for name, array in (("X_sa", image), ("X_sa_gt", mask)):
        turned = nibabel.Nifti1Image(array, AFFINE).as_reoriented(turn)
        nibabel.save(turned, challenge.root / f"Training/Labeled/X/{name}.nii.gz")
    assert digests(prepare(challenge, "b"))["images/A/X-ED-z01.png"] == expected


def test_the_spacing_of_rows_and_columns_is_kept(challenge):
    cases = read_manifest(prepare(challenge) / "manifest.csv")
    rows, columns = np.linalg.norm(AFFINE[:3, [1, 0]], axis=0)
    assert set(cases["spacing"]) == {f"{rows:.5g}x{columns:.5g}"}


def test_subjects_are_drawn_by_seed_if_there_are_more_than_requested(challenge):
    def chosen(name, seed):
        out = prepare(challenge, name, train_subjects=2, test_subjects=1, seed=seed)
        cases = read_manifest(out / "manifest.csv")
        return {split: set(part["group"]) for split, part in cases.groupby("split")}

    draws = [chosen(f"s{seed}", seed) for seed in range(4)]
    assert all((len(d["train"]), len(d["test"])) == (2, 3) for d in draws)
    assert any(draw != draws[0] for draw in draws)
    assert chosen("again", 0) == draws[0]


def test_missing_subjects_are_reported(challenge, rng):
    for number in range(2):
        challenge.add(f"CV{number}", "C", "Validation", *volumes(rng))
    out = prepare(challenge, test_subjects=3)
    assert about(out)["notes"] == [
        "vendor A: 3 training subjects, 75 requested",
        "vendor A: 2 test subjects, 3 requested",
        "vendor C: 1 test subjects are from the challenge's training or validation part; none of "
        "them is used for training",
        "vendor D: 0 test subjects, 3 requested",
    ]
    assert "note: vendor D: 0 test subjects, 3 requested" in describe(out)
    assert "classes: [background, LV, MYO, RV]" in describe(out)


def test_everything_left_out_is_reported(challenge, rng):
    image, mask = volumes(rng)
    challenge.add("NoMask", "A", "Training/Unlabeled", image, None)
    challenge.add("NoImage", "D", "Testing", None, mask)
    challenge.add("Other", "A", "Training/Labeled", image, mask)
    challenge.edit(-1, centre="6")
    blank = image.copy()
    blank[:, :, 1, ED] = 7
    mask[..., ES] = 0
    mask[..., 3] = mask[..., ED]
    challenge.add("Odd", "A", "Training/Labeled", blank, mask)
    save(challenge.root / "Testing/NoRow/NoRow_sa.nii.gz", image)
    remarks = about(prepare(challenge))["remarks"]
    assert remarks["subjects without mask, left out"] == ["NoMask"]
    assert remarks["subjects without image, left out"] == ["NoImage"]
    assert remarks["subjects of other vendors or centres, left out"] == ["Other"]
    assert remarks["subjects without a row in the CSV, left out"] == ["NoRow"]
    assert remarks["slices of constant intensity, left out"] == ["Odd-ED-z01"]
    assert remarks["phases without a label, left out"] == ["Odd-ES"]
    assert remarks["labelled frames that are neither ED nor ES, kept"] == ["Odd-t03"]
    assert len(remarks["slices without a label, left out"]) == 2 * 11


def test_doubtful_headers_are_reported(challenge, rng):
    image, mask = volumes(rng)
    challenge.add("Lost", "A", "Training/Labeled", image, mask, np.diag([1, 1, 1, 1]))
    challenge.add("Moved", "A", "Training/Labeled", image, mask)
    save(challenge.root / "Training/Labeled/Moved/Moved_sa_gt.nii.gz", mask, np.eye(4))
    out = prepare(challenge)
    remarks = about(out)["remarks"]
    lost, moved = (
        "volumes without geometry in their header",
        "masks without geometry",
    )
    assert remarks[f"{lost}, kept as stored"] == ["Lost_sa.nii.gz"]
    assert remarks[f"{moved}, read in that of their image"] == ["Moved_sa_gt.nii.gz"]
    assert np.array_equal(
        read_labels(out / "masks/A/Moved-ED-z01.png"), read_labels(out / "masks/A/Lost-ED-z01.png")
    )
    spacing = read_manifest(out / "manifest.csv").groupby("group")["spacing"].first()
    assert spacing["Lost"] == ""


def test_slices_without_a_label_are_kept_on_request(challenge):
    cases = read_manifest(prepare(challenge, keep_empty=True) / "manifest.csv")
    assert len(cases) == 10 * 2 * 3
    assert not read_labels(Path(cases["mask"].iloc[0])).any()


def test_output_does_not_depend_on_workers_and_a_complete_set_is_kept(challenge):
    one, three = (prepare(challenge, f"w{n}", workers=n) for n in (1, 3))
    assert digests(one) == digests(three)
    before = {path: path.stat().st_mtime_ns for path in one.rglob("*")}
    prepare(challenge, "w1", workers=2)
    assert {path: path.stat().st_mtime_ns for path in one.rglob("*")} == before


def test_another_set_is_never_overwritten(challenge, rng):
    prepare(challenge)
    with pytest.raises(SkipshiftError, match="contains a set with test_subjects 16, not 2"):
        prepare(challenge, test_subjects=2)
    challenge.add("A9", "A", "Training/Labeled", *volumes(rng))
    with pytest.raises(SkipshiftError, match="contains a set made from other files"):
        prepare(challenge)
    (challenge.root.parent / "mine").mkdir()
    (challenge.root.parent / "mine/notes.txt").write_text("keep")
    with pytest.raises(SkipshiftError, match=r"mine: is not empty and has no prepare\.json"):
        prepare(challenge, "mine")


def break_label(challenge, image, mask):
    mask[5, 6, 2, ED] = 9
    challenge.add("X", "A", "Training/Labeled", image, mask)


def break_shape(challenge, image, mask):
    challenge.add("X", "A", "Training/Labeled", image, mask[:, :, :2])


def break_frame(challenge, image, mask):
    challenge.add("X", "A", "Training/Labeled", image, mask)
    challenge.edit(-1, ed=11)


def break_number(challenge, image, mask):
    challenge.add("X", "A", "Training/Labeled", image, mask)
    challenge.edit(-1, ed="end")


def break_place(challenge, image, mask):
    challenge.add("X", "A", "Elsewhere", image, mask)


def break_twice(challenge, image, mask):
    challenge.add("A0", "A", "Testing", image, mask)


def break_affine(challenge, image, mask):
    challenge.add("X", "A", "Training/Labeled", image, mask)
    save(challenge.root / "Training/Labeled/X/X_sa_gt.nii.gz", mask, np.diag([2, 2, 2, 1]))


def break_file(challenge, image, mask):
    challenge.add("X", "A", "Training/Labeled", image, mask)
    path = challenge.root / "Training/Labeled/X/X_sa.nii.gz"
    path.write_bytes(path.read_bytes()[:5000])


def break_value(challenge, image, mask):
    image = image.astype(np.float32)
    image[20, 30, 1, ED] = np.nan
    challenge.add("X", "A", "Training/Labeled", image, mask)


def break_size(challenge, image, mask):
    challenge.add("X", "A", "Training/Labeled", image[:, 20:50], mask[:, 20:50])


def break_rows(challenge, image, mask):  # noqa: ARG001
    challenge.rows.append(challenge.rows[0])
    challenge.write_csv()


def break_csv(challenge, image, mask):  # noqa: ARG001
    (challenge.root / "211230_info.csv").write_text("a,b\n1,2\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_label, r"X_sa_gt\.nii\.gz: has label 9 at row 6, column 5 of slice 2, frame 0"),
        (
            break_shape,
            r"gt\.nii\.gz: is 40 x 70 x 2 x 4, but its image is 40 x 70 x 3 x 4; .*-out X",
        ),
        (break_affine, r"X_sa_gt\.nii\.gz: lies up to .* its affine, or add --leave-out X"),
        (break_frame, r"X_sa\.nii\.gz: has 4 frames, but ED is frame 11; correct the CSV"),
        (break_number, r"info\.csv: X has ED 'end'; it must be a frame number"),
        (break_place, "is not in a folder Training, Validation or Testing"),
        (break_twice, r"A0_sa(_gt)?\.nii\.gz: is a second file of this subject"),
        (break_file, r"X_sa\.nii\.gz: cannot be read as a NIfTI volume"),
        (break_value, r"X_sa\.nii\.gz: contains NaN or infinity"),
        (break_size, r"X_sa\.nii\.gz: an image must be at least 32 x 32"),
        (break_rows, r"info\.csv: has two rows for A0; remove one"),
        (break_csv, r"has no information CSV \(External code, .*\) and no index\.csv"),
    ],
)
def test_an_invalid_source_is_an_error_and_leaves_no_output(challenge, rng, spoil, message):
    spoil(challenge, *volumes(rng))
    with pytest.raises(SkipshiftError, match=message):
        prepare(challenge)
    assert list(challenge.root.parent.iterdir()) == [challenge.root]


def test_a_subject_can_be_left_out_by_name(challenge, rng):
    break_shape(challenge, *volumes(rng))
    out = prepare(challenge, leave_out=("X",))
    assert about(out)["remarks"]["subjects left out by name"] == ["X"]
    with pytest.raises(SkipshiftError, match="has no subject Y; correct --leave-out"):
        prepare(challenge, leave_out=("Y",))


def test_a_vendor_without_training_subjects_is_an_error(challenge):
    with pytest.raises(SkipshiftError, match="has no training subject of vendor B"):
        prepare(challenge, train="B")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"centres": ("A1",)}, "centres must be VENDOR:CENTRE, got A1"),
        ({"centres": ("A:1", "A:2")}, "centres must name each vendor once"),
        ({"train": "Z"}, r"train must be one of the vendors A, B, C, D, got Z"),
        ({"test_subjects": 0}, "test_subjects must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_options_out_of_range_are_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        MmsSpec(Path("s"), Path("o"), **options)


def test_a_frame_is_read_without_the_rest(tmp_path):
    save(tmp_path / "v.nii", np.zeros((64, 64, 8, 40), np.int16))
    tracemalloc.start()
    try:
        open_volume(tmp_path / "v.nii").frame(20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 64 * 64 * 8 * 2


def test_a_volume_of_five_dimensions_is_an_error(tmp_path):
    save(tmp_path / "v.nii", np.zeros((4, 4, 2, 2, 2), np.int16))
    with pytest.raises(
        SkipshiftError, match=r"v\.nii: a volume must have 2 to 4 dimensions, got 5"
    ):
        open_volume(tmp_path / "v.nii")


def test_a_phase_in_two_rows_is_an_error(shared, tmp_path):
    index = pd.read_csv(shared / "data/mnms/index.csv").head(1)
    pd.concat([index, index]).to_csv(tmp_path / "index.csv", index=False)
    (tmp_path / "crop192").symlink_to(shared / "data/mnms/crop192")
    with pytest.raises(SkipshiftError, match="case 'A0S9V9-ED-z02' of domain 'A' occurs twice"):
        prepare_mms(MmsSpec(tmp_path, tmp_path / "o"))


def test_labels_outside_the_square_crop_are_reported(challenge, rng):
    image, mask = volumes(rng)
    mask[15:25, 0:10, 1, ED] = 3
    challenge.add("Wide", "A", "Training/Labeled", image, mask)
    remarks = about(prepare(challenge))["remarks"]
    assert remarks["slices with labels outside the square crop, which are lost"] == ["Wide-ED-z01"]


def test_an_index_with_a_missing_file_is_an_error(tmp_path):
    row = "p,A,1,ED,native/x.nii.gz,native/y.nii.gz"
    (tmp_path / "index.csv").write_text(f"patient,vendor,centre,phase,image,label\n{row}\n")
    with pytest.raises(SkipshiftError, match=r"index\.csv: line 2: .*x\.nii\.gz does not exist"):
        prepare_mms(MmsSpec(tmp_path, tmp_path / "o"))


def test_without_nibabel_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(SkipshiftError, match=r"pip install 'skipshift\[nifti\]'"):
        open_volume(tmp_path / "v.nii")


def test_real_volumes_agree_with_their_index(shared, tmp_path):
    src = shared / "data/mnms"
    prepare_mms(MmsSpec(src, tmp_path / "o", workers=2))
    cases = read_manifest(tmp_path / "o/manifest.csv")
    counts = cases.groupby(["domain", "split"])["group"].nunique().to_dict()
    assert counts == {("A", "train"): 8, ("A", "test"): 2, ("B", "test"): 7, ("C", "test"): 2}
    index = pd.read_csv(src / "index.csv").set_index(["patient", "phase"])
    for at, part in cases.groupby(["group", "stratum"]):
        labels = np.stack([read_labels(Path(mask)) for mask in part["mask"]])
        found = [(labels == label).sum() for label in (1, 2, 3)]
        assert found == index.loc[at, ["lv_px", "myo_px", "rv_px"]].tolist()
    remarks = about(tmp_path / "o")["remarks"]
    assert remarks["subjects without image, left out"] == ["A5P5W0", "B9G4U2"]


def test_real_hearts_have_the_same_orientation_for_all_vendors(shared, tmp_path):
    """The right ventricle is on the left of the image, for every vendor."""
    prepare_mms(MmsSpec(shared / "data/mnms", tmp_path / "o", workers=2))
    for _, part in read_manifest(tmp_path / "o/manifest.csv").groupby("group"):
        labels = np.stack([read_labels(Path(mask)) for mask in part["mask"]])
        right, left = (np.argwhere(labels == label)[:, 2].mean() for label in (3, 1))
        assert right < left
