"""How odd an observation is among others, by its most unusual trait, as a conformal p-value."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def oddness(known: Array, new: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """Share of observations that are as odd as each new one, and its most unusual trait.

    Each new observation is put among the known ones. Every trait is centred at its median and
    divided by its median absolute deviation there, and an observation is as odd as its largest
    trait. That treats all alike, so that of new ones drawn as the known ones were, at most a share
    p has a p-value of p or less (conformal anomaly detection, Laxhammar and Falkman 2010).

    Parameters
    ----------
    known, new
        (N, T) and (M, T): traits, larger where they are more unusual.

    Returns
    -------
    p (M,), in [1 / (N + 1), 1], and the index (M,) of the trait.
    """
    p, place = np.ones(len(new)), np.zeros(len(new), np.int64)
    for index, one in enumerate(new):
        every = np.vstack([known, one])
        centred = every - np.median(every, 0)
        scaled = centred / np.maximum(np.median(np.abs(centred), 0), 1e-9)
        largest = scaled.max(1)
        p[index] = (largest >= largest[-1]).mean()
        place[index] = scaled[-1].argmax()
    return p, place
