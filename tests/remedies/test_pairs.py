import copy
from functools import partial

import numpy as np
import pytest
import torch

import skipshift as ss
from skipshift.patching.labelled import labelled
from skipshift.remedies.gathering import folded
from skipshift.remedies.judging import Judged
from skipshift.remedies.pairs import offered
from skipshift.remedies.places import Place
from skipshift.remedies.ranking import Row
from skipshift.remedies.setting import Remedy
from skipshift.specs import RemedySpec
from skipshift.statistics.recovery import foreground_iou
from toy_unet import informed, labels, toy_images, toy_net


@pytest.fixture
def tall():
    """A network that sees how bright a pixel is beside the one above it, and its images."""
    home = toy_images()
    images = torch.from_numpy(home).float() / 255
    images[:, :, :8] *= 0.5
    net = toy_net(images)
    net.first.weight.data[:] = 0
    net.first.weight.data[:, :, 0, 1] = 1
    return informed(net, images), (images * 255).byte().numpy()


def upside_down_and_dimmed(images):
    return (0.4 * images[:, :, ::-1] + 60).astype(np.uint8)


@pytest.fixture
def found(tall):
    net, home = tall
    spec = RemedySpec(folds=3, remedies=("flip-vertical", "adabn"), places=("input", "first"))
    truth = labels(net, home)[:, ::-1].copy()
    return ss.remedy(net, home, upside_down_and_dimmed(home), truth, spec=spec)


def test_two_mistakes_at_once_are_undone_by_a_pair(found):
    table = found.table.set_index(["remedy", "place"])
    pair = table.loc[("flip-vertical+adabn", "input+first")]
    singles = table.drop(index=("flip-vertical+adabn", "input+first"))
    assert pair["iou"] > singles["iou"].max() + 0.1
    assert pair["labels"] == 0
    assert str(found.best) == "flip-vertical+adabn@input+first"
    assert found.verdict().startswith(
        "Change the input by flip-vertical, then recompute the batch-norm statistics of first"
    )


def test_the_second_of_a_pair_is_fitted_on_what_the_first_gives(found, tall):
    net, home = tall
    shifted = torch.from_numpy(upside_down_and_dimmed(home)).float() / 255
    turned = shifted.flip(2)
    own = copy.deepcopy(net)
    with torch.no_grad():
        read = own.first(turned)
        own.norm.running_mean.copy_(read.mean((0, 2, 3)))
        own.norm.running_var.copy_(read.var((0, 2, 3), correction=0))
        expected = own(turned).flip(2)
        given = found.network("flip-vertical+adabn", "input+first")(shifted)
    assert torch.allclose(given, expected, atol=1e-4)


def test_a_pair_that_gains_no_more_than_a_single_remedy_is_not_recommended():
    home = toy_images()
    net = toy_net(torch.from_numpy(home).float() / 255)
    dimmed = (0.4 * home + 60).astype(np.uint8)
    spec = RemedySpec(folds=3, remedies=("moments", "adabn"), places=("input", "first"))
    found = ss.remedy(net, home, dimmed, labels(net, home), spec=spec)
    assert found.table["remedy"].str.contains("+", regex=False).any()
    assert "+" not in found.best.remedy


def judged(rng, gain=0.0):
    hits = rng.integers(40, 60, (9, 1)) + round(40 * gain)
    one = np.concatenate([hits, np.full((9, 1), 20), np.full((9, 1), 20)], 1)
    counts = np.stack([one, one], 1)
    pixels = np.array([500, 500])
    none = np.empty(0, np.int64)
    return Judged(counts, counts, pixels, pixels, 1.0, 0.0, none.astype(float), none, 1, 0.0)


class Given:
    def __init__(self, folds):
        images = toy_images(9)
        self.shifted = folded(labelled("shifted", images, images[:, 0], None, False), folds, 0)


def offer(_setting, _place):
    return None


def rows_of(rng):
    places = [Place("input", "input"), *(Place(f"e{i}", "layer", f"e{i}") for i in range(6))]
    names = {"input": "abcd"}
    return [
        Row(Remedy(name, offer), place, {1.0: judged(rng, rng.uniform(0, 0.1))})
        for place in places
        for name in names.get(place.name, "xy")
    ]


def score(kept, row):
    return foreground_iou(row.judged[1.0].counts[kept, None])[0][0]


@pytest.mark.parametrize("seed", range(5))
def test_the_masks_of_a_fold_have_no_say_in_the_pairs_that_count_on_it(seed):
    rng, setting = np.random.default_rng(seed), Given(3)
    rows, plain = rows_of(rng), judged(rng)
    before = offered(rows, plain, setting)
    of_fold = setting.shifted.folds == 1
    for row in rows:
        row.judged[1.0].counts[of_fold] = rng.integers(1, 100, (of_fold.sum(), 2, 3))
    after = offered(rows, plain, setting)
    told = [
        {(row.remedy.name, row.place.name) for row in pairs if row.folds[1]}
        for pairs in (before, after)
    ]
    assert told[0] == told[1]
    assert len({(row.remedy.name, row.place.name) for row in before}) == len(before) <= 3
    order = sorted(rows, key=partial(score, ~of_fold))
    best = {row.place.name == "input": row for row in order}
    names = "+".join(best[first].remedy.name for first in (True, False))
    assert told[0] == {(names, f"input+{best[False].place.name}")}


def test_where_nothing_helps_no_pair_is_tried():
    rng = np.random.default_rng(0)
    rows = [
        Row(row.remedy, row.place, {1.0: judged(np.random.default_rng(1), -0.5)})
        for row in rows_of(rng)
    ]
    assert offered(rows, judged(np.random.default_rng(1)), Given(3)) == []
