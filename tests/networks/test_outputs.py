"""What networks return, as logits: which output, which activation, and what is refused."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from monai.networks.nets import BasicUNetPlusPlus
from torch import nn
from torch.nn import functional
from torchvision.models.segmentation import fcn_resnet50

from skipshift.data.manifest import Case
from skipshift.errors import SkipshiftWarning
from skipshift.networks.inference import fast_copy, labels_of, probabilities_of
from skipshift.networks.outputs import find_output, giving_logits
from skipshift.patching.carry import carry
from skipshift.specs import CarrySpec, EvaluationSpec
from skipshift.study.evaluation import class_names, evaluate, settle_output

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
FP32 = CarrySpec(precision="fp32")
IN_0_1 = "lies in \\[0, 1\\]"


class Answer(nn.Module):
    """Applies a function to the logits of a convolution."""

    def __init__(self, answer, classes=2):
        super().__init__()
        torch.manual_seed(0)
        self.logits, self.answer = nn.Conv2d(3, classes, 3, padding=1), answer

    def forward(self, images):
        return self.answer(self.logits(images - 0.5))


@dataclass
class Answers:
    features: torch.Tensor
    mask: torch.Tensor


def given(net, images=IMAGES, **how):
    """Logits of a network, and those of its own convolution."""
    with torch.no_grad():
        output = find_output(net, images, **how)
        with giving_logits(net, output):
            return net(images), net.logits(images - 0.5)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: {"out": x, "aux": -x},
        lambda x: {"features": x.repeat(1, 4, 1, 1), "out": x},
        lambda x: {"loss": None, "logits": x, "hidden_states": (-x, -x)},
        lambda x: [x, x[..., ::2, ::2], x[..., ::4, ::4]],
        lambda x: (x, x.mean((2, 3))),
        lambda x: [x.repeat(1, 4, 1, 1), x],
        lambda x: Answers(x.repeat(1, 4, 1, 1), x),
    ],
    ids=["torchvision", "features", "transformers", "nnunet", "smp", "list", "dataclass"],
)
def test_the_logits_are_found_among_several_outputs(answer):
    logits, expected = given(Answer(answer), classes=2)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("deep", [True, False])
def test_of_basic_unet_plus_plus_the_last_head_is_taken(deep):
    net = BasicUNetPlusPlus(2, 3, 2, features=(8,) * 6, deep_supervision=deep).eval()
    with torch.no_grad():
        expected = net(IMAGES)[-1]
        with giving_logits(net, find_output(net, IMAGES)):
            assert torch.equal(net(IMAGES), expected)


def test_of_torchvision_out_is_taken_and_not_the_auxiliary_head():
    net = fcn_resnet50(weights=None, weights_backbone=None, num_classes=2, aux_loss=True).eval()
    assert find_output(net, IMAGES).name == "out"


def test_small_logits_of_transformers_are_interpolated_as_its_postprocessing_does():
    logits, whole = given(Answer(lambda x: {"logits": x[..., ::4, ::4]}))
    expected = functional.interpolate(whole[..., ::4, ::4], (32, 32), mode="bilinear")
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("name", ["1", "-1"])
def test_an_output_is_named_by_index(name):
    logits, expected = given(Answer(lambda x: [-x, x]), name=name)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize(
    ("answer", "how", "message"),
    [
        (lambda x: {"a": x, "b": x}, {}, r"output must be named: .* a \(2, 2, 32, 32\), b"),
        (lambda x: [x, x], {"name": "2"}, r"no output '2'; it has 0 \(2, 2, 32, 32\), 1"),
        (lambda x: x[..., ::2, ::2], {}, "maps of 16 x 16 for images of 32 x 32; its output"),
        (lambda x: x.argmax(1), {}, r"must give logits \(N, classes, 32 x 32\), got torch.int64"),
        (lambda _: "text", {}, "must give logits .*, got no tensor"),
        (lambda x: x, {"activation": "sigmoid"}, r"sigmoid gives values in \[0, 1\], .*\[-"),
        (lambda x: x.sigmoid(), {"activation": "softmax"}, "do not; give sigmoid"),
    ],
)
def test_what_cannot_be_told_is_refused(answer, how, message):
    with pytest.raises(ValueError, match=message):
        find_output(Answer(answer), IMAGES, **how)


@pytest.mark.parametrize("last", [nn.Sigmoid(), torch.sigmoid])
def test_one_sigmoid_is_foreground_above_a_half(last):
    with pytest.warns(SkipshiftWarning, match=f"{IN_0_1}: its channel is taken as probabilities"):
        logits, expected = given(Answer(last, classes=1))
    assert np.array_equal(labels_of(logits), (expected[:, 0].sigmoid() > 0.5).numpy())
    np.testing.assert_allclose(probabilities_of(logits)[:, 1], expected[:, 0].sigmoid(), atol=1e-6)


@pytest.mark.parametrize("last", [nn.Softmax(1), lambda x: x.softmax(1)])
def test_a_softmax_is_not_taken_twice(last):
    logits, expected = given(Answer(last, classes=3))
    np.testing.assert_allclose(probabilities_of(logits), expected.softmax(1), atol=1e-6)


def test_two_sigmoids_of_two_classes_are_background_and_foreground():
    with pytest.warns(SkipshiftWarning, match="of which the first is the background's"):
        logits, expected = given(Answer(nn.Sigmoid()), classes=2)
    assert np.array_equal(labels_of(logits), (expected[:, 1] > 0).numpy())


def test_two_sigmoids_of_three_classes_leave_out_the_background():
    with pytest.warns(SkipshiftWarning, match="its 2 channels are taken as probabilities, with"):
        logits, expected = given(Answer(nn.Sigmoid()), classes=3)
    own = np.where((expected > 0).any(1), expected.argmax(1) + 1, 0)
    assert np.array_equal(labels_of(logits), own)


def test_logits_that_lie_in_0_1_by_chance_are_logits():
    net = Answer(lambda x: 0.5 + 0.1 * x, classes=1)
    assert find_output(net, IMAGES).activation == "none"


def test_an_activation_that_is_told_needs_no_note():
    assert (
        find_output(Answer(nn.Sigmoid(), 1), IMAGES, activation="sigmoid").activation == "sigmoid"
    )
    logits, expected = given(Answer(nn.Sigmoid(), 1), activation="none")
    assert torch.equal(logits, expected.sigmoid())


def test_a_copy_for_inference_gives_logits_too():
    net = Answer(nn.Sigmoid(), 1)
    with giving_logits(net, find_output(net, IMAGES, activation="sigmoid")):
        fast, expected = fast_copy(net, IMAGES, "fp32"), net(IMAGES)
    assert torch.allclose(fast(IMAGES), expected, atol=1e-6)
    assert float(net(IMAGES).detach().min()) >= 0


@pytest.mark.parametrize("classes", [1, 2])
def test_a_network_that_ends_in_a_sigmoid_scores_as_the_one_before_it(rng, classes):
    nets = [
        smp.Unet("resnet18", encoder_weights=None, classes=classes, activation=last).eval()
        for last in (None, "sigmoid")
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    images = rng.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    masks = (images.mean(1) > 127).astype(np.uint8)
    with torch.no_grad():
        found = nets[1](torch.from_numpy(images // 2 / np.float32(255)))[:, -1].numpy() > 0.5
    expected = (found & (masks == 1)).sum() / (found | (masks == 1)).sum()
    with pytest.warns(SkipshiftWarning, match=IN_0_1):
        table = carry(nets[1], images, images // 2, masks, spec=FP32)
    assert table.loc[0, "iou"] == pytest.approx(expected)
    cases = [Case("a", "original", "a", np.moveaxis(images[0] // 2, 0, -1), masks[0])]
    with pytest.warns(SkipshiftWarning, match=IN_0_1):
        counts = evaluate(nets[1], cases, ("ground", "cell"), EvaluationSpec(precision="fp32"))
    assert counts["tp"].tolist()[1] == (found[0] & (masks[0] == 1)).sum()


def test_what_is_found_once_is_settled_for_every_process(rng):
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    case = Case("a", "original", "a", image, image[..., 0] // 128)
    net = Answer(lambda x: {"features": x, "seg": x.sigmoid()})
    spec = EvaluationSpec(output="seg")
    with pytest.warns(SkipshiftWarning, match=IN_0_1):
        spec = settle_output(net, case, spec, ("a", "b", "c"))
    assert (spec.output, spec.activation) == ("seg", "sigmoid")
    assert class_names(net, Path("none"), case, spec, ("a", "b", "c")) == ("a", "b", "c")


def test_a_prediction_of_one_class_is_warned_of(rng):
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    cases = [Case(str(i), "original", str(i), x, x[..., 0] // 128) for i, x in enumerate(images)]
    net = Answer(lambda x: torch.cat([x, x + 1], 1), classes=1)
    with pytest.warns(SkipshiftWarning, match="every pixel was predicted to be of class 1"):
        evaluate(net, cases, ("a", "b"))


@pytest.mark.parametrize("spec", [CarrySpec, EvaluationSpec])
def test_an_unknown_activation_is_named(spec):
    with pytest.raises(ValueError, match="activation: unknown activation relu; choose from auto"):
        spec(activation="relu")
