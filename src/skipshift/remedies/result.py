"""The result of trying remedies: a table, a recommendation, and mended networks."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape

import pandas as pd
from torch import nn

from skipshift.errors import ArgumentError
from skipshift.names import shown
from skipshift.networks.changes import Change, Mended
from skipshift.page.remedy_sentences import Facts, Recommended, remedies_verdict
from skipshift.remedies.setting import Setting


@dataclass(frozen=True)
class Remedies:
    """Remedies that were tried on a network, judged on images that they were not fitted on."""

    table: pd.DataFrame
    """One row per remedy and place, best first; pairs as ``a+b`` at ``input+PLACE``. ``labels``:
    labelled images used. ``parameters``: numbers that the change consists of. ``seconds``: of
    fitting and judging. ``iou``: on the shifted set, cross-fitted; ``gain``: above the unmended
    network, with its 95 % interval over groups (``low``, ``high``); ``p_adjusted``: of the gain,
    for all rows together. ``in_domain``: IoU on the reference if the change were kept there;
    ``harm``: how far it is below the unmended network's, with its interval; NaN where it does not
    gain more than the margin (without masks, lower the excess). ``headroom``: IoU that
    comes back when the place is fed the reference's features of the same image (paired sets).
    ``excess_left``: excess in the last layer, with its interval; NaN where the change acts in that
    layer itself. ``relabelled``, ``relabelled_unshifted``: share of the foreground that the change
    relabels on the shifted set, and between halves of the reference, where nothing is shifted; NaN
    where that is not asked. ``weight``: that cross-fitting chose. ``unchanged``: share of the
    reference's pixels that keep their label; ``relabelled_reference``: share of its foreground that
    does not. ``collapsed``: a class that is predicted on the
    reference is all but gone. ``failed``: why a remedy could not be fitted, or empty."""

    facts: Facts

    interrupted: tuple[int, int] | None
    """Of a search that was interrupted, how many of how many remedies at places were tried."""

    _refit: Callable[[str, str, float], Change] = field(repr=False, compare=False)
    setting: Setting = field(repr=False, compare=False)
    """The network as it was given, and the sets."""

    @property
    def complete(self) -> bool:
        """Whether all remedies were tried: not if the search was interrupted."""
        return self.interrupted is None

    @property
    def best(self) -> Recommended | None:
        """The recommended remedy and its place; None where none is, or the search is not over."""
        return self.facts.best if self.complete else None

    def whole(self) -> "Remedies":
        """Return itself; `KeyboardInterrupt` if the search was interrupted."""
        if not self.complete:
            raise KeyboardInterrupt
        return self

    def verdict(self) -> str:
        """Say which remedy is recommended, what it gains and costs, or that none is."""
        if self.interrupted:
            done, number = self.interrupted
            return (
                f"The search was interrupted after {done} of {number} remedies at places, so none "
                f"is recommended yet; the same command goes on."
            )
        return remedies_verdict(self.table, self.facts)

    def change(self, remedy: str, place: str) -> Change:
        """Fit a remedy of the table on all shifted images; `ArgumentError` if it was not tried."""
        rows = self.table[(self.table["remedy"] == remedy) & (self.table["place"] == place)]
        if rows.empty:
            there = self.table.loc[self.table["remedy"] == remedy, "place"]
            tried = there if len(there) else self.table["remedy"].unique()
            what = f"{remedy} was tried at" if len(there) else "tried were"
            raise ArgumentError(f"{remedy}@{place} was not tried; {what} {shown(tried)}")
        if rows["failed"].iloc[0]:
            raise ArgumentError(f"{remedy}@{place} could not be fitted: {rows['failed'].iloc[0]}")
        return self._refit(remedy, place, float(rows["weight"].iloc[0]))

    def network(self, remedy: str | None = None, place: str | None = None) -> nn.Module:
        """Return a mended copy of the network, by default with the recommended remedy.

        The network itself where only weights changed, else a `Mended` that gives logits.
        `ArgumentError` if there is no such remedy, or none is recommended.
        """
        if remedy is None or place is None:
            if self.best is None:
                raise ArgumentError("no remedy is recommended; name a remedy and its place")
            remedy, place = self.best
        change = self.change(remedy, place)
        mended = Mended(copy.deepcopy(self.setting.net), change, self.setting.output).eval()
        return mended if change.inputs or change.maps else mended.net

    def _repr_html_(self) -> str:
        top = self.table.head(10).round(3).to_html(index=False)
        return f"<p>{escape(self.verdict())}</p>{top}"
