from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import architectures
from skipshift import shifts
from skipshift.data.manifest import Case
from skipshift.errors import SkipshiftWarning
from skipshift.networks.hooks import hooked
from skipshift.networks.inference import labels_of, logits_of
from skipshift.networks.unet import Unet
from skipshift.patching.carry import carry
from skipshift.patching.paths import paths_of
from skipshift.specs import CarrySpec, EvaluationSpec
from skipshift.statistics.scores import estimates, pooled_iou
from skipshift.study.evaluation import evaluate

FP32 = CarrySpec(precision="fp32")
TOY = {"skip": "near", "deep": "far"}
TOY_SPEC = CarrySpec(paths=TOY, draws=50)


class Toy(nn.Module):
    """Foreground where the pixel and the mean of its 2 x 2 window add up to more than 1."""

    def __init__(self, classes=1):
        super().__init__()
        self.near, self.far = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
        self.head = nn.Conv2d(1, classes, 1)
        for conv in (self.near, self.far, self.head):
            nn.init.ones_(conv.weight)
            nn.init.zeros_(conv.bias)
        nn.init.constant_(self.head.bias, -1.0)

    def forward(self, images):
        far = functional.interpolate(self.far(functional.avg_pool2d(images, 2)), scale_factor=2)
        return self.head(self.near(images) + far)


class HookedToy(Toy):
    """The same function, but the decoder reads its skip in a forward hook."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(2)
        self.block = HookedBlock(self.near, self.head)

    def forward(self, images):
        self.near(images)
        return self.block(self.far(self.pool(images)))


class HookedBlock(nn.Module):
    """A decoder block that takes its skip as fastai's DynamicUnet does."""

    def __init__(self, encoder, head):
        super().__init__()
        self.head = head
        encoder.register_forward_hook(self.keep)

    def keep(self, _module, _inputs, output):
        self.skip = output

    def forward(self, far):
        return self.head(self.skip + functional.interpolate(far, scale_factor=2))


@pytest.fixture
def toy_pair(rng):
    """Images, the same with the pixels of each window turned about, and the masks of the first."""
    images = rng.random((6, 1, 8, 8)).astype(np.float32)
    windows = images.reshape(6, 1, 4, 2, 4, 2)[:, :, :, ::-1, :, ::-1]
    with torch.no_grad():
        masks = labels_of(Toy()(torch.from_numpy(images)))
    return images, windows.reshape(images.shape).copy(), masks


@pytest.fixture(scope="module")
def net():
    """A network that knows nothing and calls half of the pixels of noise foreground."""
    net = Unet("resnet18").eval()
    with torch.no_grad():
        logits = net(torch.rand(4, 3, 64, 64))
        net.segmentation_head[0].bias[0] += (logits[:, 1] - logits[:, 0]).median()
    return net


@pytest.fixture(scope="module")
def images(net):
    """Noise, the same noise darker, and what the network makes of the first."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    pair = [part.transpose(0, 3, 1, 2) for part in (noise, shifts.brightness(noise, 0.5))]
    with torch.no_grad():
        return *pair, labels_of(net(torch.from_numpy(pair[0] / 255.0).float()))


def test_the_path_that_alone_sees_a_shift_carries_all_of_it(toy_pair):
    table = carry(Toy(), *toy_pair, spec=TOY_SPEC).set_index("path")
    assert table["share"].tolist() == [0, 1, 0, 1]
    assert table.loc["none", "iou"] < table.loc["none", "in_domain"] == 1


@pytest.mark.parametrize("kind", [bool, np.int64, np.float32])
def test_masks_of_whole_numbers_may_have_any_type(toy_pair, kind):
    images, shifted, masks = toy_pair
    table = carry(Toy(), images, shifted, masks.astype(kind), spec=TOY_SPEC)
    assert table.equals(carry(Toy(), images, shifted, masks, spec=TOY_SPEC))


@pytest.mark.parametrize("value", [0.5, -1, 256, np.nan])
def test_masks_of_other_numbers_are_refused(toy_pair, value):
    masks = np.full(toy_pair[2].shape, value)
    with pytest.raises(ValueError, match=f"whole numbers in 0..255, got {value}"):
        carry(Toy(), *toy_pair[:2], masks, spec=TOY_SPEC)


def test_a_skip_that_a_decoder_reads_in_a_forward_hook_is_patched(toy_pair):
    table = carry(HookedToy(), *toy_pair, spec=TOY_SPEC)
    assert table.set_index("path").loc["all", "iou"] == 1
    assert table.equals(carry(Toy(), *toy_pair, spec=TOY_SPEC))


def test_none_is_the_shifted_iou_and_all_the_reference_iou_of_evaluate(net, images):
    table = carry(net, *images, spec=FP32).set_index("path")
    cases = [
        Case(f"{d}{i}", d, f"{i}", image.transpose(1, 2, 0), mask)
        for d, part in zip("rs", images, strict=False)
        for i, (image, mask) in enumerate(zip(part, images[2], strict=True))
    ]
    how = EvaluationSpec(batch_size=5)
    counts = evaluate(net, cases, ("ground", "cell"), how)
    iou = pooled_iou(estimates(counts.assign(run="", encoder="", variant="")))
    iou = iou[iou["class"] == "cell"].set_index("domain")["iou"]
    assert table.loc["none", "iou"] == iou["s"]
    assert table.loc["all", "iou"] == table.loc["none", "in_domain"] == iou["r"]
    assert table.loc["all", "share"] == 1
    assert iou["r"] > iou["s"]


def test_an_image_costs_less_than_a_forward_pass_for_each_path_and_four(net):
    images = np.zeros((4, 3, 32, 32), np.uint8)
    ours = []
    for number in (2, 4):
        part = images[:number]
        with FlopCounterMode(display=False) as counter:
            carry(net, part, part, part[:, 0], spec=FP32)
        ours.append(counter.get_total_flops())
    with FlopCounterMode(display=False) as bare:
        net(torch.zeros(2, 3, 32, 32))
    # less the checks, which run on one image only
    assert ours[1] - ours[0] < 9 * bare.get_total_flops()


class Unread(Toy):
    """Computes a skip that nothing reads."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Identity()

    def forward(self, images):
        self.spare(images)
        return super().forward(images)


def test_pixels_that_are_ignored_change_nothing_of_carry(toy_pair):
    reference, shifted, masks = toy_pair
    kept = carry(Toy(), reference[:, :, :4], shifted[:, :, :4], masks[:, :4], spec=TOY_SPEC)
    masks = masks.copy()
    masks[:, 4:] = 9
    given = carry(Toy(), reference, shifted, masks, spec=replace(TOY_SPEC, ignore=9))
    columns = ["iou", "share", "in_domain"]
    assert given[columns].to_numpy() == pytest.approx(kept[columns].to_numpy())
    with pytest.raises(ValueError, match="set ignore to the value of pixels"):
        carry(Toy(), reference, shifted, masks, spec=TOY_SPEC)


def test_a_path_that_nothing_reads_is_named_and_has_no_share(toy_pair):
    spec = CarrySpec(paths={"spare": "spare", **TOY}, precision="fp32")
    table = carry(Unread(), *toy_pair, spec=spec).set_index("path")
    assert table["read"].tolist() == [True, False, True, True, True]
    assert table.loc["spare", ["iou", "share", "missing", "passed"]].isna().all()
    rest = table.drop(index="spare").reset_index()
    assert rest.equals(carry(Toy(), *toy_pair, spec=TOY_SPEC))
    with pytest.raises(ValueError, match="no path is read: noise in spare leaves the logits"):
        carry(Unread(), *toy_pair, spec=CarrySpec(paths={"spare": "spare"}, precision="fp32"))


def test_paths_that_are_not_all_that_is_read_have_no_shares(toy_pair):
    spec = CarrySpec(paths={"skip": "near"}, precision="fp32")
    with pytest.raises(ValueError, match="all of skip does not give the reference's logits"):
        carry(Toy(), *toy_pair, spec=spec)


def test_what_is_missed_is_what_a_path_alone_does_not_bring_back(toy_pair, rng):
    images, shifted, masks = toy_pair
    shifted = shifted + 0.3 * rng.random(shifted.shape).astype(np.float32)
    table = carry(Toy(), images, shifted, masks, spec=TOY_SPEC).set_index("path")
    # of two paths: all but one is the other
    expected = 1 - table.loc[["deep", "skip"], "share"].to_numpy()
    assert table.loc[["skip", "deep"], "missing"].tolist() == pytest.approx(expected.tolist())


class Blocks(Toy):
    """The decoder block takes its skip as an argument, so the distance behind it is known."""

    def __init__(self):
        super().__init__()
        self.block = Sum()

    def forward(self, images):
        far = functional.interpolate(self.far(functional.avg_pool2d(images, 2)), scale_factor=2)
        return self.head(self.block(far, self.near(images)))


class Sum(nn.Module):
    def forward(self, far, skip):
        return far + skip


BLOCKS = {"skip": "block(skip)", "deep": "block(far)"}


def test_how_much_of_the_distance_goes_is_the_share_of_the_squared_difference(toy_pair, rng):
    images, shifted, masks = toy_pair
    shifted = shifted + rng.random(shifted.shape).astype(np.float32)
    table = carry(Blocks(), images, shifted, masks, spec=CarrySpec(paths=BLOCKS, precision="fp32"))
    near = shifted - images
    far = near.reshape(6, 1, 4, 2, 4, 2).mean((3, 5)).repeat(2, 2).repeat(2, 3)
    expected = [1 - (part**2).sum() / ((near + far) ** 2).sum() for part in (far, near)]
    found = table.set_index("path").loc[["skip", "deep"]]
    assert found["passed"].tolist() == pytest.approx(expected, rel=1e-4)
    assert (found["passed_low"] < found["passed"]).all()
    assert not found["farther"].any()


def test_a_patch_that_leads_away_from_the_reference_is_flagged(toy_pair):
    class Cancelling(Blocks):
        def forward(self, images):
            near = self.near(images)
            return self.head(self.block(0.9 - 0.9 * near, near))

    images, _, masks = toy_pair
    spec = CarrySpec(paths=BLOCKS, precision="fp32")
    with pytest.warns(SkipshiftWarning, match="every pixel was predicted to be of class 0"):
        table = carry(Cancelling(), images, images + 1, masks, spec=spec).set_index("path")
    # the shift is 0.1 behind both, 0.9 behind the patched skip and 1 behind the other
    assert table.loc[["skip", "deep"], "farther"].all()
    assert table.loc["skip", "passed"] == pytest.approx(1 - 81, rel=1e-3)


def test_unpaired_sets_pass_on_what_a_change_of_distribution_does(rng):
    images = rng.random((2, 40, 1, 8, 8)).astype(np.float32)
    with torch.no_grad():
        masks = [labels_of(Toy()(torch.from_numpy(part))) for part in images]
    spec = CarrySpec(paths=BLOCKS, mode="quantile", precision="fp32")
    table = carry(Blocks(), images[0], images[1] + 0.5, tuple(masks), spec=spec).set_index("path")
    found = table.loc[["skip", "deep"]]
    assert (found["passed_low"] > 0).all()
    assert (found["passed_high"] < 1).all()


class ByAttribute(Toy):
    """The block reads a skip that is set as its attribute, so the cache does not see a patch."""

    def __init__(self):
        super().__init__()
        self.block = Holder(self.head)

    def forward(self, images):
        self.block.skip = self.near(images)
        return self.block(self.far(functional.avg_pool2d(images, 2)))


class Holder(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, far):
        return self.head(self.skip + functional.interpolate(far, scale_factor=2))


def test_a_skip_that_is_set_as_an_attribute_is_patched(toy_pair):
    table = carry(ByAttribute(), *toy_pair, spec=TOY_SPEC)
    assert table.equals(carry(Toy(), *toy_pair, spec=TOY_SPEC))


class Noisy(nn.Module):
    """A network with noise on one path of each image whose last channel is set."""

    def __init__(self, net, path, address, example):
        super().__init__()
        self.net, self.layer = net, {path: address}
        with torch.no_grad():
            logits = logits_of(net(example)).float()
        background = logits[:, 0] if logits.shape[1] > 1 else torch.zeros(())
        self.level = float((logits[:, -1] - background).median())

    def forward(self, images):
        flag = images[:, -1:].amax(tuple(range(1, images.ndim)), keepdim=True)

        def add(_path, value):
            rng = torch.Generator().manual_seed(1)
            noise = torch.randn(value.shape[1:], generator=rng).to(value)
            each = flag.flatten()[:, None].reshape(-1, *[1] * (value.ndim - 1)).to(value)
            return value + each * (3 * value.std() + 1) * noise

        with hooked(self.net, self.layer, add):
            logits = logits_of(self.net(images[:, :-1]))
        background = logits[:, :1] if logits.shape[1] > 1 else torch.zeros_like(logits)
        return torch.cat([background, logits[:, -1:] - self.level], 1)


DOWNSTREAM = {"smp UnetPlusPlus", "MONAI BasicUNetPlusPlus", "MONAI AttentionUnet"}
"""Nested nodes and gates compute a skip from what comes from below as well."""

FAST = {"smp Linknet", "MONAI UNet", "nnU-Net PlainConvUNet"}


@pytest.mark.parametrize(
    "name",
    [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in architectures.CASES],
)
def test_noise_on_one_path_alone_is_its_share_and_no_other_ones(name):
    net, image = architectures.build(name)
    torch.manual_seed(1)
    images = torch.rand(3, *image.shape[1:])
    flags = torch.ones_like(images[:, :1])
    clean, noisy = torch.cat([images, 0 * flags], 1), torch.cat([images, flags], 1)
    for path, address in paths_of(net).items():
        wrapped = Noisy(net, path, address, images)
        with torch.no_grad():
            masks = labels_of(wrapped(clean))
        table = carry(wrapped, clean, noisy, masks, spec=FP32).set_index("path")
        assert table.loc["none", "iou"] < 1, path
        assert table.loc[[path, "all"], "share"].tolist() == [1, 1], path
        others = table.drop(index=["none", "all", path])
        if name not in DOWNSTREAM:
            assert (others["share"] == 0).all(), path
            assert (others["missing"] == 0).all(), path
            assert table.loc[path, "missing"] == 1


def test_paths_are_the_skips_that_are_there_and_the_bottleneck():
    assert list(paths_of(Unet("resnet18"))) == ["L1", "L2", "L3", "L4", "bottleneck"]
    assert list(paths_of(Unet("resnet18", skips=(2, 4)))) == ["L2", "L4", "bottleneck"]


def test_a_pruned_skip_is_no_path():
    with pytest.raises(ValueError, match=r"path 'L1': .*; its paths are L2, L3, L4, bottleneck$"):
        paths_of(Unet.variant("L1-pruned"), ["L1"])


def test_paths_are_named_or_addressed(net):
    assert paths_of(net, ["L1", "encoder[3]"]) == {
        "L1": "decoder.blocks.3(skip_connection)",
        "encoder[3]": "encoder[3]",
    }
    assert paths_of(net, {"deep": "encoder[5]"}) == {"deep": "encoder[5]"}


def test_shapley_shares_add_up_to_one(toy_pair, rng):
    images, shifted, masks = toy_pair
    shifted = shifted + 0.3 * rng.random(shifted.shape).astype(np.float32)
    spec = CarrySpec(paths=TOY, subsets=True, draws=50)
    table = carry(Toy(), images, shifted, masks, spec=spec).set_index("path")
    alone = table.loc[["skip", "deep"]]
    # of two players each gets half of what it adds alone and half of what it adds to the other
    assert alone["shapley"].sum() == pytest.approx(1)
    expected = (alone["share"] + 1 - alone["share"].to_numpy()[::-1]) / 2
    assert alone["shapley"].tolist() == pytest.approx(expected.tolist())


def test_loaders_of_any_batches_give_what_arrays_give(toy_pair):
    images, shifted, masks = toy_pair
    parts = [[array[:4], array[4:]] for array in (images, shifted)]
    whole = carry(Toy(), *toy_pair, spec=TOY_SPEC)
    assert carry(Toy(), *parts, masks, spec=TOY_SPEC).equals(whole)


def test_a_symmetric_network_shares_the_loss_equally(toy_pair, rng):
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Identity(), nn.Identity()
            self.head = nn.Conv2d(1, 1, 1)
            nn.init.ones_(self.head.weight)
            nn.init.constant_(self.head.bias, -1.0)

        def forward(self, images):
            return self.head(self.left(images) + self.right(images))

    images = toy_pair[0]
    masks = (2 * images[:, 0] > 1).astype(np.uint8)
    spec = CarrySpec(paths={"a": "left", "b": "right"}, subsets=True, draws=20)
    table = carry(Twins(), images, rng.permuted(images, axis=3), masks, spec=spec)
    table = table.set_index("path")
    assert table.loc["a", "share"] == table.loc["b", "share"]
    assert table.loc["a", "shapley"] == pytest.approx(0.5)


def test_zero_and_mean_are_the_network_with_the_path_ablated(toy_pair):
    images, shifted, masks = toy_pair
    for mode, level in (("zero", 0.0), ("mean", float(images.mean()))):
        spec = CarrySpec(paths=TOY, mode=mode, draws=20)
        table = carry(Toy(), images, shifted, masks, spec=spec).set_index("path")
        windows = images.reshape(6, 4, 2, 4, 2).mean((2, 4)).repeat(2, 1).repeat(2, 2)
        found = windows + level > 1
        expected = (found & (masks == 1)).sum() / (found | (masks == 1)).sum()
        assert table.loc["skip", "in_domain"] == pytest.approx(expected, abs=0.02)
        assert table.loc["skip", "in_domain"] == table.loc["skip", "iou"]


def test_quantiles_bring_an_affine_shift_of_other_images_back(rng):
    images = rng.random((2, 40, 1, 8, 8)).astype(np.float32)
    with torch.no_grad():
        masks = [labels_of(Toy()(torch.from_numpy(part))) for part in images]
    spec = CarrySpec(paths=TOY, mode="quantile", draws=20)
    table = carry(Toy(), images[0], 0.5 * images[1] + 0.1, tuple(masks), spec=spec)
    table = table.set_index("path")
    # what is left of the loss is the coarseness of quantiles of few values
    lost = 1 - table["iou"]
    assert lost["all"] < 0.1 * lost["none"]


def test_several_foreground_classes_are_averaged(toy_pair):
    images, shifted, masks = toy_pair
    net = Toy(classes=3)
    # class 2 is never found: half of the IoU of class 1 is left where masks have both
    nn.init.constant_(net.head.weight[0].data, 0.0)
    nn.init.constant_(net.head.bias[0].data, 0.0)
    nn.init.constant_(net.head.bias[2].data, -9.0)
    masks = masks.copy()
    masks[:, :, :2] = 2
    table = carry(net, images, shifted, masks, spec=TOY_SPEC).set_index("path")
    alone = carry(Toy(), images, shifted, masks % 2, spec=TOY_SPEC).set_index("path")
    assert table.loc["all", "iou"] == pytest.approx(alone.loc["all", "iou"] / 2)


def test_volumes_are_patched_as_images_are():
    net, _ = architectures.build("nnU-Net PlainConvUNet 3-D")
    rng = np.random.default_rng(0)
    volumes = rng.random((2, 2, 1, 16, 32, 32)).astype(np.float32)
    with torch.no_grad():
        masks = labels_of(logits_of(net(torch.from_numpy(volumes[0]))))
    table = carry(net, *volumes, masks, spec=FP32).set_index("path")
    assert table.index.tolist() == ["none", "L0", "L1", "bottleneck", "all"]
    assert table.loc["all", "iou"] == table.loc["all", "in_domain"] > table.loc["none", "iou"]


def test_a_shift_that_costs_nothing_has_no_shares(toy_pair):
    images, _, masks = toy_pair
    table = carry(Toy(), images, images, masks, spec=TOY_SPEC)
    assert table[["share", "low", "high"]].isna().all(axis=None)
    assert (table["iou"] == 1).all()


def test_one_group_has_no_interval(toy_pair):
    table = carry(Toy(), *toy_pair, groups=["a"] * 6, spec=TOY_SPEC)
    assert table["share"].notna().all()
    assert table[["low", "high"]].isna().all(axis=None)


def test_inference_mode_outside_does_not_matter(toy_pair):
    with torch.inference_mode():
        within = carry(Toy(), *toy_pair, spec=TOY_SPEC)
    assert within.equals(carry(Toy(), *toy_pair, spec=TOY_SPEC))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"shifted": 5}, "paired needs the same images in both sets, got 6 and 5; choose mode"),
        ({"masks": 5}, "the reference has 6 images and 5 masks"),
        ({"masks": np.zeros((6, 4, 4), np.uint8)}, r"the size of its images, \(8, 8\), got \(4, 4"),
        ({"masks": np.zeros((6, 8, 8))}, "uint8 class indices, got float64"),
        ({"masks": np.full((6, 8, 8), 7, np.uint8)}, "class indices below 2"),
        ({"groups": ["a", "b"]}, "groups of the reference must be one label per image, 6"),
        ({"reference": iter([])}, "reference must be an array or a loader that can be iterated"),
        ({"spec": CarrySpec(paths=("nearr",))}, r"path 'nearr': .*the nearest are near"),
        ({"spec": CarrySpec()}, "paths must be named for a Odd"),
        ({"spec": CarrySpec(paths={"all": "near"})}, "and none of them none or all"),
        ({"spec": CarrySpec(paths={"a": "spare"})}, "path a: its module did not run"),
        ({"spec": CarrySpec(paths={"a": "pair"})}, r"path a: must be a tensor .* got tuple"),
        ({"spec": CarrySpec(paths={f"{i}": "near" for i in range(11)}, subsets=True)}, "2048"),
    ],
)
def test_a_bad_argument_is_one_line(toy_pair, change, fault):
    class Odd(Toy):
        def __init__(self):
            super().__init__()
            self.spare, self.pair = nn.Identity(), Pair()

        def forward(self, images):
            return super().forward(self.pair(images)[0])

    class Pair(nn.Module):
        def forward(self, images):
            return images, images

    given = dict(zip(("reference", "shifted", "masks"), toy_pair, strict=True))
    given["spec"] = TOY_SPEC
    cut = {key: given[key][:n] for key, n in change.items() if isinstance(n, int)}
    with pytest.raises(ValueError, match=fault) as error:
        carry(Odd(), **{**given, **change, **cut})
    assert "\n" not in str(error.value)


def test_sides_that_the_network_cannot_take_are_named(net):
    images = np.zeros((1, 3, 50, 64), np.uint8)
    with pytest.raises(ValueError, match="multiples of 32, got 50 x 64"):
        carry(net, images, images, np.zeros((1, 50, 64), np.uint8))


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [({"mode": "swap"}, "mode must be one of paired, quantile"), ({"draws": 0}, "draws must be")],
)
def test_a_wrong_setting_is_named(wrong, fault):
    with pytest.raises(ValueError, match=fault):
        CarrySpec(**wrong)
