import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import skipshift as ss
from skipshift.data.manifest import COLUMNS
from skipshift.data.sets.sources import find_pair
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.networks.changes import Resampled
from skipshift.networks.stain_maps import Macenko, Reinhard
from skipshift.profile.inputs import find_inputs
from skipshift.remedies.inputs import read_inputs
from skipshift.remedies.remedy import search
from skipshift.specs import FingerprintSpec, ReadingSpec, RemedySpec
from toy_unet import labels, toy_images, toy_net


def dimmed(images):
    return (0.4 * images + 60).astype(np.uint8)


def stained(rng, density, number=2):
    """Images of two stains in random amounts (Beer-Lambert), (N, 3, 32, 32) in [0, 1]."""
    stains = torch.tensor([[0.65, 0.07], [0.70, 0.99], [0.29, 0.11]])
    amounts = torch.from_numpy(rng.gamma(2.0, density, (2, number * 1024))).float()
    values = (240 / 255) * (-(stains @ amounts)).exp()
    return values.reshape(3, number, 32, 32).movedim(1, 0)


def pixels(images):
    return images.movedim(1, -1).reshape(-1, 3)


def test_macenko_gives_images_the_stain_of_the_reference():
    weak, strong = (stained(np.random.default_rng(0), density) for density in (0.15, 0.4))
    mapped = Macenko.fitted(pixels(strong))(weak)
    # the same tissue, stained more weakly
    before, after = ((strong - one).abs().mean() for one in (weak, mapped))
    assert after < before / 4


def test_reinhard_gives_images_the_mean_of_the_reference_in_every_channel():
    weak, strong = (stained(np.random.default_rng(0), density) for density in (0.15, 0.4))
    mapped = Reinhard.fitted(pixels(strong))(weak)
    assert (mapped.mean((0, 2, 3)) - strong.mean((0, 2, 3))).abs().max() < 0.03


@pytest.mark.parametrize("kind", [Reinhard, Macenko])
def test_an_image_without_any_stain_is_told(kind):
    fitted = kind.fitted(pixels(stained(np.random.default_rng(0), 0.3)))
    with pytest.raises(ArgumentError, match="image of one colour has no stain to be matched"):
        fitted(torch.full((1, 3, 32, 32), 0.5))


def test_a_reference_without_stain_is_why_macenko_fails(net, home):
    white = np.full_like(home, 255)
    spec = RemedySpec(folds=2, remedies=("macenko", "minmax"))
    found = ss.remedy(net, white, home, labels(net, home), spec=spec)
    failed = found.table.set_index("remedy")["failed"]
    assert failed["macenko"].startswith("the reference has too little stained tissue")
    assert failed["minmax"] == ""


def test_stain_is_normalised_in_rgb_images_only(net, home):
    spec = RemedySpec(folds=2, remedies=("macenko", "reinhard"))
    with pytest.raises(ArgumentError, match="nothing to try: macenko, reinhard"):
        ss.remedy(net, home * 2.0, home * 2.0, labels(net, home), spec=spec)


@pytest.mark.parametrize(
    ("side", "kept"),
    [(32, {"spacing-2"}), (64, {"spacing-0.5", "spacing-1.5", "spacing-2"})],
)
def test_spacings_that_give_the_same_size_are_tried_once(side, kept):
    images = toy_images(side=side)
    net = toy_net(torch.from_numpy(images).float() / 255)
    names = tuple(f"spacing-{factor}" for factor in ("0.5", "0.67", "1.5", "2"))
    spec = RemedySpec(folds=2, remedies=names)
    found = ss.remedy(net, images, images, labels(net, images), spec=spec)
    assert set(found.table["remedy"]) == kept


def test_the_spacing_of_manifests_takes_the_place_of_a_factor(net, home):
    spec = RemedySpec(folds=2, remedies=("spacing", "spacing-2"))
    sets = ((home, home), labels(net, home), None, spec)
    found = search(net, *sets, spacing=(2.0, 2.0))
    assert list(found.table["remedy"]) == ["spacing"]
    images = torch.from_numpy(home).float() / 255
    mended = found.network("spacing", "input")
    large = torch.nn.functional.interpolate(images, (64, 64), mode="bilinear")
    with torch.no_grad():
        back = torch.nn.functional.interpolate(net(large), (32, 32), mode="bilinear")
        assert torch.allclose(mended(images), back, atol=1e-5)


def test_a_side_of_the_same_spacing_keeps_its_size():
    assert Resampled((1.0, 2.0, 0.5)).sides((10, 64, 64)) == (10, 128, 32)


def test_the_spacing_of_two_manifests_is_their_ratio(tmp_path, net, home):
    names = []
    for domain, spacing in (("a", ("0.5", "0.5x0.25")), ("b", ("1", "1"))):
        rows = []
        for i, text in enumerate(spacing):
            image, mask = tmp_path / f"{domain}{i}.png", tmp_path / f"{domain}{i}-mask.png"
            Image.fromarray(home[i].transpose(1, 2, 0)).save(image)
            Image.fromarray(np.full((32, 32), i, np.uint8)).save(mask)
            case = f"{domain}{i}"
            rows.append([case, image.name, mask.name, domain, case, "test", "", text])
        names.append(tmp_path / f"{domain}.csv")
        pd.DataFrame(rows, columns=[*COLUMNS, "spacing"]).to_csv(names[-1], index=False)
    found = read_inputs(net, find_pair(str(names[0]), str(names[1])))
    assert found.spacing == pytest.approx((2.0, 1 / 0.375))
    shift = read_inputs(net, find_pair(str(names[0]), "brightness:0.5"))
    assert shift.spacing == (1.0, 1.0)
    assert shift.about["shifted"]["digest"] != found.about["shifted"]["digest"]


@pytest.fixture
def printed(net, home):
    """The reference as a fingerprint of features as they are."""
    spec = FingerprintSpec(pooling="none", bins=400)
    return ss.fingerprint(net, home, layers=["first", "norm", "join"], spec=spec)


def test_a_fingerprint_stands_for_the_images_of_the_reference(net, home, printed):
    truth = labels(net, home)
    spec = RemedySpec(folds=3, remedies=("moments", "quantile", "gamma", "zscore"))
    by_images = ss.remedy(net, home, dimmed(home), truth, spec=spec)
    found = ss.remedy(net, printed, dimmed(home), truth, spec=spec)
    keys = ["remedy", "place"]
    both = found.table.merge(by_images.table, on=keys, suffixes=("", "_images"))
    mapped = both[both["remedy"].isin(["moments", "quantile"])]
    assert len(mapped) >= 2
    assert np.allclose(mapped["iou"], mapped["iou_images"], atol=0.02)
    assert "gamma" not in set(found.table["remedy"])
    assert "zscore" in set(found.table["remedy"])
    assert found.table[["in_domain", "harm", "unchanged"]].isna().all(axis=None)
    assert "What it costs on the reference is not known without its images" in found.verdict()


def test_averages_tell_moments_but_no_distribution(net, home):
    printed = ss.fingerprint(net, home, layers=["first"], spec=FingerprintSpec(part=6))
    spec = RemedySpec(folds=3, remedies=("moments", "quantile"))
    found = ss.remedy(net, printed, dimmed(home), labels(net, home), spec=spec)
    assert set(found.table["remedy"]) == {"moments"}
    scale = found.change("moments", "first").maps["first"].scale
    assert np.allclose(scale, 1 / 0.4, rtol=0.05)


def test_without_masks_the_excess_is_measured_against_the_fingerprint(net):
    home, away = toy_images(40), dimmed(toy_images(40, seed=1))
    printed = ss.fingerprint(net, home, layers=["first", "join"])
    found = ss.remedy(net, printed, away, spec=RemedySpec(folds=3, remedies=("moments", "adabn")))
    profile = ss.profile_shift(net, printed, away)
    last = profile.layers.set_index("layer").loc["join"]
    assert found.facts.layer == "join"
    assert found.facts.excess == pytest.approx(last["excess"], rel=0.02)
    assert found.table["excess_left"].min() < found.facts.excess / 2


@pytest.mark.parametrize(
    ("number", "options", "message"),
    [
        (12, {"paired": True}, "paired needs images of the reference, not its fingerprint"),
        (4, {}, "shifted must have masks, or the 5 groups of a part of the fingerprint"),
    ],
)
def test_what_a_fingerprint_cannot_do_is_told(net, home, printed, number, options, message):
    with pytest.raises(ArgumentError, match=message):
        ss.remedy(net, printed, home[:number], spec=RemedySpec(**options))


def test_a_fingerprint_of_another_network_is_refused(net, home, printed):
    net.head.bias.data += 1
    with pytest.raises(ArgumentError, match="network must be that of the fingerprint"):
        ss.remedy(net, printed, home, labels(net, home))


def test_a_diagnosis_needs_images(net, home, printed):
    spec = RemedySpec(folds=2, remedies=("zscore",))
    with pytest.raises(ArgumentError, match="a diagnosis needs images of the reference"):
        ss.diagnose(net, printed, home, labels(net, home), spec=spec)


def test_a_shift_of_a_fingerprint_is_told():
    with pytest.raises(SkipshiftError, match=r"a.npz: is a fingerprint, and brightness:0.5 needs"):
        find_inputs("a.npz", "brightness:0.5", ReadingSpec())


def test_a_fingerprint_of_the_shifted_set_is_refused(net):
    with pytest.raises(SkipshiftError, match=r"a.npz: is a fingerprint; give the shifted images"):
        read_inputs(net, ("b.npz", "a.npz"))
