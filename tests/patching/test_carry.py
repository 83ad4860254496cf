from dataclasses import replace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import architectures
from control import DOWNSTREAM, carried
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

FP32 = CarrySpec(precision="fp32", activation="none")
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


FAST = {"MONAI UNet", "nnU-Net PlainConvUNet"}


@pytest.mark.parametrize(
    "name",
    [
        n if n in FAST or n.startswith("own") else pytest.param(n, marks=pytest.mark.slow)
        for n in (*architectures.CASES, *architectures.TRACED)
    ],
)
def test_noise_on_one_path_alone_is_its_share_and_no_other_ones(name):
    net, image = architectures.build(name)
    for path in paths_of(net, None, image):
        table = carried(name, path)
        assert table.loc["none", "iou"] < 1, path
        assert table.loc[[path, "all"], "share"].tolist() == [1, 1], path
        others = table.drop(index=["none", "all", path])
        if name not in DOWNSTREAM:
            assert (others["share"] == 0).all(), path
            assert (others["missing"] == 0).all(), path
            assert table.loc[path, "missing"] == 1


QUICK = [n for n in architectures.TRACED if n.startswith(("own", "MONAI"))]
REST = [pytest.param(n, marks=pytest.mark.slow) for n in architectures.TRACED if n not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *REST])
def test_paths_of_any_network_are_what_its_decoder_reads(name):
    net, image = architectures.build(name)
    assert " ".join(paths_of(net, None, image)) == architectures.TRACED[name][1]


def by_hand(net, images, shifted, masks, address):
    """Share by two plain forward passes and one hook."""
    kept = []
    with torch.no_grad(), hooked(net, {"p": address}, lambda _, value: kept.append(value.clone())):
        net(images)
    with torch.no_grad():
        none = labels_of(net(shifted))
        with hooked(net, {"p": address}, lambda *_: kept[0].clone()):
            patched = labels_of(net(shifted))
    iou = [(a & masks).sum() / (a | masks).sum() for a in (none, patched)]
    return (iou[1] - iou[0]) / (1 - iou[0])


@pytest.mark.parametrize("name", [n for n in architectures.TRACED if n.startswith("own")])
def test_a_share_is_that_of_two_plain_passes_and_a_hook(name):
    net, _ = architectures.build(name)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    last = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.out_channels == 2][-1]
    with torch.no_grad():
        logits = net(images)
        last.bias[0] += (logits[:, 1] - logits[:, 0]).median()
        masks = labels_of(net(images))
    shifted = 1 - images
    paths = paths_of(net, None, images)
    table = carry(net, images, shifted, masks, spec=FP32).set_index("path")
    shares = [by_hand(net, images, shifted, masks, address) for address in paths.values()]
    assert table.loc[list(paths), "share"].tolist() == pytest.approx(shares, abs=1e-3)
    assert table.loc["none", "in_domain"] == table.loc["all", "iou"]


def test_an_additional_reader_of_a_known_structure_is_named():
    class Wider(smp.Unet):
        def __init__(self):
            super().__init__("resnet18", encoder_weights=None, classes=2)
            self.extra = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return super().forward(x) + self.extra(x)

    images = np.random.default_rng(0).random((2, 3, 32, 32)).astype(np.float32)
    masks = (images[:, 0] > 0.5).astype(np.uint8)
    with pytest.raises(ValueError, match=r"all of L1.* the network also reads extra; give paths"):
        carry(Wider(), images, 1 - images, masks, spec=FP32)


def test_networks_are_left_as_they_were_found(toy_pair):
    net = nn.Sequential(nn.Dropout(), Toy())
    net[1].near.eval()
    net[1].far.weight.requires_grad_(False)
    net.train(True)[1].near.eval()
    state, modes = torch.get_rng_state(), [m.training for m in net.modules()]
    paths = {"skip": "1.near", "deep": "1.far"}
    carry(net, *toy_pair, spec=CarrySpec(paths=paths, precision="fp32"))
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not net[1].far.weight.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inputs_follow_the_type_of_the_weights(toy_pair, dtype):
    net = Toy().to(dtype)
    with torch.no_grad():
        masks = labels_of(net(torch.from_numpy(toy_pair[0]).to(dtype)))
    table = carry(net, *toy_pair[:2], masks, spec=TOY_SPEC).set_index("path")
    assert table["share"].tolist() == [0, 1, 0, 1]
    assert table.loc["none", "in_domain"] == 1


@pytest.mark.parametrize("subsets", [False, True])
def test_the_unpatched_sets_are_the_networks_own_in_bf16_too(net, images, subsets):
    spec = CarrySpec(precision="bf16", subsets=subsets)
    rough = carry(net, *images, spec=spec).set_index("path")
    exact = carry(net, *images, spec=FP32).set_index("path")
    for column in ("iou", "in_domain", "lost"):
        assert rough.loc["none", column] == exact.loc["none", column]
    assert rough.loc["all", "share"] == 1


@pytest.mark.filterwarnings("ignore:every pixel was predicted")
def test_zero_is_before_the_norm_that_follows():
    net, _ = architectures.build("own, skips as arguments")
    nn.init.constant_(net.d2.conv[1].bias, 2.0)
    images = np.random.default_rng(0).random((2, 3, 32, 32)).astype(np.float32)
    masks = (images[:, 0] > 0.5).astype(np.uint8)
    with torch.no_grad(), hooked(net, {"p": "d2.conv.0"}, lambda _, value: value * 0):
        found = labels_of(net(torch.from_numpy(images)))
    for precision in ("fp32", "bf16"):
        spec = CarrySpec(paths={"p": "d2.conv.0"}, mode="zero", precision=precision)
        table = carry(net, images, 1 - images, masks, spec=spec)
        expected = (found & masks).sum() / (found | masks).sum()
        assert table["in_domain"][1] == pytest.approx(
            expected, abs=0 if precision == "fp32" else 0.02
        )


@pytest.mark.filterwarnings("ignore:every pixel was predicted")
def test_a_way_that_costs_more_is_told_in_one_line(caplog):
    net, _ = architectures.build("own, maps in a kept object")
    images = np.random.default_rng(0).random((2, 3, 32, 32)).astype(np.float32)
    carry(net, images, 1 - images, (images[:, 0] > 0.5).astype(np.uint8), spec=FP32)
    assert [record.message for record in caplog.records] == [
        "this network hands tensors on unseen, so nothing is remembered: each row of the table "
        "takes a whole forward pass"
    ]


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_is_told_what_to_do(toy_pair):
    scripted = torch.jit.trace(Toy(), torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"a TorchScript network runs no hooks.*give the module"):
        carry(scripted, *toy_pair, spec=TOY_SPEC)


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


class Flat(nn.Conv2d):
    """A network of one size, without an encoder."""

    def __init__(self):
        super().__init__(1, 2, 1)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"shifted": 5}, "paired needs the same images in both sets, got 6 and 5; choose mode"),
        ({"masks": 5}, "the reference has 6 images and 5 masks"),
        ({"masks": np.zeros((6, 4, 4), np.uint8)}, r"the size of its images, \(8, 8\), got \(4, 4"),
        ({"masks": np.full((6, 8, 8), 0.5)}, r"whole numbers in 0..255, got 0\.5"),
        ({"masks": np.full((6, 8, 8), 7, np.uint8)}, "class indices below 2"),
        ({"groups": ["a", "b"]}, "groups of the reference must be one label per image, 6"),
        ({"reference": iter([])}, "reference must be an array or a loader that can be iterated"),
        ({"spec": CarrySpec(paths=("nearr",))}, r"path 'nearr': .*the nearest are near"),
        ({"net": Flat()}, "paths must be named for a Flat"),
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
    given |= {"net": Odd(), "spec": CarrySpec() if "net" in change else TOY_SPEC}
    cut = {key: given[key][:n] for key, n in change.items() if isinstance(n, int)}
    with pytest.raises(ValueError, match=fault) as error:
        carry(**{**given, **change, **cut})
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
