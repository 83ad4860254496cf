"""Distances between two histograms of a channel: Hellinger and seven others.

Counts per bin add up over images, so every distance follows from sums of histograms.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skipshift.errors import ArgumentError

Floats = npt.NDArray[np.floating]

Frequencies = npt.NDArray[np.floating]
"""(..., B): relative frequencies of the bins, which add up to 1."""

Histograms = npt.NDArray[np.number]
"""(..., D, B): counts of each channel and bin."""

_CHUNK = 2**16
"""Values binned at a time: few enough to stay in the processor's cache."""

_SMOOTH = 0.01
"""Weight of the uniform distribution that is mixed into both sides of the Kullback-Leibler
divergence."""

MOST_BINS = 1000
"""Upper limit of the rule of Freedman and Diaconis."""


def hellinger(features_a: Floats, features_b: Floats, bins: int = 100) -> npt.NDArray[np.float64]:
    """Hellinger distance between two sets of feature vectors, per channel (paper eq. 4-9).

    Bins divide the joint range of both sets (eq. 6-7). The largest value belongs to the last bin,
    and a channel of range 0 has distance 0. Computed as sqrt(1/2 sum (sqrt p - sqrt q)^2), which
    equals eq. 9 and is exactly 0 for equal counts.

    Parameters
    ----------
    features_a, features_b
        (M, D) and (M', D), finite; M and M' may differ.
    bins
        B of eq. 4, at least 1.

    Returns
    -------
    (D,) float64 in [0, 1]. Its mean is eq. 10. `ArgumentError` if the sets have different channels,
    are empty or hold NaN or infinity, or ``bins`` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> hellinger(np.array([[0.0], [1.0]]), np.array([[0.0], [3.0]]), bins=2).round(3)
    array([0.541])
    """
    if bins < 1:
        raise ArgumentError(f"bins must be at least 1, got {bins}")
    a, b = _checked(features_a, "features_a"), _checked(features_b, "features_b")
    if a.shape[1] != b.shape[1]:
        raise ArgumentError(
            f"both sets must have the same channels, got {a.shape[1]} and {b.shape[1]}"
        )
    low, high = joint_range(channel_range(a), channel_range(b))
    counts = np.zeros((2, a.shape[1], bins), np.int32)
    for number, side in enumerate((a, b)):
        add_counts(counts, side[None], np.array([number]), low, high)
    return between(counts[0], counts[1])


def channel_range(features: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Smallest and largest value of each channel of (M, D) features, float64."""
    return features.min(0).astype(np.float64), features.max(0).astype(np.float64)


def joint_range(
    a: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    b: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Range that covers two ranges (eq. 6-7)."""
    return np.minimum(a[0], b[0]), np.maximum(a[1], b[1])


def add_counts(
    counts: npt.NDArray[np.integer],
    features: Floats,
    groups: npt.NDArray[np.integer],
    low: Floats,
    high: Floats,
) -> None:
    """Count the values of each group and channel in equal bins of ``[low, high]`` (eq. 4-5).

    Edge b lies at ``low + (high - low) * (b / B)`` in float64; a value on an edge belongs to
    the bin above it, and ``high`` to the last bin.

    Parameters
    ----------
    counts
        (G, D, B) integers, wide enough for the values of a group; added to in position.
    features
        (N, K, D), all within the range.
    groups
        (N,): number of each image's group, 0 .. G - 1.
    low, high
        (D,) float64.
    """
    (_, positions, channels), bins = features.shape, counts.shape[2]
    rows = max(1, _CHUNK // channels)
    step = max(1, rows // positions)
    offset = np.arange(step * channels).reshape(step, 1, channels) * bins
    for start in range(0, len(features), step):
        block = features[start : start + step]
        own, inverse = np.unique(groups[start : start + step], return_inverse=True)
        for row in range(0, positions, rows):
            part = block[:, row : row + rows]
            index = bin_index(part.reshape(-1, channels), low, high, bins).reshape(part.shape)
            index += offset[inverse]
            new_counts = np.bincount(index.ravel(), minlength=len(own) * channels * bins)
            for group, new in zip(own, new_counts.reshape(-1, channels, bins), strict=True):
                np.add(counts[group], new, out=counts[group], casting="unsafe")


def bin_index(features: Floats, low: Floats, high: Floats, bins: int) -> npt.NDArray[np.int64]:
    """Bin of each value, (M, D) int64 in 0..bins - 1, by the rule of `add_counts`.

    `ArgumentError` if the range exceeds float64.
    """
    span = high - low
    if not np.isfinite(span).all():
        raise ArgumentError("the range of features exceeds float64; scale them down")
    position = np.subtract(features, low, dtype=np.float64)
    position *= bins / np.where(span > 0, span, 1.0)
    index = position.astype(np.int64)
    # the product is off by a few ulps, so values next to an edge are compared with the edge itself
    near = position > 0  # the many zeros after a ReLU lie exactly on their edge
    position -= np.rint(position)
    near &= np.abs(position, out=position) < 1e-9 * bins
    found = np.flatnonzero(near)
    if found.size:
        rows, channels = np.divmod(found, features.shape[1])
        guess = np.minimum(index[rows, channels], bins - 1)
        values, start, width = features[rows, channels], low[channels], span[channels]
        guess -= values < start + width * (guess / bins)
        guess += (values >= start + width * ((guess + 1) / bins)) & (guess < bins - 1)
        index[rows, channels] = guess
    return index


def freedman_diaconis(*sets: Floats) -> int:
    """Bins of width 2 IQR / M^(1/3): the median over channels (Freedman and Diaconis 1981).

    Channels with equal quartiles have no such number and are left out.

    Parameters
    ----------
    sets
        Each (M, D), pooled.

    Returns
    -------
    At least 2 and at most `MOST_BINS`.
    """
    wanted = [0.0]
    for number in range(sets[0].shape[1]):
        # one channel at a time, since the sets may lie on disk and be larger than memory
        channel = np.concatenate([values[:, number] for values in sets]).astype(np.float64)
        least, lower, upper, most = np.quantile(channel, [0, 0.25, 0.75, 1])
        if upper > lower:
            wanted.append((most - least) * len(channel) ** (1 / 3) / (2 * (upper - lower)))
    return int(np.clip(np.ceil(np.median(wanted[1:] or wanted)), 2, MOST_BINS))


def _hellinger(p: Frequencies, q: Frequencies) -> Floats:
    roots = np.sqrt(p)
    roots -= np.sqrt(q)
    return np.asarray(np.sqrt(np.minimum(_squares(roots) / 2, 1)))


def _hellinger_bias(p: Frequencies, q: Frequencies, noise: Frequencies) -> Floats:
    # H^2 = sum (p - q)^2 / 2 (sqrt p + sqrt q)^2 exactly, and (p - q)^2 has the noise too much
    total = np.sqrt(p) + np.sqrt(q)
    np.square(total, out=total)
    return np.asarray(
        np.divide(noise, 2 * total, out=np.zeros_like(total), where=total > 0).sum(-1)
    )


def _jensen_shannon(p: Frequencies, q: Frequencies) -> Floats:
    middle = (p + q) / 2
    bits = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / (2 * np.log(2))
    return np.asarray(np.sqrt(np.clip(bits, 0, 1)))


def _kullback_leibler(p: Frequencies, q: Frequencies) -> Floats:
    smooth_p, smooth_q = ((1 - _SMOOTH) * side + _SMOOTH / side.shape[-1] for side in (p, q))
    return np.asarray(np.maximum(_relative_entropy(smooth_q, smooth_p), 0))


def _total_variation(p: Frequencies, q: Frequencies) -> Floats:
    return np.asarray(np.abs(p - q).sum(-1) / 2)


def _kolmogorov_smirnov(p: Frequencies, q: Frequencies) -> Floats:
    return np.asarray(np.abs(np.cumsum(p - q, -1)).max(-1))


def _wasserstein(p: Frequencies, q: Frequencies) -> Floats:
    return np.asarray(np.abs(np.cumsum(p - q, -1)).sum(-1))


def _scaled_wasserstein(p: Frequencies, q: Frequencies) -> Floats:
    index = np.arange(p.shape[-1])
    mean = p @ index
    # values are spread within their bin, which adds the variance of a uniform distribution
    spread = np.sqrt(np.maximum(p @ index**2 - mean**2, 0) + 1 / 12)
    return np.asarray(_wasserstein(p, q) / spread)


def _energy(p: Frequencies, q: Frequencies) -> Floats:
    return np.asarray(np.sqrt(2 * _squares(np.cumsum(p - q, -1))))


def _squares(values: Floats) -> Floats:
    return np.asarray(np.einsum("...b,...b->...", values, values))


def _relative_entropy(p: Frequencies, q: Frequencies) -> Floats:
    ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    return np.asarray((p * np.log(ratio)).sum(-1))


@dataclass(frozen=True)
class Distance:
    """A distance between two histograms over the same equal bins."""

    of: Callable[[Frequencies, Frequencies], Floats]
    """Frequencies (..., B) of the reference and of the shifted set -> (...), in bins."""

    power: float = 0.0
    """Power of the bin width that converts bins into the unit of the features."""

    most: float = np.inf
    """Upper bound."""

    scale: float = 2.0
    """Power of the distance to which noise adds, so that the null is subtracted there.

    Measured (docs/log.md); a divergence is a square already.
    """

    cumulated: bool = False
    """Whether it reads cumulated frequencies."""

    bias: Callable[[Frequencies, Frequencies, Frequencies], Floats] | None = None
    """What noise adds to distance^2, (..., B) -> (...): of both sides, and the noise of a bin."""


CHANNEL_DISTANCES: Mapping[str, Distance] = {
    "hellinger": Distance(_hellinger, most=1, bias=_hellinger_bias),
    "jensen-shannon": Distance(_jensen_shannon, most=1),
    "kullback-leibler": Distance(_kullback_leibler, scale=1),
    "total-variation": Distance(_total_variation, most=1),
    "kolmogorov-smirnov": Distance(_kolmogorov_smirnov, most=1, cumulated=True),
    "wasserstein": Distance(_wasserstein, 1.0, cumulated=True),
    "wasserstein-scaled": Distance(_scaled_wasserstein, cumulated=True),
    "energy": Distance(_energy, 0.5, cumulated=True),
}
"""Distances of a channel, from histograms over the joint range of both sets.

``hellinger`` (eq. 8-9), ``total-variation`` and ``kolmogorov-smirnov`` (at the edges of the bins)
lie in [0, 1], and so does ``jensen-shannon``, the root of the divergence in bits.
``kullback-leibler`` is the divergence of the shifted set from the reference in nats, both mixed
with 1 % of a uniform distribution, because a single empty bin would make it infinite.

``wasserstein`` and ``energy`` have the unit of the features and place values at the centres of
bins. The mean of ``wasserstein`` over channels is the representation shift of Stacke et al. (2021)
where features are averaged over the image. ``wasserstein-scaled`` is divided by the standard
deviation of the reference; a channel that is nearly constant in the reference can make it large.
"""


def between(
    p: Histograms, q: Histograms, distance: str = "hellinger", width: Floats | float = 1.0
) -> npt.NDArray[np.float64]:
    """Distance of two histograms over the same bins.

    Parameters
    ----------
    p, q
        (..., D, B) counts of the reference and of the shifted set, each sum above 0; the sums
        may differ. Floats keep their type.
    distance
        One of `CHANNEL_DISTANCES`.
    width
        (D,): bin width of each channel.

    Returns
    -------
    (..., D)
    """
    first, second = (np.asarray(side / side.sum(-1, keepdims=True)) for side in (p, q))
    return of_frequencies(first, second, distance, width)


def of_frequencies(
    p: Frequencies, q: Frequencies, distance: str, width: Floats | float = 1.0
) -> npt.NDArray[np.float64]:
    """Distance as by `between`, of frequencies that add up to 1."""
    chosen = CHANNEL_DISTANCES[distance]
    value = chosen.of(p, q)
    return np.asarray(value * np.power(width, chosen.power) if chosen.power else value)


def _checked(features: Floats, name: str) -> Floats:
    array = np.asarray(features)
    if array.ndim != 2 or array.shape[0] == 0:
        raise ArgumentError(f"{name} must be (M, D) with M >= 1, got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(0))
    if bad.size:
        raise ArgumentError(f"{name} has NaN or infinity in channel {bad[0]}; both must be finite")
    return array
