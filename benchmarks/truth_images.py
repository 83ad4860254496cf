"""Whether p and excess of AUC and GDV, which see one vector per image, hold what they say.

    python -m benchmarks.truth 200 images

The same drawn features as the other parts; `python -m benchmarks.truth` has the designs.
"""

from dataclasses import replace

import numpy as np

from benchmarks.truth import SPEC, Design, features, labels
from skipshift.profile.layerwise import compare, draw
from skipshift.statistics.resampling import p_value

DISTANCES = ("auc", "gdv")

DESIGNS = (
    Design((20, 20)),
    Design((5, 5), (8, 8)),
    Design((40, 10)),
    Design((12, 12), (10, 2)),
    Design((12, 12), (2, 10)),
    Design((36, 12), (10, 2)),
    Design((12, 36), (10, 2)),
    Design((12, 12), (1, 1), (36, 169)),
)

SHIFTS = (0.0, 0.5, 1.0)


def found(design: Design, shift: float, repeats: int, seed: int) -> dict[str, np.ndarray]:
    """Excess, share of p <= 0.05 and width of the interval, means over the repeats."""
    spec = replace(SPEC, distances=DISTANCES)
    rows: dict[str, list[tuple[float, bool, float]]] = {name: [] for name in DISTANCES}
    for repeat in range(repeats):
        rng = np.random.default_rng((seed, repeat))
        sides = features(rng, design, 0), features(rng, design, 1, shift)
        measured = compare([sides[0]], [sides[1]], draw(labels(design), spec), spec)
        for name, one in measured.items():
            low, high = one.excess.interval()
            p = p_value(one.permuted)
            rows[name].append((one.excess.value, p <= 0.05, high - low))
    return {name: np.mean(own, 0) for name, own in rows.items()}


def main(repeats: int) -> None:
    """Print the part of the audit on AUC and GDV."""
    print("AUC and GDV | at 0, 0.5 and 1 sigma: excess, share of p <= 0.05, width of the interval")
    for number, design in enumerate(DESIGNS):
        at = [found(design, shift, repeats, 600 + number) for shift in SHIFTS]
        for name in DISTANCES:
            told = "; ".join("{:+.3f}, {:.3f}, {:.2f}".format(*one[name]) for one in at)
            print(f"{name} {design!s:45} | {told}", flush=True)
