import numpy as np
import pytest
import torch
from torch.nn import functional

from skipshift.networks.losses import generalised_dice, segmentation_loss


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(2, 3, 16, 24, requires_grad=True), torch.randint(0, 3, (2, 16, 24))


def test_generalised_dice_equals_the_formula_of_sudre(batch):
    logits, masks = batch
    p = torch.softmax(logits, 1).detach().double().numpy()
    r = np.eye(3)[masks.numpy()].transpose(0, 3, 1, 2)
    w = [1 / r[:, c].sum() ** 2 for c in range(3)]
    top = sum(w[c] * (r[:, c] * p[:, c]).sum() for c in range(3))
    bottom = sum(w[c] * (r[:, c] + p[:, c]).sum() for c in range(3))
    ours = generalised_dice(torch.softmax(logits, 1), masks).item()
    assert ours == pytest.approx(1 - 2 * top / bottom, abs=1e-6)


def test_a_perfect_prediction_costs_nothing_and_the_opposite_everything():
    masks = torch.randint(0, 2, (2, 8, 8))
    truth = functional.one_hot(masks, 2).movedim(-1, 1).float()
    assert generalised_dice(truth, masks).item() == pytest.approx(0, abs=1e-6)
    assert generalised_dice(1 - truth, masks).item() == pytest.approx(1)


def test_a_class_that_the_batch_lacks_leaves_a_finite_gradient(batch):
    logits, masks = batch
    segmentation_loss(logits, masks.clamp(max=1)).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 2] > 0).all()


def test_the_loss_is_the_weighted_sum_of_its_parts(batch):
    logits, masks = batch
    entropy = functional.cross_entropy(logits, masks)
    dice = generalised_dice(torch.softmax(logits, 1), masks)
    assert torch.allclose(segmentation_loss(logits, masks, 2, 0.5), 2 * entropy + 0.5 * dice)


def test_a_pixel_that_is_left_out_is_as_if_it_were_not_there(batch):
    logits, masks = batch
    masks[..., 16:] = 255
    loss = segmentation_loss(logits, masks, ignore=255)
    assert loss.item() == pytest.approx(
        segmentation_loss(logits[..., :16], masks[..., :16]).item(), abs=1e-6
    )
    entropy = functional.cross_entropy(logits, masks, ignore_index=255)
    assert torch.allclose(segmentation_loss(logits, masks, 1, 0, 255), entropy)
    loss.backward()
    assert (logits.grad[..., 16:] == 0).all()
    assert (logits.grad[..., :16] != 0).all()


def test_a_batch_of_nothing_that_counts_costs_nothing(batch):
    logits, masks = batch
    loss = segmentation_loss(logits, torch.full_like(masks, 255), ignore=255)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()
