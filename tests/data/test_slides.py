"""Slides compared with OpenSlide and with the arrays they were written from."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import openslide
import pydicom
import pytest
import tifffile

from pyramids import write_pyramid
from skipshift.data.slides import reader
from skipshift.data.slides.reader import open_slide
from skipshift.errors import SkipshiftError

SAMPLES = "data/histology/wsi_4scanner"


@pytest.fixture
def picture(rng):
    """Smooth colours, so that every method of downsampling gives nearly the same."""
    coarse = rng.integers(0, 255, (9, 12, 3)).astype(np.uint8)
    return cv2.resize(coarse, (1200, 900), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def slide_file(tmp_path, picture):
    return write_pyramid(tmp_path / "a.tif", picture, mpp=0.25)


def test_full_resolution_equals_the_written_pixels(slide_file, picture):
    with open_slide(slide_file) as slide:
        assert slide.size == (1200, 900)
        assert slide.mpp == pytest.approx((0.25, 0.25))
        assert np.array_equal(slide.read(100, 50, 300, 200), picture[50:250, 100:400])


def test_pixels_outside_of_the_slide_are_white(slide_file, picture):
    with open_slide(slide_file) as slide:
        read = slide.read(-10, 880, 40, 50)
        assert np.array_equal(read[:20, 10:], picture[880:, :30])
        assert (read[20:] == 255).all()
        assert (read[:, :10] == 255).all()
        assert (slide.read(5000, 5000, 8, 8) == 255).all()


@pytest.mark.parametrize("downsample", [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 13.3])
def test_any_scale_equals_the_resized_picture(slide_file, picture, downsample):
    width, height = round(800 / downsample), round(600 / downsample)
    expected = cv2.resize(picture[100:700, 200:1000], (width, height), interpolation=cv2.INTER_AREA)
    with open_slide(slide_file) as slide:
        read = slide.read(200, 100, width, height, downsample).astype(float)
    assert read.shape == (height, width, 3)
    assert np.abs(read - expected).mean() < 4


def test_a_requested_pixel_size_gives_the_downsample(slide_file):
    with open_slide(slide_file) as slide:
        assert slide.downsample(1.0) == pytest.approx(4.0)
        assert slide.downsample(None) == 1.0


def test_a_file_without_a_pixel_size_is_an_error_when_one_is_requested(tmp_path, picture):
    file = write_pyramid(tmp_path / "a.tif", picture, mpp=None)
    with open_slide(file) as slide:
        assert slide.mpp is None
        with pytest.raises(SkipshiftError, match=r"a\.tif: states no pixel size"):
            slide.downsample(1.0)


def test_a_tiff_that_openslide_rejects_is_read_by_tiffslide(tmp_path, picture):
    file = write_pyramid(tmp_path / "a.tif", picture, mpp=0.5, tile=None)
    with pytest.raises(openslide.OpenSlideError):
        openslide.OpenSlide(file)
    with open_slide(file) as slide:
        assert np.array_equal(slide.read(100, 50, 300, 200), picture[50:250, 100:400])
        assert slide.mpp == pytest.approx((0.5, 0.5))


def test_transparent_pixels_are_blended_with_white():
    pixels = np.array([[[10, 20, 30, 255], [0, 0, 0, 0], [100, 0, 200, 51]]], np.uint8)
    assert reader._on_white(pixels).tolist() == [[[10, 20, 30], [255, 255, 255], [224, 204, 244]]]


@pytest.mark.parametrize("tile", [(256, 256), None])
def test_several_threads_read_the_same_pixels_as_one(tmp_path, picture, tile):
    file = write_pyramid(tmp_path / "a.tif", picture, tile=tile)
    places = [(x, y) for x in range(0, 1100, 100) for y in range(0, 800, 100)]
    with open_slide(file) as slide, ThreadPoolExecutor(4) as pool:
        one = [slide.read(x, y, 100, 100, 1.5) for x, y in places]
        four = list(pool.map(lambda place: slide.read(*place, 100, 100, 1.5), places))
    assert all(map(np.array_equal, one, four))


def test_a_slide_without_a_coarse_level_is_not_read_whole(slide_file, monkeypatch):
    monkeypatch.setattr(reader, "_MOST_PIXELS", 20_000)
    fault = r"a\.tif: has no coarse level: 120 x 90 pixels would be made from 300 x 225; convert"
    with open_slide(slide_file) as slide, pytest.raises(SkipshiftError, match=fault):
        slide.thumbnail(120)


def test_a_thumbnail_shows_the_whole_slide(slide_file, picture):
    with open_slide(slide_file) as slide:
        small = slide.thumbnail(200)
    assert small.shape == (150, 200, 3)
    expected = cv2.resize(picture, (200, 150), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(small - expected).mean() < 4


def test_real_slides_are_read_as_openslide_reads_them(shared):
    files = sorted((shared / SAMPLES).glob("*/*"))
    assert len(files) == 4
    for file in files:
        bare = openslide.OpenSlide(file)
        with open_slide(file) as slide:
            assert slide.mpp is None
            assert slide.size == bare.dimensions
            for level, step in ((0, 1.0), (2, bare.level_downsamples[2])):
                expected = np.asarray(bare.read_region((1600, 1600), level, (64, 64)))[..., :3]
                assert (
                    np.abs(slide.read(1600, 1600, 64, 64, step) - expected.astype(float)).max() <= 3
                )
        bare.close()


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("none.svs", None, "none.svs: does not exist; check the path"),
        ("text.txt", b"hello", "text.txt: cannot be read as a slide"),
        ("broken.tif", b"II*\0rubbish rubbish", "broken.tif: cannot be read as a slide"),
    ],
)
def test_a_file_that_is_not_a_slide_is_an_error(tmp_path, name, content, fault):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SkipshiftError, match=fault), open_slide(tmp_path / name):
        pass


def test_a_broken_tile_is_an_error_when_it_is_read(slide_file):
    with tifffile.TiffFile(slide_file) as file:
        place, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    data = bytearray(slide_file.read_bytes())
    data[place : place + length] = bytes(length)
    slide_file.write_bytes(data)
    with (
        open_slide(slide_file) as slide,
        pytest.raises(SkipshiftError, match=r"a\.tif: cannot be read as a slide"),
    ):
        slide.read(0, 0, 1200, 900)


def write_dicom_slide(path, pixels, tile=64):
    """A whole-slide image of DICOM supplement 145: one level of uncompressed tiles, 0.5 um each."""
    height, width = pixels.shape[:2]
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    tiles = [
        pixels[y : y + tile, x : x + tile].tobytes()
        for y in range(0, height, tile)
        for x in range(0, width, tile)
    ]
    measures, group, optics, slide = (pydicom.Dataset() for _ in range(4))
    measures.PixelSpacing, measures.SliceThickness = [0.0005, 0.0005], 0.001
    group.PixelMeasuresSequence = [measures]
    optics.OpticalPathIdentifier = "0"
    about = {
        "SOPClassUID": meta.MediaStorageSOPClassUID, "SOPInstanceUID": "1.2.3.4",
        "StudyInstanceUID": "1.2.5", "SeriesInstanceUID": "1.2.6", "Modality": "SM",
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "Rows": tile, "Columns": tile,
        "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0,
        "TotalPixelMatrixColumns": width, "TotalPixelMatrixRows": height,
        "NumberOfFrames": len(tiles), "TotalPixelMatrixFocalPlanes": 1, "NumberOfOpticalPaths": 1,
        "DimensionOrganizationType": "TILED_FULL", "SharedFunctionalGroupsSequence": [group],
        "OpticalPathSequence": [optics], "PixelData": b"".join(tiles),
    }  # fmt: skip
    for name, value in about.items():
        setattr(slide, name, value)
    slide.file_meta = meta
    slide.save_as(path, enforce_file_format=True)


def test_a_dicom_slide_is_read(tmp_path, rng):
    pixels = rng.integers(0, 256, (128, 192, 3), dtype=np.uint8)
    write_dicom_slide(tmp_path / "s.dcm", pixels)
    with open_slide(tmp_path / "s.dcm") as slide:
        assert (slide.size, slide.mpp) == ((192, 128), (0.5, 0.5))
        assert np.array_equal(slide.read(0, 0, 192, 128), pixels)
        assert np.array_equal(slide.read(60, 30, 20, 10), pixels[30:40, 60:80])
