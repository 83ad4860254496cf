"""Formats of images and masks: what each file holds is read, or refused in one line."""

import locale

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
import zarr
from PIL import Image

from skipshift.data.images import image_size, read_image, read_labels, read_native, write_png
from skipshift.data.manifest import read_manifest
from skipshift.data.prepare.folder import prepare_folder
from skipshift.data.prepare.options import FolderSpec
from skipshift.data.sets.reading import read_set
from skipshift.data.slices import read_label_slices, read_slices
from skipshift.errors import SkipshiftError

AFFINE = np.diag([1.5, 1.5, 8, 1.0])


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)


@pytest.fixture
def mask(rng):
    return (rng.random((40, 48)) < 0.3).astype(np.uint8)


def case_of(tmp_path, image, mask, **options):
    """Prepare what two functions save at the path of an image and of a mask; the set's folder."""
    for kind, save in (("images", image), ("masks", mask)):
        path = tmp_path / f"src/A/{kind}/x"
        path.parent.mkdir(parents=True)
        save(str(path))
    prepare_folder(FolderSpec(tmp_path / "src", tmp_path / "out", workers=1, **options))
    return tmp_path / "out"


def png(array):
    return lambda path: Image.fromarray(array).save(f"{path}.png")


def tiff(array, ending="tif", **options):
    options = {"photometric": "minisblack"} | options
    return lambda path: tifffile.imwrite(f"{path}.{ending}", array, **options)


@pytest.mark.parametrize(
    ("ending", "options"),
    [("webp", {"lossless": True}), ("jp2", {}), ("ppm", {}), ("npz", {})],
)
def test_lossless_formats_give_the_pixels(tmp_path, pixels, ending, options):
    if ending == "npz":
        np.savez(tmp_path / "a.npz", image=pixels)
    else:
        Image.fromarray(pixels).save(tmp_path / f"a.{ending}", **options)
    assert np.array_equal(read_slices(tmp_path / f"a.{ending}").pixels[0], pixels)


def test_an_archive_of_several_arrays_is_refused(tmp_path, pixels):
    np.savez(tmp_path / "a.npz", x=pixels, y=pixels)
    with pytest.raises(SkipshiftError, match=r"a\.npz: holds 2 arrays \(x, y\); save the one"):
        read_slices(tmp_path / "a.npz")


@pytest.mark.parametrize("dtype", [np.uint32, np.int32, np.float32, np.float64, ">u2"])
def test_label_tiffs_of_any_type_are_whole_numbers(tmp_path, mask, dtype):
    tiff((mask * np.int64(300)).astype(dtype))(tmp_path / "m")
    [labels] = read_label_slices(tmp_path / "m.tif", read_labels).layers
    assert np.array_equal(labels[0], mask.astype(int) * 300)


def test_labels_within_a_thousandth_of_a_whole_number_are_taken(tmp_path, mask):
    np.save(tmp_path / "m.npy", mask * np.float32(0.9991))
    assert np.array_equal(read_label_slices(tmp_path / "m.npy", read_labels).layers[0][0], mask)
    np.save(tmp_path / "m.npy", mask * np.float32(0.998))
    with pytest.raises(SkipshiftError, match=r"must contain whole numbers, got 0\.998; correct"):
        read_label_slices(tmp_path / "m.npy", read_labels)


def test_signed_images_are_rescaled_on_request(tmp_path, pixels, mask):
    values = pixels[..., 0].astype(np.int16) - 100
    levels = read_native(
        case_of(tmp_path, tiff(values), png(mask), rescale=True) / "images/A/x.png"
    )
    assert np.corrcoef(levels.ravel(), values.ravel())[0, 1] > 0.9999


@pytest.mark.parametrize("tag", range(1, 9))
def test_pictures_are_turned_as_their_camera_says(tmp_path, pixels, tag):
    """The stored picture is the upright one turned back; tags as in EXIF 2.3."""
    back = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2), 6: np.rot90, 8: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    }[tag]  # fmt: skip
    about = Image.Exif()
    about[274] = tag
    Image.fromarray(np.ascontiguousarray(back(pixels))).save(tmp_path / "a.png", exif=about)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)
    assert image_size(tmp_path / "a.png") == (48, 40)


def test_pages_are_refused_unless_it_is_said_what_they_are(tmp_path, pixels, mask):
    channels = np.moveaxis(pixels, 2, 0).copy()
    with pytest.raises(SkipshiftError, match=r"x\.tif: has 3 pages of one size; prepare it with"):
        case_of(tmp_path, tiff(channels), png(mask))
    with pytest.raises(SkipshiftError, match="3 pages of one size"):
        read_set(str(tmp_path / "src/A/images"))
    spec = FolderSpec(tmp_path / "src", tmp_path / "out", pages=("channels",))
    prepare_folder(spec)
    assert np.array_equal(read_native(tmp_path / "out/images/A/x.png"), pixels)


def test_moving_pictures_are_refused(tmp_path, mask):
    first, second = Image.fromarray(mask), Image.fromarray(1 - mask)
    first.save(tmp_path / "m.gif", save_all=True, append_images=[second])
    with pytest.raises(SkipshiftError, match=r"m\.gif: has 2 pages of one size; save the one"):
        read_labels(tmp_path / "m.gif")


def test_a_stack_that_imagej_describes_in_words_is_refused(tmp_path, mask):
    words = "ImageJ=1.53\nimages=9\nslices=9\n"
    tifffile.imwrite(tmp_path / "m.tif", mask, description=words, metadata=None)
    with pytest.raises(SkipshiftError, match="has 9 pages of one size"):
        read_labels(tmp_path / "m.tif")


def test_smaller_pages_are_passed_over(tmp_path, pixels, mask):
    def pyramid(path):
        with tifffile.TiffWriter(f"{path}.tif") as file:
            file.write(pixels, photometric="rgb")
            file.write(pixels[::2, ::2].copy(), photometric="rgb", subfiletype=1)

    out = case_of(tmp_path, pyramid, png(mask))
    assert np.array_equal(read_native(out / "images/A/x.png"), pixels)


def test_pages_may_be_objects_of_a_mask_whose_image_has_pages_of_channels(tmp_path, pixels, rng):
    objects = (rng.random((4, 40, 48)) < 0.1).astype(np.uint8) * 255
    channels = tiff(np.moveaxis(pixels, 2, 0).copy())
    out = case_of(tmp_path, channels, tiff(objects), pages=("channels", "objects"))
    assert np.array_equal(read_labels(out / "masks/A/x.png"), objects.any(0))
    assert np.array_equal(read_native(out / "images/A/x.png"), pixels)


def test_pages_of_slices_become_cases(tmp_path, rng):
    image = rng.integers(0, 256, (5, 40, 48), dtype=np.uint8)
    out = case_of(tmp_path, tiff(image), tiff((image > 200) + np.uint8(0)), pages=("slices",))
    cases = read_manifest(out / "manifest.csv")
    assert cases["case"].tolist() == [f"x-z{z:02d}" for z in range(5)]
    assert np.array_equal(read_native(out / "images/A/x-z03.png")[..., 0], image[3])


def test_axes_that_a_file_names_are_not_mistaken(tmp_path, mask, rng):
    image = rng.integers(0, 256, (2, 3, 40, 48), dtype=np.uint8)
    named = tiff(image, "ome.tif", metadata={"axes": "ZCYX"})
    with pytest.raises(SkipshiftError, match=r"its pages \(2 Z x 3 C\) are not all slices; give"):
        case_of(tmp_path, named, png(mask), pages=("slices",))
    stack = read_slices(tmp_path / "src/A/images/x.ome.tif", ("channels", "slices")).pixels
    assert np.array_equal(stack, np.moveaxis(image, 1, -1))


def test_both_endings_of_an_ome_tiff_are_dropped(tmp_path, pixels, mask):
    out = case_of(tmp_path, tiff(pixels, "ome.tif", photometric="rgb"), png(mask))
    assert read_manifest(out / "manifest.csv")["case"].tolist() == ["x"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_image_is_a_case(tmp_path, mask, rng, version):
    image = rng.integers(0, 256, (3, 1, 40, 48), dtype=np.uint8)
    axes = [{"name": name} for name in "czyx"]
    about = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}], "version": version}]}

    def save(path):
        group = zarr.open_group(
            f"{path}.ome.zarr", mode="w", zarr_format=3 if version == "0.5" else 2
        )
        group.create_array("0", data=image)
        group.attrs.update({"ome": about} if version == "0.5" else about)

    out = case_of(tmp_path, save, png(mask))
    assert np.array_equal(read_native(out / "images/A/x.png"), np.moveaxis(image[:, 0], 0, -1))


def test_a_zarr_of_several_times_is_refused(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=np.zeros((2, 1, 1, 8, 8)))
    group.attrs["multiscales"] = [{"datasets": [{"path": "0"}]}]
    with pytest.raises(SkipshiftError, match=r"a\.zarr: has 2 points of time; save each"):
        read_slices(tmp_path / "a.zarr")
    group.attrs["multiscales"] = []
    with pytest.raises(SkipshiftError, match=r"a\.zarr: cannot be read as an OME-Zarr image"):
        read_slices(tmp_path / "a.zarr")


def volume_and_mask(rng):
    image = rng.integers(0, 1000, (40, 48, 5)).astype(np.int16)
    return image, (image > 700).astype(np.uint8)


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
def test_volumes_of_itk_lie_on_masks_of_nifti(tmp_path, rng, ending):
    image, mask = volume_and_mask(rng)
    affine = np.array([[0, -1.5, 0, 7], [2.0, 0, 0, -3], [0, 0, 5, 1], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / "v.nii")

    def save(path):
        SimpleITK.WriteImage(SimpleITK.ReadImage(tmp_path / "v.nii"), f"{path}.{ending}")

    def save_mask(path):
        turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(mask, affine))
        nibabel.save(turned, f"{path}.nii.gz")

    out = case_of(tmp_path, save, save_mask, rescale=True)
    cases = read_manifest(out / "manifest.csv")
    assert (len(cases), set(cases["spacing"])) == (5, {"2x1.5"})
    for case in cases["case"]:
        levels = read_native(out / f"images/A/{case}.png")[..., 0]
        labels = read_labels(out / f"masks/A/{case}.png")
        assert levels[labels == 1].min() > levels[labels == 0].max()


def test_a_folder_with_a_dicom_series_is_a_case(tmp_path, rng):
    image, mask = volume_and_mask(rng)

    def save(path):
        before = locale.setlocale(locale.LC_ALL)
        for z in range(5):
            picture = SimpleITK.GetImageFromArray(image[:, :, z : z + 1].T)
            picture.SetSpacing((1.5, 1.5, 8))
            tags = {"0020|000e": "1.2.3", "0020|0032": rf"0\0\{8 * z}", "0020|0013": str(z)}
            tags |= {"0020|000d": "1.2", "0020|0037": r"1\0\0\0\1\0", "0008|0060": "MR"}
            for tag, value in tags.items():
                picture.SetMetaData(tag, value)
            writer = SimpleITK.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            (tmp_path / f"{path}").mkdir(exist_ok=True)
            writer.SetFileName(f"{path}/{9 - z}.dcm")
            writer.Execute(picture)
        # writing DICOM makes text ASCII for the whole process
        locale.setlocale(locale.LC_ALL, before)

    layout = {"images": "{domain}/images/{case}"}
    lps = np.diag([-1.5, -1.5, 8, 1.0])
    save_mask = lambda path: nibabel.save(nibabel.Nifti1Image(mask, lps), f"{path}.nii.gz")  # noqa: E731
    out = case_of(tmp_path, save, save_mask, rescale=True, **layout)
    cases = read_manifest(out / "manifest.csv")["case"]
    assert len(cases) == 5
    for z, case in enumerate(cases):
        labels = read_labels(out / f"masks/A/{case}.png")
        assert np.array_equal(labels, mask[..., z].T)
        levels = read_native(out / f"images/A/{case}.png")[..., 0]
        assert levels[labels == 1].min() > levels[labels == 0].max()


def spoil_colours(path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 8, 8, 3), np.uint8), True), path)


def spoil_text(path):
    path.write_text("nothing")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_colours, r"v\.mha: has colours or vectors; save one number per voxel"),
        (spoil_text, r"v\.mha: cannot be read as a volume"),
        (lambda _path: None, r"v\.mha: does not exist"),
    ],
)
def test_volumes_that_itk_cannot_read_are_refused(tmp_path, spoil, message):
    spoil(tmp_path / "v.mha")
    with pytest.raises(SkipshiftError, match=message):
        read_slices(tmp_path / "v.mha")


def test_a_folder_of_two_series_or_none_is_refused(tmp_path):
    (tmp_path / "series").mkdir()
    with pytest.raises(
        SkipshiftError, match="series: holds no DICOM series; give each one a folder"
    ):
        read_slices(tmp_path / "series")


def nifti(array, affine=AFFINE, edit=None):
    image = nibabel.Nifti1Image(array, affine)
    if edit:
        edit(image)
    return lambda path: nibabel.save(image, f"{path}.nii.gz")


FLIPPED = np.array([[-1.5, 0, 0, 39 * 1.5], [0, 1.5, 0, 0], [0, 0, 8, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("turn", "affine"),
    [
        (lambda m: m, AFFINE),
        (lambda m: m, AFFINE + 1e-5),
        (lambda m: m[::-1], FLIPPED),
        (lambda m: m.transpose(1, 0, 2), AFFINE[:, [1, 0, 2, 3]]),
        (lambda m: m.transpose(2, 0, 1)[::-1], np.array(
            [[0, 1.5, 0, 0], [0, 0, 1.5, 0], [-8, 0, 0, 32], [0, 0, 0, 1]])),
    ],
)  # fmt: skip
def test_a_mask_is_brought_to_its_image_by_the_affines_of_both(tmp_path, rng, turn, affine):
    image, mask = volume_and_mask(rng)
    affine = np.where([[True], [True], [True], [False]], affine, [0, 0, 0, 1])
    out = case_of(tmp_path, nifti(image), nifti(turn(mask).copy(), affine), rescale=True)
    for z in range(5):
        labels = read_labels(out / f"masks/A/x-z{z:02d}.png")
        assert np.array_equal(labels, mask[::-1, ::-1, z].T)


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (
            np.diag([-1.5, -1.5, 8, 1]),
            r"x\.nii\.gz: lies up to 47 voxels from its image by the aff",
        ),
        (AFFINE + np.eye(4, k=3) * 0.01, r"lies up to 0\.00667 voxels from its image"),
        (np.array([[1, 1, 0, 0], [1, 1, 0.1, 0], [0, 0, 8, 0], [0, 0, 0, 1]]), "lies askew to its"),
    ],
)
def test_a_mask_that_lies_elsewhere_is_refused(tmp_path, rng, affine, message):
    image, mask = volume_and_mask(rng)
    with pytest.raises(SkipshiftError, match=message):
        case_of(tmp_path, nifti(image), nifti(mask, affine), rescale=True)


def test_complex_voxels_are_refused(tmp_path, rng):
    image, mask = volume_and_mask(rng)
    with pytest.raises(SkipshiftError, match="voxels of type complex64; save one real number"):
        case_of(tmp_path, nifti(image.astype(np.complex64)), nifti(mask))


def test_linked_folders_are_followed_and_a_circle_ends(tmp_path, pixels, mask):
    write_png(tmp_path / "there/images/x.png", pixels)
    write_png(tmp_path / "there/masks/x.png", mask)
    (tmp_path / "src").mkdir()
    (tmp_path / "src/A").symlink_to(tmp_path / "there")
    (tmp_path / "there/circle").symlink_to(tmp_path / "src")
    cases = read_manifest(prepare_folder(FolderSpec(tmp_path / "src", tmp_path / "out")))
    assert cases["case"].tolist() == ["x"]


def test_a_format_that_is_not_read_is_named_with_its_count(tmp_path):
    for name in "ab":
        (tmp_path / "src/A/images").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"src/A/images/{name}.heic").write_text("x")
    fault = r"no file that matches the pattern .* has a format that is read: 2 with \.heic; convert"
    with pytest.raises(SkipshiftError, match=fault):
        prepare_folder(FolderSpec(tmp_path / "src", tmp_path / "out"))
