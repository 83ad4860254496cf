"""The planted control of activation patching: noise on one path of a network, and nowhere else."""

import torch
from torch import nn

import architectures
from skipshift.networks.hooks import hooked
from skipshift.networks.inference import labels_of, logits_of
from skipshift.patching.carry import carry
from skipshift.patching.paths import paths_of
from skipshift.specs import CarrySpec


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


def carried(name, path, number=3):
    """Table of a network of `architectures` whose shifted images have noise on one path."""
    net, image = architectures.build(name)
    torch.manual_seed(1)
    images = torch.rand(number, *image.shape[1:])
    flags = torch.ones_like(images[:, :1])
    clean, noisy = torch.cat([images, 0 * flags], 1), torch.cat([images, flags], 1)
    paths = paths_of(net, None, image)
    within = {p: ">".join(f"net.{part}" for part in a.split(">")) for p, a in paths.items()}
    wrapped = Noisy(net, path, paths[path], images)
    with torch.no_grad():
        masks = labels_of(wrapped(clean))
    spec = CarrySpec(paths=within, precision="fp32", activation="none")
    return carry(wrapped, clean, noisy, masks, spec=spec).set_index("path")
