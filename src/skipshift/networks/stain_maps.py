"""Stain normalisation of RGB images by torchstain, from what it knows of a reference."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.extras import load_extra


class Reinhard(nn.Module):
    """Give each image the mean and spread of a reference in Lab colours (Reinhard et al. 2001).

    ``mean`` and ``std`` (3,) are those of the reference, as torchstain has them. `ArgumentError`
    for an image of one colour.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def fitted(cls, pixels: Tensor) -> Self:
        """Fit to pixels (M, 3) in [0, 1] of a reference."""
        normaliser = _torchstain("TorchReinhardNormalizer")
        normaliser.fit(_as_image(pixels))
        return cls(normaliser.target_means, normaliser.target_stds)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) in [0, 1]; the new values are multiples of 1 / 255."""
        normaliser = _torchstain("TorchReinhardNormalizer")
        normaliser.target_means, normaliser.target_stds = self.mean.cpu(), self.std.cpu()
        return _each(images, normaliser.normalize)


class Macenko(nn.Module):
    """Give the two stains of each image those of a reference (Macenko et al. 2009).

    ``stains`` (3, 2) and their largest concentrations ``most`` (2,) are those of the reference, as
    torchstain has them. `ArgumentError` for an image in which two stains cannot be told.
    """

    stains: Tensor
    most: Tensor

    def __init__(self, stains: Tensor, most: Tensor) -> None:
        super().__init__()
        self.register_buffer("stains", stains)
        self.register_buffer("most", most)

    @classmethod
    def fitted(cls, pixels: Tensor) -> Self:
        """Fit to pixels (M, 3) in [0, 1] of a reference; `ArgumentError` as above."""
        normaliser = _torchstain("TorchMacenkoNormalizer")
        try:
            normaliser.fit(_as_image(pixels))
        except (RuntimeError, IndexError):
            raise ArgumentError(f"the reference {_UNSTAINED}") from None
        if not normaliser.HERef.isfinite().all() or not (normaliser.maxCRef > 0).all():
            raise ArgumentError(f"the reference {_UNSTAINED}")
        return cls(normaliser.HERef, normaliser.maxCRef)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) in [0, 1]; the new values are multiples of 1 / 255."""
        normaliser = _torchstain("TorchMacenkoNormalizer")
        normaliser.HERef, normaliser.maxCRef = self.stains.cpu(), self.most.cpu()

        def mapped(image: Tensor) -> Tensor:
            try:
                normalised: Tensor = normaliser.normalize(image, stains=False)[0]
            except (RuntimeError, IndexError):
                raise ArgumentError(f"an image {_UNSTAINED}") from None
            # what is not a number becomes a negative one as an integer
            if normalised.min() < 0:
                raise ArgumentError(f"an image {_UNSTAINED}")
            return normalised

        return _each(images, mapped)


_UNSTAINED = "has too little stained tissue, so that two stains cannot be told"


def _torchstain(name: str) -> Any:
    return getattr(load_extra("torchstain.torch.normalizers", "stain"), name)()


def _as_image(pixels: Tensor) -> Tensor:
    """Pixels (M, 3) in [0, 1] as one image (3, M, 1) in [0, 255]."""
    return (pixels.cpu().float() * 255).T.unsqueeze(-1)


def _each(images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    levels = (images.cpu().float() * 255).clamp(0, 255)
    low, high = levels.flatten(2).aminmax(dim=2)
    if (low == high).all(1).any():
        raise ArgumentError("an image of one colour has no stain to be matched")
    # torchstain takes channels first and gives them last
    return torch.stack([function(image) for image in levels]).movedim(-1, 1).to(images) / 255
