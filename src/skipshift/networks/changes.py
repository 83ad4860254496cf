"""Changes of a network: maps of its input or of its feature maps, and replaced weights."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from skipshift.networks.hooks import hooked
from skipshift.networks.inference import logits_of
from skipshift.networks.outputs import Output, giving_logits
from skipshift.networks.quantile_map import QuantileMap, quantiles_of
from skipshift.networks.stain_maps import Macenko, Reinhard


class Affine(nn.Module):
    """Scale and offset of each channel: ``scale`` and ``offset`` (D,), or (1,) for all alike."""

    scale: Tensor
    offset: Tensor

    def __init__(self, scale: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(self, values: Tensor) -> Tensor:
        """Map a batch (N, D, ...)."""
        return values * _wide(self.scale, values) + _wide(self.offset, values)


class Gamma(nn.Module):
    """Power law within a range of values: ``low + width ((x - low) / width)^exponent``."""

    def __init__(self, exponent: float, low: float, high: float) -> None:
        super().__init__()
        self.exponent, self.low, self.high = exponent, low, high

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, ...); values outside the range stay as they are."""
        width = self.high - self.low
        bent = ((images - self.low) / width).clamp(0, 1) ** self.exponent * width + self.low
        inside = (images > self.low) & (images < self.high)
        mapped: Tensor = torch.where(inside, bent, images)
        return mapped


class ImageMoments(nn.Module):
    """Give each channel of each image a mean and standard deviation (C,), those of the reference.

    0 and 1 are the z-score. A constant channel gets the mean.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, ...)."""
        axes = tuple(range(2, images.ndim))
        std, mean = torch.std_mean(images, axes, correction=0, keepdim=True)
        levels = (images - mean) / torch.where(std > 0, std, 1)
        return levels * _wide(self.std, images) + _wide(self.mean, images)


class ImageRange(nn.Module):
    """Rescale each image, all channels together, to the range from ``low`` to ``high``."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, ...); a constant image becomes ``low``."""
        low, high = images.flatten(1).aminmax(dim=1)
        width: Tensor = torch.where(high > low, high - low, 1)
        shares: Tensor = (images - _per_image(low, images)) / _per_image(width, images)
        return shares * (self.high - self.low) + self.low


class ImageHistogram(nn.Module):
    """Match the histogram of each channel of each image to quantiles (C, K) of the reference."""

    desired: Tensor

    def __init__(self, desired: Tensor) -> None:
        super().__init__()
        self.register_buffer("desired", desired)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, ...)."""
        desired = self.desired.to(images.device, torch.float32)

        def matched(image: Tensor) -> Tensor:
            own = quantiles_of(image.flatten(1).T.float())
            mapped: Tensor = QuantileMap(own, desired)(image[None])[0]
            return mapped

        return torch.stack([matched(image) for image in images])


class Channels(nn.Module):
    """Put channels into another order."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = tuple(order)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, ...)."""
        return images[:, list(self.order)]


class Axes(nn.Module):
    """Turn and flip images: permute their sides, then flip some of them.

    Predictions are turned back, so that they lie on the images as they were given.
    """

    def __init__(self, order: tuple[int, ...], flips: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.order, self.flips = tuple(order), tuple(flips)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (N, C, ...)."""
        turned = images.permute(0, 1, *(2 + side for side in self.order))
        return turned.flip([2 + side for side in self.flips]).contiguous()

    def back(self, logits: Tensor) -> Tensor:
        """Turn logits back."""
        flipped = logits.flip([2 + side for side in self.flips])
        places = [self.order.index(side) for side in range(len(self.order))]
        return flipped.permute(0, 1, *(2 + place for place in places)).contiguous()


class Resampled(nn.Module):
    """Resample images by a factor, and the logits back: undoes a spacing that is off.

    Sides are rounded to multiples of ``multiple``, which the network needs. A factor for each side,
    or one for all.
    """

    def __init__(self, factor: float | Sequence[float], multiple: int = 32) -> None:
        super().__init__()
        self.factor = tuple(factor) if isinstance(factor, Sequence) else factor
        self.multiple = multiple
        self._sides: tuple[int, ...] = ()

    def sides(self, given: Sequence[int]) -> tuple[int, ...]:
        """Sides of resampled images; a side of factor 1 stays as it is."""
        factors = self.factor if isinstance(self.factor, tuple) else (self.factor,) * len(given)
        return tuple(
            side if factor == 1 else max(1, round(side * factor / self.multiple)) * self.multiple
            for side, factor in zip(given, factors, strict=True)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Resample images (N, C, ...)."""
        self._sides = tuple(images.shape[2:])
        return resize(images, self.sides(self._sides))

    def back(self, logits: Tensor) -> Tensor:
        """Resample logits to the size of the images."""
        return resize(logits, self._sides)


class MeanOverFlips(nn.Module):
    """Average the logits over all flips of each image (test-time augmentation)."""

    def __init__(self, sides: int) -> None:
        super().__init__()
        self.sides = sides

    def _flips(self) -> list[list[int]]:
        return [
            [2 + s for s in range(self.sides) if code >> s & 1] for code in range(2**self.sides)
        ]

    def forward(self, images: Tensor) -> Tensor:
        """All flips of all images, (2^sides N, C, ...)."""
        return torch.cat([images.flip(axes) for axes in self._flips()])

    def back(self, logits: Tensor) -> Tensor:
        """Mean of the logits, flipped back."""
        parts = logits.chunk(2**self.sides)
        flipped = [part.flip(axes) for part, axes in zip(parts, self._flips(), strict=True)]
        return torch.stack(flipped).mean(0)


MAPS: Mapping[str, Callable[..., nn.Module]] = {
    kind.__name__: kind
    for kind in (
        Affine, Gamma, ImageMoments, ImageRange, ImageHistogram, Channels, Axes, Resampled,
        MeanOverFlips, QuantileMap, Reinhard, Macenko,
    )
}  # fmt: skip
"""Maps by name. Each can be made again from the arguments that it keeps as attributes."""


@dataclass(frozen=True)
class Change:
    """What a remedy does to a network."""

    inputs: tuple[nn.Module, ...] = ()
    """Maps of the images, in this order; those that move pixels move the logits back."""

    maps: Mapping[str, nn.Module] = field(default_factory=dict)
    """Address of a feature map -> the map that it goes through."""

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Parameters and buffers to replace, by their names in the state dict."""

    @property
    def parameters(self) -> int:
        """How many numbers the change consists of."""
        parts = (*self.inputs, *self.maps.values())
        values = [value for part in parts for value in arguments(part).values()]
        tensors = [v for v in (*values, *self.weights.values()) if isinstance(v, Tensor)]
        return sum(t.numel() for t in tensors) + sum(isinstance(v, float) for v in values)

    def then(self, other: "Change") -> "Change":
        """Join a change with one that was fitted behind it, at another place."""
        return Change(
            (*self.inputs, *other.inputs),
            {**self.maps, **other.maps},
            {**self.weights, **other.weights},
        )

    def images(self, images: Tensor) -> Tensor:
        """Images as the network gets them."""
        for change in self.inputs:
            images = change(images)
        return images

    def logits(self, net: nn.Module, images: Tensor) -> Tensor:
        """Logits (N, classes, ...) of the changed network, which itself stays as it is."""
        images = self.images(images)
        with hooked(net, {address: address for address in self.maps}, self._map):
            output = (
                functional_call(net, dict(self.weights), (images,)) if self.weights else net(images)
            )
        logits = logits_of(output)
        for change in reversed(self.inputs):
            if isinstance(change, Axes | Resampled | MeanOverFlips):
                logits = change.back(logits)
        return logits

    def _map(self, address: str, value: Tensor) -> Tensor:
        mapped: Tensor = self.maps[address](value)
        return mapped


class Mended(nn.Module):
    """A network with a change: gives logits, and can be used, profiled and saved like any other.

    ``output`` tells where the logits of ``net`` are, if it does not just return them.
    """

    def __init__(self, net: nn.Module, change: Change, output: Output | None = None) -> None:
        super().__init__()
        self.output = output or Output()
        net.load_state_dict({**net.state_dict(), **with_aliases(net, change.weights)})
        self.net = net
        self.inputs = nn.ModuleList(change.inputs)
        self.addresses = tuple(change.maps)
        self.maps = nn.ModuleList(change.maps.values())
        for name in ("classes", "in_channels"):
            if hasattr(net, name):
                setattr(self, name, getattr(net, name))

    @property
    def change(self) -> Change:
        """The maps; weights are in ``net`` already."""
        return Change(tuple(self.inputs), dict(zip(self.addresses, self.maps, strict=True)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes, ...) of images (N, C, ...)."""
        with giving_logits(self.net, self.output):
            return self.change.logits(self.net, images)


def with_aliases(net: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the other names under which a network has the same tensors, as nnU-Net's do."""
    state = net.state_dict(keep_vars=True)
    names = {name: [other for other, t in state.items() if t is state[name]] for name in weights}
    return {other: value for name, value in weights.items() for other in names[name]}


def arguments(module: nn.Module) -> dict[str, Any]:
    """Return the arguments that make a map again: tensors, numbers and tuples of numbers."""
    names = list(inspect.signature(type(module).__init__).parameters)[1:]
    return {name: getattr(module, name) for name in names}


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """Channels (D,) shaped to broadcast over (N, D, ...)."""
    return values.to(like).view(1, -1, *[1] * (like.ndim - 2))


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def resize(values: Tensor, sides: Any) -> Tensor:
    """Resample (N, C, ...) to other sides, linearly."""
    mode = "trilinear" if values.ndim == 5 else "bilinear"
    return functional.interpolate(values.float(), tuple(sides), mode=mode, antialias=False).to(
        values
    )
