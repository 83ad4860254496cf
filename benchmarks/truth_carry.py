"""Whether the intervals of carry's shares hold what they say, by drawn studies.

    python -m benchmarks.truth 500 carry

Groups differ in how much they lose and in how much of it a path brings back. Prints by number of
groups how often the 95 % interval covers the share of the population, and how often there is one.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from skipshift.specs import CarrySpec
from skipshift.statistics.recovery import share_table

ROWS = {"none": (), "path": ("path",), "all": ("path", "other")}
PIXELS = 10_000
POPULATION = 200_000


def draw(
    rng: np.random.Generator, groups: int, sizes: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Counts of the reference and of the shifted images: (groups, rows, 2 classes, 3)."""
    inside = expit(logit(0.9) + 0.6 * rng.normal(size=groups))
    lost = 0.6 * inside * expit(rng.normal(size=groups))
    share = np.clip(0.5 + 0.2 * rng.normal(size=groups), -0.5, 1.2)
    iou = np.stack([inside, inside - lost, inside - lost + share * lost, inside], 1)
    union = PIXELS * np.exp(sizes * rng.normal(size=(groups, 1)))
    counts = np.zeros((groups, 4, 2, 3), np.int64)
    counts[..., 1, 0] = np.rint(union * np.clip(iou, 0, 1))
    counts[..., 1, 1] = np.rint(union) - counts[..., 1, 0]
    return counts[:, :1], counts[:, 1:]


@cache
def true_share(sizes: float) -> float:
    """Share of the path in the population."""
    inside, outside = draw(np.random.default_rng(0), POPULATION, sizes)
    reference, none, path = (
        part[:, 1, 0].sum() / part[:, 1].sum()
        for part in (inside[:, 0], outside[:, 0], outside[:, 1])
    )
    return float((path - none) / (reference - none))


def coverage(groups: int, repeats: int, sizes: float = 0.5, seed: int = 0) -> tuple[float, float]:
    """How often an interval that is given covers the true share, and how often one is given."""
    rng, truth = np.random.default_rng((seed, groups)), true_share(sizes)
    covered = given = 0
    names = np.arange(groups)
    for _ in range(repeats):
        table = share_table(ROWS, draw(rng, groups, sizes), (names, names), CarrySpec())
        low, high = table.loc[table["path"] == "path", ["low", "high"]].to_numpy()[0]
        given += not np.isnan(low)
        covered += bool(low <= truth <= high)
    return covered / max(given, 1), given / repeats


def main(repeats: int) -> None:
    """Print the part of the audit on carry."""
    print("carry: the 95 % interval of a share (true share, groups: covers, is given)")
    for sizes in (0.5, 1.0):
        for groups in (2, 3, 4, 5, 8, 20):
            covered, given = coverage(groups, repeats, sizes)
            print(
                f"sizes lognormal({sizes}), {groups:2} groups: covers {100 * covered:.1f} %, "
                f"given in {100 * given:.0f} %",
                flush=True,
            )
