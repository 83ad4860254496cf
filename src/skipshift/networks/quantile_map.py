"""Quantile mapping of feature maps: each channel from one distribution onto another."""

from typing import Self

import torch
from torch import Tensor, nn

_KNOTS = 257
"""Quantiles by which a distribution is described."""


class QuantileMap(nn.Module):
    """A monotone map of each channel, linear between quantiles.

    A value beyond the outermost quantile keeps its distance from it. Tied values, such as the zeros
    after a ReLU, map to the image of the middle one.

    Parameters
    ----------
    observed, desired
        (D, knots): the same quantiles of each channel before and after.
    """

    observed: Tensor
    desired: Tensor
    slope: Tensor

    def __init__(self, observed: Tensor, desired: Tensor) -> None:
        super().__init__()
        xs, ys = observed.contiguous(), desired.contiguous()
        first, last = torch.searchsorted(xs, xs), torch.searchsorted(xs, xs, right=True) - 1
        ys = ys.gather(1, (first + last) // 2)
        width = xs.diff()
        slope = torch.where(width > 0, ys.diff() / width, 0.0)
        one = torch.ones_like(slope[:, :1])
        self.register_buffer("observed", xs)
        self.register_buffer("desired", ys)
        self.register_buffer("slope", torch.cat([one, slope, one], 1), persistent=False)

    @classmethod
    def between(cls, observed: Tensor, desired: Tensor) -> Self:
        """Map the distribution of samples (M, D) onto that of samples (M', D)."""
        return cls(quantiles_of(observed), quantiles_of(desired))

    def forward(self, values: Tensor) -> Tensor:
        """Map a batch (N, D, ...)."""
        # one image at a time: indices of quantiles take eight bytes per value
        return torch.stack([self._mapped(one) for one in values.float()]).to(values)

    def _mapped(self, values: Tensor) -> Tensor:
        # a network in bf16 has its buffers in bf16 too; a map that was just fitted is on the CPU
        buffers = (self.observed, self.desired, self.slope)
        xs, ys, slope = (t.to(values.device, torch.float32) for t in buffers)
        flat = values.flatten(1).contiguous()
        after = torch.searchsorted(xs, flat, right=True)
        knot = (after - 1).clamp(min=0)
        new = ys.gather(1, knot) + (flat - xs.gather(1, knot)) * slope.gather(1, after)
        return new.view(values.shape)


def quantiles_of(samples: Tensor) -> Tensor:
    """Quantiles of each channel of samples (M, D), the least and the largest among them: (D, K)."""
    at = torch.linspace(0, len(samples) - 1, _KNOTS).round().long()
    return samples.sort(0).values[at].T.contiguous()
