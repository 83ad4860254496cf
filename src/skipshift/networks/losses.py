"""The training loss: cross-entropy plus generalised Dice."""

from torch import Tensor
from torch.nn import functional


def segmentation_loss(
    logits: Tensor, masks: Tensor, cross_entropy: float = 1.0, dice: float = 1.0
) -> Tensor:
    """Compute the weighted sum of pixel-wise cross-entropy and generalised Dice loss.

    Parameters
    ----------
    logits
        (N, C, H, W) of any float type; the loss is computed in float32.
    masks
        (N, H, W) int64 class indices.

    Returns
    -------
    A scalar.
    """
    log_likely = functional.log_softmax(logits.float(), 1)
    entropy = functional.nll_loss(log_likely, masks)
    return cross_entropy * entropy + dice * generalised_dice(log_likely.exp(), masks)


def generalised_dice(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Compute the generalised Dice loss, 1 - 2 sum_c w_c |R P| / sum_c w_c (|R| + |P|).

    The weight of a class is the inverse of its squared volume, w_c = 1 / (sum r)^2. A class that
    is absent from the batch gets the largest weight of those present, as its own would be infinite.
    Source: Sudre et al. 2017, "Generalised Dice overlap as a deep learning loss function for
    highly unbalanced segmentations".

    Parameters
    ----------
    probabilities
        (N, C, H, W), summing to 1 over C.
    masks
        (N, H, W) int64 class indices.

    Returns
    -------
    A scalar in [0, 1].
    """
    classes = probabilities.shape[1]
    truth = functional.one_hot(masks, classes).movedim(-1, 1).to(probabilities.dtype)
    volume = truth.sum((0, 2, 3))
    present = volume > 0
    weight = volume.clamp(min=1).square().reciprocal()
    weight = weight.where(present, weight[present].max())
    overlap = (weight * (truth * probabilities).sum((0, 2, 3))).sum()
    total = (weight * (volume + probabilities.sum((0, 2, 3)))).sum()
    return 1 - 2 * overlap / total
