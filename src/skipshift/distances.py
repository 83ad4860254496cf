"""Distances between the distributions of features: pure functions of arrays.

Counts per bin add up over images, so everything downstream is a sum of histograms and one ratio.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

_CHUNK = 2**16
"""Values binned at a time: few enough to stay in the processor's cache."""

Histograms = npt.NDArray[np.number]
"""(..., D, B): counts of each channel and bin."""


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
    (D,) float64 in [0, 1]. Its mean is eq. 10.

    Examples
    --------
    >>> import numpy as np
    >>> hellinger(np.array([[0.0], [1.0]]), np.array([[0.0], [3.0]]), bins=2).round(3)
    array([0.541])
    """
    a, b = _checked(features_a, "features_a"), _checked(features_b, "features_b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"both sets must have the same channels, got {a.shape[1]} and {b.shape[1]}"
        )
    low, high = joint_range(channel_range(a), channel_range(b))
    return hellinger_of_counts(histogram(a, low, high, bins), histogram(b, low, high, bins))


def channel_range(features: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Least and largest value of each channel of (M, D) features, float64."""
    return features.min(0).astype(np.float64), features.max(0).astype(np.float64)


def joint_range(
    a: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    b: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Range that covers two ranges (eq. 6-7)."""
    return np.minimum(a[0], b[0]), np.maximum(a[1], b[1])


def histogram(features: Floats, low: Floats, high: Floats, bins: int) -> npt.NDArray[np.int64]:
    """Count the values of each channel in equal bins of ``[low, high]`` (eq. 4-5).

    Edge b stands at ``low + (high - low) * (b / bins)`` in float64; a value on an edge belongs to
    the bin above it, and ``high`` to the last bin.

    Parameters
    ----------
    features
        (M, D), all within the range.
    low, high
        (D,) float64.

    Returns
    -------
    (D, B) int64; each row sums to M.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    channels = features.shape[1]
    counts = np.zeros(channels * bins, np.int64)
    rows = max(1, _CHUNK // channels)
    for start in range(0, len(features), rows):
        index = bin_index(features[start : start + rows], low, high, bins)
        index += np.arange(channels) * bins
        counts += np.bincount(index.ravel(), minlength=channels * bins)
    return counts.reshape(channels, bins)


def bin_index(features: Floats, low: Floats, high: Floats, bins: int) -> npt.NDArray[np.int64]:
    """Bin of each value, (M, D) int64 in 0..bins - 1, by the rule of `histogram`."""
    span = high - low
    if not np.isfinite(span).all():
        raise ValueError("features span more than float64 can hold; scale them down")
    place = np.subtract(features, low, dtype=np.float64)
    place /= np.where(span > 0, span, 1.0)
    place *= bins
    index = place.astype(np.int64)
    # the quotient is off by ulps, so next to an edge the edge itself has the last word
    place -= np.rint(place)
    near = np.abs(place, out=place) < 1e-9 * bins
    near &= features > low  # the many zeros behind a ReLU stand on their edge exactly
    rows, channels = np.nonzero(near)
    if rows.size:
        guess = np.minimum(index[rows, channels], bins - 1)
        values, start, width = features[rows, channels], low[channels], span[channels]
        guess -= values < start + width * (guess / bins)
        guess += (values >= start + width * ((guess + 1) / bins)) & (guess < bins - 1)
        index[rows, channels] = guess
    return index


def hellinger_of_counts(p: Histograms, q: Histograms) -> npt.NDArray[np.float64]:
    """Hellinger distance of two histograms over the same bins (eq. 8-9).

    Parameters
    ----------
    p, q
        (..., B) counts that need not have the same sum, each sum above 0.

    Returns
    -------
    (...) float64 in [0, 1].
    """
    roots = np.sqrt(p / p.sum(-1, keepdims=True))
    roots -= np.sqrt(q / q.sum(-1, keepdims=True))
    np.square(roots, out=roots)
    distance: npt.NDArray[np.float64] = np.sqrt(np.minimum(roots.sum(-1) / 2, 1.0))
    return distance


def _checked(features: Floats, name: str) -> Floats:
    array = np.asarray(features)
    if array.ndim != 2 or array.shape[0] == 0:
        raise ValueError(f"{name} must be (M, D) with M >= 1, got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(0))
    if bad.size:
        raise ValueError(f"{name} has NaN or infinity in channel {bad[0]}; both must be finite")
    return array
