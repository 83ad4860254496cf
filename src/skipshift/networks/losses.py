"""The training loss: cross-entropy plus generalised Dice."""

import torch
from torch import Tensor
from torch.nn import functional


def segmentation_loss(
    logits: Tensor,
    masks: Tensor,
    cross_entropy: float = 1.0,
    dice: float = 1.0,
    ignore: int | None = None,
) -> Tensor:
    """Compute the weighted sum of pixel-wise cross-entropy and generalised Dice loss.

    Parameters
    ----------
    logits
        (N, C, H, W) of any float type; the loss is computed in float32.
    masks
        (N, H, W) int64 class indices.
    ignore
        Value of pixels of the masks that are left out.

    Returns
    -------
    A scalar, 0 if all pixels are left out.
    """
    kept = torch.ones_like(masks, dtype=torch.bool) if ignore is None else masks != ignore
    masks = masks.where(kept, 0)
    log_likely = functional.log_softmax(logits.float(), 1)
    entropy = functional.nll_loss(log_likely, masks, reduction="none")
    entropy = (entropy * kept).sum() / kept.sum().clamp(min=1)
    return cross_entropy * entropy + dice * generalised_dice(log_likely.exp(), masks, kept)


def generalised_dice(probabilities: Tensor, masks: Tensor, kept: Tensor | None = None) -> Tensor:
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
    kept
        (N, H, W) bool, False where a pixel is left out.

    Returns
    -------
    A scalar in [0, 1], 0 if all pixels are left out.
    """
    classes = probabilities.shape[1]
    truth = functional.one_hot(masks, classes).movedim(-1, 1).to(probabilities.dtype)
    if kept is not None:
        truth, probabilities = truth * kept[:, None], probabilities * kept[:, None]
    volume = truth.sum((0, 2, 3))
    present = volume > 0
    weight = volume.clamp(min=1).square().reciprocal()
    weight = weight.where(present, weight.where(present, 0).max())
    overlap = (weight * (truth * probabilities).sum((0, 2, 3))).sum()
    total = (weight * (volume + probabilities.sum((0, 2, 3)))).sum()
    # both are 0 where there is no pixel
    return (total - 2 * overlap) / total.clamp(min=torch.finfo(total.dtype).tiny)
