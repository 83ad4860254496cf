"""Calibration shifts: known changes of the reference's images, on which an estimate is calibrated.

They act on what the network takes, scaled so that the reference's values fill [0, 1], so that any
preprocessing, bit depth and number of channels will do. Amounts run from hardly seen to severe.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from skipshift.networks.changes import resize

Change = Callable[[Tensor, float], Tensor]
"""Images (N, C, *sides) in [0, 1] and an amount -> changed images, before they are clipped."""


@dataclass(frozen=True)
class Kind:
    """One kind of calibration shift."""

    family: str
    """Kinds of one family change the same thing: what is judged on one is not fitted on another."""

    change: Change
    amounts: tuple[float, float, float]
    colour: bool = False
    """Whether it needs three channels."""

    moves: bool = False
    """Whether it moves pixels, so that masks change alike."""


def _scaled(images: Tensor, factor: float) -> Tensor:
    return images * factor


def _raised(images: Tensor, amount: float) -> Tensor:
    return images + amount


def _power(images: Tensor, exponent: float) -> Tensor:
    return images**exponent


def _about_mean(images: Tensor, factor: float) -> Tensor:
    mean = images.mean(tuple(range(1, images.ndim)), keepdim=True)
    return mean + factor * (images - mean)


def _inverted(images: Tensor, amount: float) -> Tensor:
    return (1 - amount) * images + amount * (1 - images)


def _saturated(images: Tensor, factor: float) -> Tensor:
    grey = images.mean(1, keepdim=True)
    return grey + factor * (images - grey)


def _tinted(images: Tensor, amount: float) -> Tensor:
    steps = torch.linspace(1 - amount, 1 + amount, images.shape[1], device=images.device)
    return images * steps.reshape(-1, *[1] * (images.ndim - 2))


def _turned_hues(images: Tensor, amount: float) -> Tensor:
    return (1 - amount) * images + amount * images.roll(1, 1)


def _blurred(images: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(3 * sigma))
    line = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (line / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis in range(2, images.ndim):
        flat = images.movedim(axis, -1)
        shape = flat.shape
        padded = functional.pad(flat.reshape(-1, 1, shape[-1]), (reach, reach), mode="replicate")
        flat = functional.conv1d(padded, kernel[None, None]).reshape(shape)
        images = flat.movedim(-1, axis)
    return images


def _sharpened(images: Tensor, amount: float) -> Tensor:
    return images + amount * (images - _blurred(images, 1.0))


def _coarse(images: Tensor, factor: float) -> Tensor:
    sides = images.shape[2:]
    fewer = [max(1, round(side / factor)) for side in sides]
    return resize(functional.interpolate(images, fewer, mode="area"), sides)


def _noisy(images: Tensor, sigma: float) -> Tensor:
    return images + sigma * _normal(images)


def _speckled(images: Tensor, sigma: float) -> Tensor:
    return images * (1 + sigma * _normal(images))


def _levels(images: Tensor, number: float) -> Tensor:
    return (images * number).floor().clamp(max=number - 1) / (number - 1)


def _sloping(images: Tensor, amount: float) -> Tensor:
    slope = torch.linspace(1 - amount, 1 + amount, images.shape[-1], device=images.device)
    return images * slope


def _vignette(images: Tensor, amount: float) -> Tensor:
    lines = [torch.linspace(-1, 1, side, device=images.device) for side in images.shape[2:]]
    radius = sum(line**2 for line in torch.meshgrid(*lines, indexing="ij"))
    return images * (1 - amount * radius / len(lines))


def zoomed(images: Tensor, factor: float, nearest: bool = False) -> Tensor:
    """Enlarge about the centre, or shrink and repeat the image at its borders as in a mirror."""
    axes = [torch.linspace(-1, 1, side, device=images.device) for side in images.shape[2:]]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1) / factor
    grid = places.expand(len(images), *places.shape)
    mode = "nearest" if nearest else "bilinear"
    return functional.grid_sample(
        images, grid, mode=mode, padding_mode="reflection", align_corners=True
    )


def _normal(images: Tensor) -> Tensor:
    """Noise that is the same for the same number and size of images."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(images.shape, generator=rng).to(images)


FAMILIES = {"brightness": "level", "contrast": "contrast", "saturation": "colour"}
"""Family of calibration shifts that a shift of the paper is of, so that it can be left out."""


@dataclass(frozen=True)
class Shift:
    """A kind of calibration shift of one amount, for images of a value range."""

    name: str
    amount: float
    low: float
    high: float

    def images(self, images: Tensor) -> Tensor:
        """Change images (N, C, *sides); their values stay within the range."""
        span = max(self.high - self.low, 1e-12)
        unit = ((images - self.low) / span).clamp(0, 1)
        changed = KINDS[self.name].change(unit, self.amount).clamp(0, 1)
        return (self.low + span * changed).to(images.dtype)

    def masks(self, masks: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Move masks (N, *sides) as the images are moved."""
        if not KINDS[self.name].moves:
            return masks
        moved = zoomed(torch.from_numpy(masks[:, None]).float(), self.amount, nearest=True)
        return moved[:, 0].numpy().astype(np.uint8)


KINDS: Mapping[str, Kind] = {
    "darker": Kind("level", _scaled, (0.9, 0.75, 0.5)),
    "brighter": Kind("level", _scaled, (1.1, 1.3, 1.7)),
    "raised": Kind("level", _raised, (0.05, 0.12, 0.25)),
    "lowered": Kind("level", _raised, (-0.05, -0.12, -0.25)),
    "gamma above 1": Kind("level", _power, (1.2, 1.5, 2.2)),
    "gamma below 1": Kind("level", _power, (0.85, 0.65, 0.45)),
    "less contrast": Kind("contrast", _about_mean, (0.85, 0.65, 0.4)),
    "more contrast": Kind("contrast", _about_mean, (1.2, 1.5, 2.0)),
    "inverted": Kind("contrast", _inverted, (0.15, 0.4, 1.0)),
    "less saturation": Kind("colour", _saturated, (0.75, 0.4, 0.0), colour=True),
    "more saturation": Kind("colour", _saturated, (1.3, 1.7, 2.5), colour=True),
    "warmer": Kind("colour", _tinted, (-0.1, -0.25, -0.5), colour=True),
    "colder": Kind("colour", _tinted, (0.1, 0.25, 0.5), colour=True),
    "other hues": Kind("colour", _turned_hues, (0.2, 0.5, 1.0), colour=True),
    "blurred": Kind("sharpness", _blurred, (0.7, 1.2, 2.5)),
    "sharpened": Kind("sharpness", _sharpened, (0.5, 1.5, 4.0)),
    "coarse": Kind("sharpness", _coarse, (1.5, 2.5, 4.0)),
    "noise": Kind("noise", _noisy, (0.02, 0.06, 0.15)),
    "speckle": Kind("noise", _speckled, (0.05, 0.15, 0.35)),
    "few grey levels": Kind("levels", _levels, (24.0, 10.0, 4.0)),
    "slope": Kind("field", _sloping, (0.1, 0.25, 0.5)),
    "vignette": Kind("field", _vignette, (0.2, 0.4, 0.8)),
    "larger": Kind("size", zoomed, (1.15, 1.5, 2.0), moves=True),
    "smaller": Kind("size", zoomed, (0.87, 0.67, 0.5), moves=True),
}  # fmt: skip
"""Kinds of calibration shift by name."""


def calibration_shifts(low: float, high: float, channels: int) -> list[Shift]:
    """List all shifts for images whose values lie in [low, high]; colour needs three channels."""
    return [
        Shift(name, amount, low, high)
        for name, kind in KINDS.items()
        for amount in kind.amounts
        if channels == 3 or not kind.colour
    ]
