"""Settings of estimates: of the IoU without masks, of class shares, and of single images."""

from dataclasses import dataclass
from typing import get_args

from skipshift.errors import ArgumentError
from skipshift.names import ESTIMATES, shown
from skipshift.specs import Activation
from skipshift.validation import check_choices, check_ignore, check_least, check_numbers

BEST = "best"
"""The method that is best on the calibration shifts, for each class by itself."""


@dataclass(frozen=True, kw_only=True)
class EstimateSpec:
    """How the IoU of images without masks is estimated."""

    method: str = BEST
    """Estimate that is corrected: average confidence, difference of confidence, temperature,
    threshold, calibrated, or with peers agreement; by default, for each class, what is best on the
    calibration shifts."""

    images: int = 64
    """Images of the reference that are given calibration shifts, whole groups at a time."""

    splits: int = 4
    """How often the groups of the reference are halved, to estimate one half by the other."""

    ignore: int | None = None
    """Value of the masks whose pixels are not counted; 0, or no class."""

    output: str | None = None
    """Name or index of the network's output that holds the logits, where it returns several."""

    activation: Activation = "auto"
    """What the network ends in: none (it returns logits), sigmoid or softmax (probabilities); by
    default told by whether its values lie in [0, 1]."""

    batch_size: int = 8
    """Images per forward pass."""

    seed: int = 0
    """Seed of the halves, and of which groups are given calibration shifts."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.method not in (BEST, *ESTIMATES):
            raise ArgumentError(
                f"method must be one of {shown((BEST, *ESTIMATES))}, got {self.method!r}"
            )
        check_least(self, 1, "images", "splits", "batch_size")
        check_least(self, 0, "seed")
        check_choices("activation", "activation", (self.activation,), get_args(Activation))
        check_ignore(self.ignore)
