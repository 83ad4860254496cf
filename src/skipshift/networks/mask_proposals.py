"""Mask proposals for mitotic figures, predicted by a network."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from skipshift.data.images import Pixels
from skipshift.data.prepare.point_patches import Propose
from skipshift.data.prepare.stains import middle_parts
from skipshift.data.preprocess import Preprocess, prepare, preprocess_of
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.networks.checkpoints import load_net
from skipshift.networks.inference import best_device, labels_of, run
from skipshift.networks.outputs import Output, find_output, giving_logits


def load_proposer(source: Path, builder: str | None, preprocess: str) -> Propose:
    """Load a network and make it propose masks of preprocessed images."""
    function = preprocess_of(preprocess)
    return proposer(load_net(source, builder, preprocess), function)


def proposer(net: nn.Module, preprocess: Preprocess) -> Propose:
    """Return a function that proposes the mask of a patch: the central components of class 1.

    The network takes (1, 3, H, W). The function raises `SkipshiftError` if the network does not
    take the patch, or does not return logits of its size.
    """
    net = net.to(best_device()).eval()
    device = next(net.parameters()).device
    found: list[Output] = []

    def propose(image: Pixels, mpp: float) -> Pixels:
        batch = torch.from_numpy(prepare(image[None], preprocess)).to(device)
        with torch.inference_mode():
            try:
                output = found[0] if found else find_output(net, batch, classes=2)
                with giving_logits(net, output):
                    labels = labels_of(run(net, batch))
            except ArgumentError as error:
                raise SkipshiftError(f"proposals: {error}; choose another network") from None
        found[:] = [output]
        return middle_parts(labels[0] == 1, mpp).astype(np.uint8)

    return propose
