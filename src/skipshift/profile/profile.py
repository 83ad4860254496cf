"""The result of a profile: its tables, files, verdict and chart."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skipshift.errors import ArgumentError
from skipshift.page.profile_sentences import profile_verdict
from skipshift.records import read_json, read_table, write_json, write_table
from skipshift.specs import ProfileSpec, from_plain, to_plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Profile:
    """Distances between two sets of images inside one network, by layer and by channel."""

    layers: pd.DataFrame
    """A row per layer in depth order, for each distance and pooling that was asked for:
    ``layer, depth, distance, null, excess, low, high, p, p_adjusted, measure, pooling``.

    ``distance`` is the mean over channels (eq. 10), ``null`` what it would be had nothing shifted,
    from splits of the reference, ``excess`` their difference; ``low`` and ``high`` are a 95 %
    interval of ``distance`` by bootstrap over groups. ``p`` is the chance of such a distance where
    the groups' domains are shuffled, ``p_adjusted`` the same for all layers together (Holm 1979).
    ``measure`` names the distance. With a single group in the reference all but ``distance`` is
    NaN.
    """

    channels: pd.DataFrame
    """``layer, depth, channel, value, null, measure, pooling``: the distance of each channel
    (eq. 9), for distances that have channels."""

    spec: ProfileSpec
    """How it was measured."""

    skips: tuple[int, ...] | None = None
    """Skip levels that the network keeps; None where they are not known."""

    smallest_p: float = np.nan
    """Share of the permutations that leave the sets whole: no p can fall below."""

    outside: Mapping[str, float] = field(default_factory=dict)
    """Layer -> share of the values that lie beyond the edges of a fingerprint, in the set that has
    more of them; empty where the edges are those of both sets together."""

    def of(self, measure: str | None = None, pooling: str | None = None) -> pd.DataFrame:
        """Rows of `layers` of one distance and one pooling, the first of the spec by default."""
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
        """Say in two sentences where the shift is largest, which skips pass it on, and how sure.

        A layer counts where its ``p_adjusted`` is below 0.025. A skip passes the shift on where
        both its ends count and the excess is larger behind it than in the layer before. Of the
        first distance and pooling.
        """
        return profile_verdict(self.of(), self.skips, self.smallest_p)

    def plot(
        self, label: str = "", measure: str | None = None, pooling: str | None = None
    ) -> "Figure":
        """Draw the distance of each layer with its interval, above the null."""
        from skipshift.page.charts import profile_figure

        return profile_figure(self.of(measure, pooling), label)

    def save(self, folder: Path) -> None:
        """Write layers and channels as tables, the settings and what else is known as JSON."""
        write_table(Path(folder) / "profile.csv", self.layers)
        write_table(Path(folder) / "channels.parquet", self.channels)
        known = {
            "skips": self.skips,
            "smallest_p": None if np.isnan(self.smallest_p) else self.smallest_p,
            "outside": dict(self.outside),
        }
        write_json(Path(folder) / "profile.json", {"spec": to_plain(self.spec), **known})

    @classmethod
    def load(cls, folder: Path) -> "Profile":
        """Read what `save` wrote; `SkipshiftError` names a file that is absent or broken."""
        file = Path(folder) / "profile.json"
        known = from_plain(dict[str, Any], read_json(file), str(file))
        spec = from_plain(ProfileSpec, known.get("spec"), str(file))
        layers, channels = (
            read_table(file.with_name(name)) for name in ("profile.csv", "channels.parquet")
        )
        skips, smallest_p = known.get("skips"), known.get("smallest_p")
        return cls(
            layers,
            channels,
            spec,
            None if skips is None else tuple(skips),
            np.nan if smallest_p is None else smallest_p,
            known.get("outside", {}),
        )
