"""A small U-net of an unknown class that is right on its reference, and images to shift."""

import numpy as np
import torch
from torch import nn


class ToyUnet(nn.Module):
    """Two convolutions down, one up with a skip; a bright pixel is foreground."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        # a border of zeros would not be scaled with the images
        same = {"padding": 1, "padding_mode": "reflect"}
        self.first = nn.Conv2d(3, 4, 3, **same)
        self.norm = norm(4)
        self.deep = nn.Sequential(nn.Conv2d(4, 6, 3, 2, **same), norm(6), nn.ReLU())
        self.join = nn.Sequential(nn.Conv2d(10, 6, 3, **same), norm(6), nn.ReLU())
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, images):
        near = self.norm(self.first(images)).relu()
        far = nn.functional.interpolate(self.deep(near), scale_factor=2.0)
        return self.head(self.join(torch.cat([near, far], 1)))


def toy_net(images, norm=nn.BatchNorm2d):
    """A network whose batch norms know the images (N, 3, H, W) float."""
    torch.manual_seed(0)
    return informed(ToyUnet(norm), images)


def informed(net, images):
    """Let the batch norms of a network know the images, and half of their pixels be foreground."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        net.train()(images)
        net.eval()
        apart = net(images).diff(dim=1)
        net.head.bias[1] -= apart.median()
    return net


def toy_images(number=12, side=32, seed=0):
    """Smooth colour images (N, 3, H, W) uint8 within [40, 200]."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(40, 200, (number, 3, side // 4, side // 4)))
    smooth = nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return smooth.round().to(torch.uint8).numpy()


def labels(net, images):
    """What the network predicts: masks by which it is always right."""
    with torch.no_grad():
        return net(torch.from_numpy(images).float() / 255).argmax(1).to(torch.uint8).numpy()
