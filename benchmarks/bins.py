"""Print how much the excess hangs on the number of bins, B in eq. 5, which the paper does not give.

    python -m benchmarks.bins [REPEATS] [NET REFERENCE SHIFTED [CROP]]

First of drawn features, whose distance is known (`benchmarks.truth`; not with 0 repeats), then of
the layers of a network between two sets, in brackets the distance itself.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.truth import SPEC, Design, measured, truth
from skipshift.networks.checkpoints import load_net
from skipshift.profile.inputs import find_inputs, read_inputs
from skipshift.profile.profiling import profile_shift
from skipshift.specs import ProfileSpec, ReadingSpec

BINS = (20, 50, 100, 200, "fd")


def drawn(repeats: int) -> None:
    """Print the excess of drawn features, whose distance hangs on no bins."""
    print("groups | shift | truth | excess [distance] by bins:", *BINS)
    for size in (20, 60):
        for shift in (0.0, 0.5, 1.0):
            told = []
            for bins in BINS:
                spec, rows = replace(SPEC, bins=bins, permutation_draws=0), []
                for repeat in range(repeats):
                    rng = np.random.default_rng((700, size, repeat))
                    found = measured(rng, Design((size, size)), shift, spec)
                    rows.append((found.excess.value, found.value.mean()))
                told.append("{:.3f} [{:.3f}]".format(*np.mean(rows, 0)))
            print(f"{size} + {size} | {shift} | {truth(shift):.3f} |", *told, flush=True)


def network(net: str, reference: str, shifted: str, crop: int | None) -> None:
    """Print the excess of each layer of a network."""
    tables = {}
    for bins in BINS:
        first, second = read_inputs(find_inputs(reference, shifted, ReadingSpec(crop=crop)))
        spec, labels = ProfileSpec(bins=bins, permutation_draws=0), (first.groups, second.groups)
        profile = profile_shift(
            load_net(Path(net)), first.images, second.images, groups=labels, spec=spec
        )
        tables[bins] = profile.layers.set_index("layer")
    print("layer | excess [distance] by bins:", *BINS)
    for layer in tables[BINS[0]].index:
        rows = (table.loc[layer] for table in tables.values())
        print(f"{layer} |", *(f"{row['excess']:.3f} [{row['distance']:.3f}]" for row in rows))


def main() -> None:
    words = sys.argv[1:]
    repeats = int(words.pop(0)) if words and words[0].isdecimal() else 50
    if repeats:
        drawn(repeats)
    if words:
        network(*words[:3], int(words[3]) if words[3:] else None)


if __name__ == "__main__":
    main()
