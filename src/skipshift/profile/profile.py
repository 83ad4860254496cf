"""The result of a profile: its tables, files, verdict and chart."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from skipshift.errors import ArgumentError
from skipshift.page.profile_sentences import profile_verdict
from skipshift.records import PROFILE_LAYERS, read_json, read_table, write_json, write_table
from skipshift.spec_files import from_plain, to_plain
from skipshift.specs import ProfileSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Profile:
    """Distances between two sets of images inside one network, by layer and by channel."""

    layers: pd.DataFrame
    """One row per layer in depth order, for each distance and pooling of the spec:
    ``layer, depth, distance, null, excess, low, high, p, p_adjusted, behind, behind_low,
    behind_high, groups, least_p, measure, pooling``.

    ``distance`` is the mean over channels (eq. 10), of the mean histograms of groups. ``null`` is
    the noise floor: what it would be without a shift, measured on both sets mixed. ``excess``
    estimates the distance of the populations: the null is subtracted where noise adds, for most
    distances on the square, so it is not ``distance`` minus ``null``, and can be negative. ``low``
    and ``high`` are its 95 % interval, from leaving out one group at a time. ``p`` is that of a
    permutation test of the groups' domains, ``p_adjusted`` the same for all layers together
    (step-down max-T): below 0.05 a layer is clear of its null. ``behind`` is how much larger the
    largest excess is, with its 95 % interval. ``groups`` counts those of both sets, ``least_p`` is
    the smallest p that they allow. ``measure`` names the distance.

    With a single group in the reference there is nothing but ``distance``, with fewer than 3 groups
    in a set no interval.
    """

    channels: pd.DataFrame
    """``layer, depth, channel, value, null, measure, pooling``: the distance of each channel
    (eq. 9), for distances that have channels."""

    spec: ProfileSpec
    """Settings of the measurement."""

    skips: tuple[int, ...] | None = None
    """Skip levels that the network keeps; None if unknown."""

    outside: Mapping[str, float] = field(default_factory=dict)
    """Layer -> fraction of values beyond the edges of a fingerprint, the larger of both sets; empty
    if the edges are the joint range of both sets."""

    evidence: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False, compare=False)
    """What several runs of one network are joined by, a row per row of `layers`; not saved:
    ``layer, measure, pooling, groups, permuted, squares, kinds, power``."""

    def of(self, measure: str | None = None, pooling: str | None = None) -> pd.DataFrame:
        """Rows of `layers` of one distance and one pooling, the first of the spec by default.

        `ArgumentError` if they were not measured.
        """
        chosen = (measure or self.spec.distances[0], pooling or self.spec.pooling[0])
        rows = self.layers
        rows = rows[(rows["measure"] == chosen[0]) & (rows["pooling"] == chosen[1])]
        if rows.empty:
            raise ArgumentError(
                f"this profile has no {chosen[0]} of pooling {chosen[1]}; it has "
                f"{', '.join(self.spec.distances)} of {', '.join(self.spec.pooling)}"
            )
        return rows.reset_index(drop=True)

    def verdict(self) -> str:
        """Say in two sentences where the excess is largest, and how sure that is.

        A layer counts if `skipshift.statistics.layer_tests.is_clear` of its null. The first
        distance and pooling are used.
        """
        return profile_verdict(self.of())

    def plot(
        self, label: str = "", measure: str | None = None, pooling: str | None = None
    ) -> "Figure":
        """Draw excess, interval, distance and null of each layer.

        `ArgumentError` if the distance or pooling was not measured.
        """
        from skipshift.page.charts import profile_figure

        return profile_figure(self.of(measure, pooling), label)

    def _repr_html_(self) -> str:
        shown = self.of().drop(columns=["behind", "behind_low", "behind_high", "groups", "least_p"])
        return f"<p>{escape(self.verdict())}</p>{shown.round(3).to_html(index=False)}"

    def save(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        """Write layers.csv and channels.parquet, and settings and other fields as profile.json.

        ``about`` is what else profile.json is to hold, such as what the profile was made from.
        """
        write_table(Path(folder) / "layers.csv", self.layers, PROFILE_LAYERS)
        write_table(Path(folder) / "channels.parquet", self.channels)
        known = {
            "skips": self.skips,
            "outside": dict(self.outside),
            "verdict": self.verdict(),
        }
        record = {"spec": to_plain(self.spec), **known, **(about or {})}
        write_json(Path(folder) / "profile.json", record)

    @classmethod
    def load(cls, folder: Path) -> "Profile":
        """Read a folder written by `save`; `SkipshiftError` names an absent or broken file."""
        file = Path(folder) / "profile.json"
        known = from_plain(dict[str, Any], read_json(file), str(file))
        spec = from_plain(ProfileSpec, known.get("spec"), str(file))
        layers = read_table(file.with_name("layers.csv"), PROFILE_LAYERS)
        channels = read_table(file.with_name("channels.parquet"))
        skips = known.get("skips")
        return cls(
            layers,
            channels,
            spec,
            None if skips is None else tuple(skips),
            known.get("outside", {}),
        )
