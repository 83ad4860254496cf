"""Runs and groups as crossed samples: the error of a score, or of a difference, and its parts.

Every score is a ratio of sums over groups, per domain and run. Axes come in the order (groups,
domains, runs, ...).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, stdtrit

from skipshift.statistics.counts import ratio

Array = npt.NDArray[np.float64]

MOST_RUNS = 50
"""Beyond this number of runs, trainings are not what is missing."""

_HALVINGS = 40


def ratios(parts: Array) -> tuple[Array, Array]:
    """Divide sums over groups, and say how much of the ratio's error each group brings.

    Leaving group g out moves t / b by (t_g - s b_g) / (b - b_g), where s is the ratio; times
    sqrt((n - 1) / n) the squares of these add up to the jackknife variance (Efron and Stein 1981),
    n being the number of groups with b_g > 0.

    Parameters
    ----------
    parts
        (groups, ..., 2): numerator t_g and denominator b_g of each group.

    Returns
    -------
    The ratio (...), NaN where no group has anything to divide by, and the errors (groups, ...).
    """
    top, bottom = parts[..., 0], parts[..., 1]
    whole = parts.sum(0)
    n = (bottom > 0).sum(0)
    score = ratio(whole[..., 0], whole[..., 1])
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = (top - score * bottom) / (whole[..., 1] - bottom)
        return score, np.sqrt((n - 1) / n) * np.where(bottom > 0, moved, 0)


def group_variance(errors: Array, weights: Array) -> tuple[Array, Array]:
    """Variance of a mean over domains by the choice of groups, and its degrees of freedom.

    Domains with groups of their own are strata: each centres its own groups, which `ratios` has
    done; a group that is in several domains counts once, with its sum. Groups of the same domains
    have as many degrees of freedom as groups of equal weight would (Kish 1965), less one, the part
    that the ratio itself costs. Those of several strata are joined as the errors are seen, and as
    they would be if all groups were alike, and the fewer count: two groups that happen to agree say
    little.

    Parameters
    ----------
    errors
        (groups, domains) from `ratios`, or a difference of two.
    weights
        (groups, domains): what a group has to divide by there, 0 where it has nothing.

    Returns
    -------
    NaN where a domain has fewer than 2 groups.
    """
    seen = weights.any(1)
    errors, weights = errors[seen], weights[seen]
    if not weights.size or ((weights > 0).sum(0) < 2).any():
        return np.array(np.nan), np.array(np.nan)
    weights = weights / weights.sum(0)
    kinds, place = np.unique(weights > 0, axis=0, return_inverse=True)
    seen_parts, alike_parts, free = np.empty((3, len(kinds)))
    for kind in range(len(kinds)):
        own = place.ravel() == kind
        each = weights[own].mean(1)
        kish = each.sum() ** 2 / (each**2).sum()
        free[kind] = max(kish - weights[own].sum(0).max(), 0.5)
        seen_parts[kind] = (errors[own].mean(1) ** 2).sum()
        alike_parts[kind] = (each**2).sum()
    total = (errors.mean(1) ** 2).sum()
    return total, np.fmin(_joined(seen_parts, free), _joined(alike_parts, free))


def _joined(parts: Array, free: Array) -> Array:
    """Degrees of freedom of a sum of variances (Satterthwaite 1946); NaN where all are 0."""
    return ratio(np.asarray(parts.sum() ** 2), np.asarray((parts**2 / free).sum()))


@dataclass(frozen=True)
class Crossed:
    """Means over runs and groups, and where their errors come from; all arrays are (...).

    Model: y_rg = effect + a_r + b_g + e_rg, the runs r and the groups g both drawn (Dorfman,
    Berbaum and Metz 1992). Each variance is that of the *mean* over R runs and G groups.
    """

    effect: Array
    """The mean: of a score, or of the difference of two."""

    groups: Array
    """Variance by the choice of groups: b/G + e/RG."""

    groups_df: Array
    """Degrees of freedom of ``groups``."""

    runs: Array
    """Variance by the trainings: a/R + e/RG; 0 with one run, which says nothing of trainings."""

    cells: Array
    """Variance by e/RG alone, which is in both of the others."""

    count: npt.NDArray[np.int64]
    """Number of runs R. With one, all that follows is about these checkpoints."""

    def reshaped(self, shape: tuple[int, ...]) -> "Crossed":
        """Bring all arrays into another shape."""
        return Crossed(*(np.reshape(getattr(self, field.name), shape) for field in fields(self)))

    def at(self, place: tuple[int, ...]) -> "Crossed":
        """Select (results,) of (results, ...) arrays."""
        return Crossed(*(getattr(self, field.name)[:, *place] for field in fields(self)))

    def half_width(self, level: float | Array = 0.95) -> Array:
        """Half of the two-sided interval about ``effect``."""
        return self._reach(np.full(np.shape(self.effect), (1 - level) / 2))

    def p(self) -> Array:
        """Two-sided p of an effect of 0."""
        return np.minimum(2 * self._tail(np.abs(self.effect)), 1)

    def p_equivalence(self, margin: float) -> Array:
        """Larger p of two one-sided tests of an effect within the margin (Schuirmann 1987)."""
        return self._tail(margin - np.abs(self.effect))

    def spread(self) -> tuple[Array, Array]:
        """Give the standard deviation between trainings (NaN of one) and the error by groups."""
        between = np.sqrt(np.maximum(self.runs - self.cells, 0) * self.count)
        by_groups = np.sqrt(np.maximum(self.groups - self.cells, 0))
        return np.where(self.count > 1, between, np.nan), by_groups

    def planned(self, count: npt.NDArray[np.int64]) -> "Crossed":
        """Keep the spreads and change the number of runs."""
        part = self.count / count
        kept = np.maximum(self.groups - self.cells, 0)
        runs, cells = self.runs * part, self.cells * part
        return Crossed(self.effect, kept + cells, self.groups_df, runs, cells, count)

    def more_runs(self, margin: float, level: float | Array = 0.95) -> Array:
        """How many more trainings a variant would settle it, were effect and spreads as they seem.

        Settled: the interval of ``level`` leaves out 0, or that of 2 level - 1 lies within the
        margin (as two one-sided tests do). NaN: not with `MOST_RUNS`, so that images and not
        trainings are missing; NaN also with one run, which says nothing of trainings.
        """
        more, size = np.full(np.shape(self.effect), np.nan), np.abs(self.effect)
        for extra in range(MOST_RUNS):
            then = self.planned(self.count + extra)
            within = size + then.half_width(2 * level - 1) < margin
            settled = (size > then.half_width(level)) | within
            settled &= (self.count > 1) & (then.count <= MOST_RUNS) & np.isnan(more)
            more = np.where(settled, extra, more)
        return more

    def _reach(self, tail: Array) -> Array:
        """How far the mean may be off in one direction, but for a chance of ``tail``.

        The two variances are each multiplied by their own squared quantile of t before they are
        added: never above its error for a plain sum, whatever the degrees of freedom (Banerjee
        1960). Never less than by the groups alone.
        """
        t_groups = stdtrit(self.groups_df, tail) ** 2
        alone = t_groups * self.groups
        t_runs = stdtrit(np.maximum(self.count - 1, 1), tail) ** 2
        both = t_runs * self.runs + t_groups * np.maximum(self.groups - self.cells, 0)
        return np.sqrt(np.where(self.count > 1, np.maximum(both, alone), alone))

    def _tail(self, distance: Array) -> Array:
        """Least tail whose `_reach` is below the distance, by halving; 0.5 and more count as 1."""
        low, high = np.full(np.shape(distance), -16.0), np.full(np.shape(distance), np.log10(0.5))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            inside = self._reach(10**middle) < distance
            low, high = np.where(inside, low, middle), np.where(inside, middle, high)
        tail = np.where(distance > 0, 10**high, 1)
        return np.where(np.isfinite(distance + self.groups), tail, np.nan)


def crossed(effects: Array, errors: Array, weights: Array) -> Crossed:
    """Join runs and groups to one mean with its variances.

    Parameters
    ----------
    effects
        (runs,): a score, or the difference of two with the same fold and seed.
    errors
        (groups, domains, runs) from `ratios`, or the difference of two.
    weights
        (groups, domains), as for `group_variance`.
    """
    count = len(effects)
    groups, df = group_variance(errors.mean(2), weights)
    runs = cells = np.zeros(())
    if count > 1:
        runs = np.asarray(effects.var(ddof=1) / count)
        rest = errors - errors.mean(2, keepdims=True)
        cells = np.asarray((rest.mean(1) ** 2).sum() / (count * (count - 1)))
    return Crossed(np.asarray(effects.mean()), groups, df, runs, cells, np.array(count))


def unknown(runs: int) -> Crossed:
    """Return what is known of runs without a score: nothing."""
    nothing = np.array(np.nan)
    return Crossed(nothing, nothing, nothing, nothing, nothing, np.array(runs))


def stacked(results: Sequence[Crossed]) -> Crossed:
    """Stack single results to one of arrays (results,)."""
    names = [field.name for field in fields(Crossed)]
    return Crossed(*(np.array([getattr(each, name) for each in results]) for name in names))


def score_interval(score: Array, half_width: Array) -> tuple[Array, Array]:
    """Carry the interval score -+ half_width over to the scale of the logit, within (0, 1).

    A score of 0 or 1 has no interval.

    >>> [round(float(bound), 2) for bound in score_interval(np.array(0.95), np.array(0.08))]
    [0.78, 0.99]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        width = half_width / (score * (1 - score))
        return np.asarray(expit(logit(score) - width)), np.asarray(expit(logit(score) + width))


def amount_interval(amount: Array, half_width: Array) -> tuple[Array, Array]:
    """Carry the interval of an amount, such as pixels, over to the scale of its logarithm."""
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.exp(half_width / amount)
        return amount / factor, amount * factor
