"""Causes of a shift that are mistakes, not scanners: made on the reference, they explain it all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from skipshift.networks.features import collect
from skipshift.networks.layers import Layers
from skipshift.page.diagnosis_sentences import LEVEL
from skipshift.patching.labelled import Labelled
from skipshift.profile.layerwise import draw
from skipshift.remedies.likeness import Floats, Likeness, Shown, joined
from skipshift.remedies.mistakes import CAUSES, centred, mistakes
from skipshift.remedies.setting import Setting
from skipshift.specs import ProfileSpec

NONE = "none"

REST = 0.25
"""Part of the squared excess that a mistake may leave unexplained, and still be the cause."""

_GRID = {2: 8, 3: 4}
"""Cells along each side of an image, and of a volume."""

_AS_IS = nn.Identity()

Sides = tuple[int, ...]


@dataclass(frozen=True)
class Cause:
    """What made the shift, as far as the profile tells."""

    name: str
    """`NONE` if no mistake explains the shift."""

    undone_by: str
    """Remedy of the input that undoes it, or empty."""

    clear: bool
    """Whether the sets differ; else nothing was looked for."""

    table: pd.DataFrame
    """``remedy, cause, clear, left``, best first: layers that are clear of their null beside a
    reference with the mistake, and the part of the squared excess that is left. Of mistakes that
    the images show not to be the cause, those of the input alone."""


def find_cause(setting: Setting) -> Cause:
    """Make each mistake that images like these can have on the reference, and ask what is left.

    The reference with the mistake is compared with the shifted set as it is, so that nothing that
    the mistake lost has to be brought back: in the images and in all layers, by values and by where
    they lie. A mistake can be the cause if the sets as they are differ at `LEVEL`, no layer does
    beside the reference with the mistake, and at most `REST` of the squared excess is left. Of
    several within `REST` of the least, the cause is the one whose images are most like the shifted
    ones. The network sees only mistakes that the images alone do not exclude.
    """
    asked = _Question(setting)
    rows, left = [], {}
    clear = asked.clear(asked.sides(_AS_IS))
    if clear:
        for name, made in mistakes(setting):
            found, part = asked.ask(made)
            if found is not None:
                number = int((found.p < LEVEL).sum())
                rows.append((name, CAUSES[name], number, part))
                if not number and part <= REST:
                    left[name] = made, part
    table = pd.DataFrame(rows, columns=["remedy", "cause", "clear", "left"])
    table = table.sort_values(["clear", "left"], kind="stable").reset_index(drop=True)
    if not left:
        return Cause(NONE, "", clear, table)
    least = min(part for _, part in left.values())
    name = asked.likest({n: made for n, (made, part) in left.items() if part <= least + REST})
    return Cause(CAUSES[name], name, clear, table)


@dataclass(frozen=True)
class _Mapped:
    """Images of a set, each batch mapped and cut to sides."""

    data: Labelled
    made: nn.Module
    size: int
    sides: Sides = ()

    def __iter__(self) -> Iterator[Tensor]:
        for images, _, _ in self.data.batches(self.size):
            scale = 255 if images.dtype == torch.uint8 else 1
            mapped: Tensor = self.made(images.float() / scale)
            yield centred(mapped, self.sides) if self.sides else mapped


class _Question:
    """Two sets, and what was computed of the shifted one and of both as they are."""

    def __init__(self, setting: Setting) -> None:
        assert setting.home is not None
        self._setting = setting
        self._home, self._away = setting.home.data, setting.shifted.data
        spec = ProfileSpec(permutation_draws=999, null_draws=0, seed=setting.spec.seed)
        self._draws = draw((self._home.groups, self._away.groups), spec)
        self._shown: dict[Sides, Shown] = {}
        self._before: dict[Sides, Likeness] = {}

    def sides(self, made: nn.Module) -> Sides:
        """Sides that the shifted images and the reference with a mistake both have."""
        firsts = (
            next(iter(_Mapped(self._home, made, 1))),
            next(iter(_Mapped(self._away, _AS_IS, 1))),
        )
        return tuple(map(min, *(images.shape[2:] for images in firsts)))

    def clear(self, sides: Sides) -> bool:
        """Whether the sets differ as they are, cut to sides."""
        if self._draws.permuted is None:
            return False
        if sides not in self._before:
            self._shown[sides] = Shown(self._draws, self._features(self._away, _AS_IS, sides))
            self._before[sides] = self._shown[sides].compare(
                self._features(self._home, _AS_IS, sides)
            )
        return bool((self._before[sides].p < LEVEL).any())

    def ask(self, made: nn.Module) -> tuple[Likeness | None, float]:
        """Compare with the reference with a mistake, and tell the part of the excess that is left.

        In the images alone if those exclude the mistake. None where the sets as they are do not
        differ in what both images show.
        """
        sides = self.sides(made)
        if not self.clear(sides):
            return None, np.nan
        shown, before = self._shown[sides], self._before[sides].excess
        found = shown.compare(self._pixels(self._home, made, sides))
        if (found.p >= LEVEL).all():
            found = shown.compare(self._features(self._home, made, sides))
        return found, found.excess / before

    def likest(self, left: Mapping[str, nn.Module]) -> str:
        """Name the mistake whose images are most like the shifted ones."""
        names = list(left)
        if len(names) == 1:
            return names[0]
        sides = tuple(map(min, *(self.sides(made) for made in left.values())))
        self.clear(sides)
        sets = [self._features(self._home, made, sides) for made in left.values()]
        return names[self._shown[sides].likest(sets)]

    def _pixels(self, data: Labelled, made: nn.Module, sides: Sides) -> dict[str, Floats]:
        return self._collected(nn.Identity(), {"input": ""}, data, made, sides)

    def _features(self, data: Labelled, made: nn.Module, sides: Sides) -> dict[str, Floats]:
        """Features of the input and of all layers."""
        layers = self._collected(self._setting.net, None, data, made, sides)
        return {**self._pixels(data, made, sides), **layers}

    def _collected(
        self, net: nn.Module, layers: Layers | None, data: Labelled, made: nn.Module, sides: Sides
    ) -> dict[str, Floats]:
        images = _Mapped(data, made, self._setting.spec.batch_size, sides)
        return joined(collect(net, images, layers, grid=_GRID[self._setting.sides])["average"])
