"""Audit of comparisons by drawn studies: false verdicts and power, with one run and with several.

    python -m benchmarks.truth 240 comparisons

"before" is what version e947bbc gave in the same designs (240 draws each).
"""

import numpy as np

from skipshift.statistics.comparisons import decide
from skipshift.statistics.crossed import Crossed, crossed, ratios, stacked
from skipshift.statistics.multiplicity import FIRST, signs, smallest_swap_p, swap_shares

MARGIN = 0.01

TRAININGS = {1: 55.4, 2: 41.7, 3: 35.4, 5: 29.2, 10: 15.8}
"""Before: told "higher" or "lower" without an effect, in percent, by number of runs."""

STRATA = {(20, 2): 8.1, (20, 5): 4.4, (20, 20): 4.6, (12, 2, 2, 2): 9.4}
"""Before: false equivalence at the margin, in percent, by groups of each domain."""

FAMILIES = {
    (9, 1, 0.05, 0.0): "0.0, found 0",
    (9, 1, 0.0, 0.0): "0.0",
    (32, 1, 0.03, 0.0): "3.3, found 82",
    (32, 2, 0.0, 0.02): "95.0",
    (32, 5, 0.05, 0.02): "60.0, found 100",
}
"""Before, by groups, runs, effect and training sd: any false verdict, and `away` found, percent."""


def study(
    rng: np.random.Generator,
    shape: tuple[int, int, int, int],
    training: float = 0.02,
    image: float = 0.03,
    effect: float = 0.0,
) -> np.ndarray:
    """Draw parts (groups, domains, networks, runs, 2); network 1 has the effect off domain 0.

    Half of the variance of a training, and of a network's liking for a group, is common to all
    domains; the first domain has a quarter of the spread between trainings.
    """
    groups, domains, networks, runs = shape
    half = np.sqrt(0.5)
    scale = training * np.where(np.arange(domains) > 0, 1, 0.25 if domains > 1 else 1)
    a = half * (rng.normal(size=(1, networks, runs)) + rng.normal(size=(domains, networks, runs)))
    b = half * (
        rng.normal(size=(groups, 1, networks, 1)) + rng.normal(size=(groups, domains, networks, 1))
    )
    y = 0.7 + 0.08 * rng.normal(size=(groups, 1, 1, 1)) + scale[:, None, None] * a + image * b
    y = y + 0.015 * rng.normal(size=shape) * (training > 0)
    y[:, 1 if domains > 1 else 0 :, 1] += effect
    bottom = 1e4 * np.exp(0.5 * rng.normal(size=(groups, 1, 1, 1)) + 0.05 * rng.normal(size=shape))
    return np.stack([bottom * np.clip(y, 0, 1), bottom], -1)


def difference(parts: np.ndarray, network: int = 1) -> Crossed:
    """Difference of a network from network 0, on the mean over the domains."""
    scores, errors = ratios(parts)
    apart = errors[:, :, network] - errors[:, :, 0]
    effects = (scores[:, network] - scores[:, 0]).mean(0)
    return crossed(effects, apart, parts[..., 1][:, :, [0, network]].mean((2, 3)))


def trainings(repeats: int) -> None:
    """Print how often variants without an effect are told apart."""
    for runs, before in TRAININGS.items():
        rng = np.random.default_rng(1)
        p = [difference(study(rng, (32, 1, 2, runs))).p() for _ in range(repeats)]
        share = 100 * np.mean(np.array(p) < 0.05)
        now = f"{share:.1f} %" if runs > 1 else f"0 % (of checkpoints {share:.1f} %)"
        print(f"no effect, training sd 0.02, {runs} runs: told apart {before} % -> {now}")


def strata(repeats: int) -> None:
    """Print false equivalence and coverage where domains have groups of their own."""
    for own, before in STRATA.items():
        rng, found = np.random.default_rng(2), []
        for _ in range(repeats):
            parts = study(rng, (sum(own), len(own), 2, 1), 0, 0.02)
            parts[:, :, 1, :, 0] += MARGIN * parts[:, :, 1, :, 1]
            domain = np.repeat(np.arange(len(own)), own)
            parts[domain[:, None] != np.arange(len(own))] = 0
            found.append(difference(parts))
        false = 100 * np.mean([each.p_equivalence(MARGIN) < 0.05 for each in found])
        covers = 100 * np.mean([abs(each.effect - MARGIN) <= each.half_width() for each in found])
        print(
            f"groups {own}, effect at the margin: equivalent {before} % -> {false:.1f} %; "
            f"covers {covers:.1f} %"
        )


def families(repeats: int) -> None:
    """Print false verdicts and power in a family of four variants on home, domains and `away`."""
    for (groups, runs, effect, training), before in FAMILIES.items():
        domains = 5 if groups < 32 else 8
        image = 0.01 if groups < 32 else 0.03
        places = [[d] for d in range(domains)] + [list(range(1, domains))]
        first = np.tile([True] + [False] * (domains - 1) + [True], 4)
        real = np.zeros((4, len(places)), bool)
        real[0, 1:] = effect > 0
        rng, false, found = np.random.default_rng(3), [], []
        patterns = signs(groups, 1999, rng)
        for _ in range(repeats):
            parts = study(rng, (groups, domains, 5, runs), training, image, effect)
            cells = [(k, parts[:, place]) for k in range(1, 5) for place in places]
            result = stacked([difference(cell, k) for k, cell in cells])
            shares = [swap_shares(cell[:, :, k, 0], cell[:, :, 0, 0]).mean(1) for k, cell in cells]
            decision = decide(result, np.stack(shares, 1), first, patterns, MARGIN)
            hit = decision.p_adjusted.reshape(real.shape) < 0.05
            false.append((hit & ~real).any())
            found.append(hit[0, -1])
        now = f"{100 * np.mean(false):.1f}" + f", found {100 * np.mean(found):.0f}" * (effect > 0)
        print(
            f"{groups} groups, {runs} runs, effect {effect}, training sd {training}: any false "
            f"{before} % -> {now} %"
        )


def main(repeats: int) -> None:
    """Print the part of the audit on comparisons."""
    trainings(repeats)
    strata(2 * repeats)
    families(repeats // 2)
    least = (
        f"{n}: {smallest_swap_p(n, FIRST):.3f}, {smallest_swap_p(n, 1 - FIRST):.3f}"
        for n in (4, 6, 9)
    )
    print(f"least adjusted p of swaps by groups, first level and second: {'; '.join(least)}")
