"""Two sets of images with their groups, and masks where there are any, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.networks.features import Groups, Images, as_input, batches_of, input_like
from skipshift.networks.outputs import Output, find_output
from skipshift.specs import CarrySpec, RemedySpec

Masks = npt.NDArray[np.uint8]
"""(N, H, W) class indices."""

Codes = npt.NDArray[np.int64]
"""(N,): number of each image's group among the sorted labels of its set."""

NAMES = ("reference", "shifted")


@dataclass(frozen=True)
class Labelled:
    """Images with groups, and masks or none."""

    name: str
    images: Images
    masks: Masks | None
    groups: npt.NDArray[Any]
    """(N,): group labels."""

    def batches(self, size: int) -> Iterator[tuple[Tensor, Masks | None, Codes]]:
        """Yield images, masks and indices of their groups, in batches.

        `ArgumentError` where the sizes or numbers of images and masks differ.
        """
        codes = np.unique(self.groups, return_inverse=True)[1]
        number, seen = len(self.groups), 0
        for images in batches_of(self.images, size, self.name):
            part = slice(seen, seen + len(images))
            seen = part.stop
            sides = tuple(images.shape[2:])
            if self.masks is not None and self.masks.shape[1:] != sides:
                raise ArgumentError(
                    f"masks of the {self.name} must have the size of its images, {sides}, "
                    f"got {self.masks.shape[1:]}"
                )
            if seen <= number:
                yield images, None if self.masks is None else self.masks[part], codes[part]
        if seen != number:
            what = "groups" if self.masks is None else "masks"
            raise ArgumentError(
                f"{what} must be one per image: the {self.name} has {seen} images and "
                f"{number} {what}"
            )


def labelled_pair(
    images: tuple[Images, Images],
    masks: Masks | tuple[Masks, Masks] | None,
    groups: Groups | tuple[Groups, Groups] | None,
    paired: bool,
) -> tuple[Labelled, Labelled]:
    """Join images with masks and groups; `ArgumentError` if they do not fit.

    Without groups each image is one of its own, which in paired sets is in both.
    """
    both = masks if isinstance(masks, tuple) else (masks, masks)
    labels: Any = groups if are_pair(groups) else (groups, groups)
    sets = [labelled(*each, paired) for each in zip(NAMES, images, both, labels, strict=True)]
    sizes = [len(i) if isinstance(i, np.ndarray | Tensor) else 0 for i in images]
    if paired and sizes[0] != sizes[1] and all(sizes):
        raise ArgumentError(
            f"mode paired needs the same images in both sets, got {sizes[0]} and {sizes[1]}; "
            f"choose mode quantile, zero or mean for unpaired images"
        )
    return sets[0], sets[1]


def are_pair(groups: Any) -> bool:
    """Whether groups are those of two sets, None of one without, and not the labels of two images.

    >>> are_pair((None, ["a", "b"])), are_pair(("a", "b"))
    (True, False)
    """
    if not isinstance(groups, tuple) or len(groups) != 2:
        return False
    return all(own is None or np.ndim(own) == 1 for own in groups)


def check_indices(data: Labelled, ignore: int | None) -> None:
    """Raise `ArgumentError` for masks of 0 and 255, which are no class indices."""
    if data.masks is not None and ignore is None and set(np.unique(data.masks)) == {0, 255}:
        raise ArgumentError(
            f"masks of the {data.name} hold 0 and 255; give class indices: masks // 255 if 255 is "
            f"the foreground"
        )


def as_indices(masks: npt.NDArray[Any] | Tensor) -> Masks:
    """Convert masks (N, H, W) or (N, D, H, W) of whole numbers in 0..255, of any type, to uint8.

    `ArgumentError` for others, such as 0.5, -1 or text.
    """
    given = np.asarray(masks)
    if given.ndim not in (3, 4) or len(given) == 0 or given.dtype.kind not in "biuf":
        raise ArgumentError(
            f"masks must be (N, H, W) uint8 class indices, got {given.dtype} {given.shape}"
        )
    if given.dtype == np.uint8:
        return given
    whole = (given >= 0) & (given <= 255) & (given == np.floor(given))
    if not whole.all():
        raise ArgumentError(
            f"masks must be class indices, whole numbers in 0..255, got {given[~whole][0]}"
        )
    return given.astype(np.uint8)


def labelled(
    name: str, images: Images, masks: Masks | None, groups: Groups | None, paired: bool
) -> Labelled:
    """Join one set's images with masks, if any, and groups; `ArgumentError` if they do not fit."""
    if iter(images) is images:
        raise ArgumentError(
            f"{name} must be an array or a loader that can be iterated more than once, "
            f"got a {type(images).__name__}"
        )
    if masks is None:
        number = sum(map(len, batches_of(images, 64, name)))
    else:
        masks = as_indices(masks)
        number = len(masks)
    own = [f"{'' if paired else name}{index}" for index in range(number)]
    labels = np.asarray(own if groups is None else groups)
    if labels.shape != (number,):
        raise ArgumentError(f"groups of the {name} must be one label per image, {number}")
    return Labelled(name, images, masks, labels)


@dataclass(frozen=True)
class _Kept:
    """Some images of a set, which can be iterated more than once."""

    images: Images
    name: str
    keep: npt.NDArray[np.bool_]

    def __iter__(self) -> Iterator[Tensor]:
        start = 0
        for batch in batches_of(self.images, 8, self.name):
            own = torch.from_numpy(self.keep[start : start + len(batch)])
            start += len(batch)
            if own.any():
                yield batch[own]


def subset(data: Labelled, keep: npt.NDArray[np.bool_]) -> Labelled:
    """Images of a set where ``keep`` (N,) is true."""
    masks = None if data.masks is None else data.masks[keep]
    return Labelled(data.name, _Kept(data.images, data.name, keep), masks, data.groups[keep])


def output_of(net: nn.Module, sets: Sequence[Labelled], spec: CarrySpec | RemedySpec) -> Output:
    """Find the network's logits on the first images; as many classes as the masks have, at least 2.

    `ArgumentError` as in `find_output`.
    """
    images, _, _ = next(sets[0].batches(spec.batch_size))
    masks = [data.masks for data in sets if data.masks is not None]
    seen = [int(np.max(m, where=m != spec.ignore, initial=0)) for m in masks]
    classes = max(2, max(seen) + 1) if masks else None
    example = as_input(images, input_like(net))
    return find_output(net, example, classes, spec.output, spec.activation)
