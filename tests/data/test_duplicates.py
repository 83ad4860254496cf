import io

import cv2
import numpy as np
import pytest
from PIL import Image

from skipshift.data.checks.common_detail import evidence
from skipshift.data.checks.duplicates import (
    DuplicatePair,
    compare,
    compute_signature,
    find_duplicates,
)
from skipshift.data.images import read_image
from skipshift.data.prepare.options import SynthSpec
from skipshift.data.prepare.synthetic import compose, draw_layout, new_canvas, prepare_templates
from skipshift.data.prepare.templates import load_templates


@pytest.fixture(scope="module")
def smears(tmp_path_factory):
    """Ten distinct synthetic smears whose cells come from the same three templates."""
    spec = SynthSpec(tmp_path_factory.mktemp("smears"), images=10, size=256, cells=(20, 60))
    templates = load_templates(spec)
    kit, canvas = prepare_templates(spec, templates), new_canvas(spec.canvas)
    return [compose(draw_layout(spec, templates, i), kit, 256, canvas)[0] for i in range(10)]


def compressed(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(image, factor):
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


CHANGES = {
    "half": lambda image: resized(image, 0.5),
    "larger": lambda image: resized(image, 1.5),
    "JPEG": lambda image: compressed(image, 30),
    "flipped": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "turned": np.rot90,
    "transposed": lambda image: image.transpose(1, 0, 2),
    "brighter": lambda image: np.clip(image * 1.2, 0, 255).astype(np.uint8),
    "cropped": lambda image: image[20:200, 50:230],
    "cropped and resized": lambda image: resized(image[40:220, 10:190], 256 / 180),
    "all": lambda image: compressed(resized(image[10:220, 30:240, :], 0.8)[:, ::-1], 60),
}


def duplicates(images):
    return find_duplicates([compute_signature(np.ascontiguousarray(image)) for image in images])


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found_after(change, smears):
    assert duplicates([*smears, CHANGES[change](smears[3])]) == [DuplicatePair(3, 10, exact=False)]


@pytest.mark.parametrize("change", ["cropped", "all"])
def test_copies_of_real_images_are_found_and_no_others(change, shared):
    files = sorted((shared / "data/bbbc041/images").glob("*.png"))
    tiles = [read_image(file)[y : y + 512, 300:812] for file in files for y in (0, 600)]
    files = sorted((shared / "data/dsb2018_stage1/images").glob("*.png"))
    nuclei = [read_image(file) for file in files]
    changed = [CHANGES[change](resized(tiles[n], 0.5)) for n in (1, 7, 12)]
    copies = duplicates([*tiles, *nuclei, *changed])
    assert [(copy.first, copy.second - 56) for copy in copies] == [(1, 0), (7, 1), (12, 2)]


def test_heart_slices_and_tissue_patches_are_not_duplicates(shared):
    patterns = ("sunnybrook/images/*.png", "histology/ami_br_patches/*/*.png")
    files = [file for pattern in patterns for file in sorted((shared / "data").glob(pattern))]
    assert len(files) > 200
    assert duplicates([read_image(file) for file in files]) == []


def test_neighbouring_slices_of_one_heart_are_not_duplicates(shared):
    nibabel = pytest.importorskip("nibabel")
    files = sorted((shared / "data/mnms/native").glob("[ABC]/*_ED.nii.gz"))
    volumes = [np.asarray(nibabel.load(file).dataobj).squeeze() for file in files]
    slices = [image for volume in volumes for image in np.moveaxis(volume, -1, 0)]
    levels = [np.clip(255 * image / np.percentile(image, 99.9), 0, 255) for image in slices]
    assert duplicates([image.astype(np.uint8)[..., None] for image in levels]) == []


def test_exact_copies_are_found_in_images_without_keypoints(rng):
    flat = np.full((64, 64, 3), 7, np.uint8)
    noise = rng.integers(0, 256, (64, 64, 1), dtype=np.uint8)
    copies = duplicates([flat, noise, flat, noise, flat + 1])
    assert copies == [DuplicatePair(0, 2, exact=True), DuplicatePair(1, 3, exact=True)]


def test_a_16_bit_version_is_a_duplicate(smears):
    wide = smears[0].astype(np.uint16) * 257
    assert duplicates([smears[0], smears[1], wide]) == [DuplicatePair(0, 2, exact=False)]


def test_no_images_give_no_duplicates():
    assert find_duplicates([]) == []


def test_an_image_aligned_with_itself_or_its_mirror_image_correlates_fully(smears):
    small = compute_signature(smears[0]).small.astype(np.float32)
    assert compare(small, small, np.eye(2, 3), 1.0)[:2] == pytest.approx((1, 1))
    mirror = np.array([[-1.0, 0, small.shape[1] - 1], [0, 1, 0]])
    assert compare(small, small[:, ::-1].copy(), mirror, 1.0)[:2] == pytest.approx((1, 1))


def with_overlay(image, number):
    """The frame and lettering that a scanner burns into each picture; one word differs."""
    marked = image.copy()
    words = ("HOSPITAL TRA", "TR 2100 TE 38", f"IM {number:02d}", "W 400 L 80 FOV 250")
    for word, y in zip(words, (20, 45, 215, 240), strict=True):
        cv2.putText(marked, word, (8, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
    return marked


def with_rim(image):
    y, x = np.mgrid[:256, :256] - 127.5
    return np.where(np.hypot(y, x)[..., None] < 115, image, 2).astype(np.uint8)


@pytest.fixture(scope="module")
def hearts(smears):
    """Soft blobs: pictures with less detail than what surrounds them."""
    return [cv2.GaussianBlur(image, (0, 0), 6) // 2 + 40 for image in smears]


@pytest.mark.parametrize("frame", ["rim", "overlay"])
def test_pictures_that_share_a_frame_are_no_copies_but_their_copies_are(frame, hearts):
    framed = [
        with_rim(image) if frame == "rim" else with_overlay(image, number)
        for number, image in enumerate(hearts)
    ]
    assert duplicates(framed) == []
    copy = compressed(resized(framed[3][:, ::-1], 0.8), 60)
    assert duplicates([*framed, copy]) == [DuplicatePair(3, 10, exact=False)]


def test_only_pictures_of_one_domain_have_a_place_in_common(smears):
    picture = compute_signature(smears[0]).small
    framed = [with_rim(image)[..., 0] for image in smears]
    names = ["A"] * 6 + ["B"] * 4
    shown = evidence(framed, names)
    assert not any(part.all() for part in shown[:6])
    assert all(part.all() for part in shown[6:])
    # one scene seen six times is no frame
    assert all(part.all() for part in evidence([picture] * 6, ["A"] * 6))
