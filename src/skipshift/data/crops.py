"""Training crops and samplers: random flip, rotation and scaling in one affine warp, colours."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
from torch import distributed
from torch.utils.data import Dataset, Sampler

from skipshift import shifts
from skipshift.data.images import Pixels
from skipshift.data.manifest import Case
from skipshift.errors import ArgumentError
from skipshift.study_specs import TrainingSpec

Item = tuple[int, int]
"""(epoch, index): with the seed, all that a crop depends on, whatever the order or the workers."""


class Crops(Dataset[tuple[Pixels, Pixels]]):
    """Random crops of cases in memory."""

    def __init__(self, cases: Sequence[Case], spec: TrainingSpec, seed: int) -> None:
        if spec.color_jitter and (odd := [c for c in cases if c.image.shape[2] not in (1, 3)]):
            raise ArgumentError(
                f"color_jitter needs grey or RGB images, but case {odd[0].case} has "
                f"{odd[0].image.shape[2]} channels; set it to 0"
            )
        self.cases, self.spec, self.seed = cases, spec, seed

    def __len__(self) -> int:
        return len(self.cases) * self.spec.crops_per_image

    def __getitem__(self, item: Item) -> tuple[Pixels, Pixels]:
        """Draw a crop: image (crop, crop, C) and mask (crop, crop), uint8."""
        epoch, index = item
        rng = np.random.default_rng((self.seed, epoch, index))
        case = self.cases[index % len(self.cases)]
        return random_crop(case.image, case.mask, self.spec, rng)


class EpochSampler(Sampler[Item]):
    """Every index once per epoch, in an order given by the seed and the epoch.

    Distributed processes share the indices evenly; the remainder is dropped.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; called by Lightning."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // rank_and_size()[1]

    def __iter__(self) -> Iterator[Item]:
        rank, world = rank_and_size()
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        # every process must take the same number of steps
        return ((self.epoch, int(index)) for index in order[rank::world][: len(self)])


class ShardSampler(Sampler[int]):
    """Indices rank, rank + world size, ...: every index once over all processes, none repeated."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return len(range(rank_and_size()[0], self.length, rank_and_size()[1]))

    def __iter__(self) -> Iterator[int]:
        rank, world = rank_and_size()
        return iter(range(rank, self.length, world))


def rank_and_size() -> tuple[int, int]:
    """Rank and world size of distributed training; 0 and 1 without it."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def random_crop(
    image: Pixels, mask: Pixels, spec: TrainingSpec, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Draw one random crop of an image (H, W, C) and its mask (H, W) by the same affine map.

    Beyond the border the image is reflected.
    """
    matrix = draw_affine(mask.shape, spec, rng)
    size = (spec.crop, spec.crop)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REFLECT_101
    warped = cv2.warpAffine(image, matrix, size, flags=flags, borderMode=border)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    labels = cv2.warpAffine(mask, matrix, size, flags=flags, borderMode=border)
    # OpenCV drops the axis of a single channel
    crop = np.asarray(warped, np.uint8).reshape(*labels.shape, image.shape[2])
    if spec.color_jitter:
        for shift in shifts.SHIFTS.values():
            crop = shift(crop, 1 + spec.color_jitter * rng.uniform(-1, 1))
    return crop, np.asarray(labels, np.uint8)


def draw_affine(
    shape: tuple[int, ...], spec: TrainingSpec, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Draw the (2, 3) map from crop to image coordinates (x, y).

    The crop's footprint lies at random within the image if it fits, else it is centred.
    """
    scale = np.exp(rng.uniform(*np.log(spec.scale)))
    angle = np.deg2rad(rng.uniform(-spec.rotation, spec.rotation))
    flips = np.where(rng.random(2) < spec.flip, -1.0, 1.0)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    linear = np.array([[cos, -sin], [sin, cos]]) * flips
    footprint = np.abs(linear).sum(1) * spec.crop
    room = np.maximum(np.array([shape[1], shape[0]]) - footprint, 0)
    centre = np.array([shape[1] - 1, shape[0] - 1]) / 2 + rng.uniform(-0.5, 0.5, 2) * room
    crop_centre = np.full(2, (spec.crop - 1) / 2)
    # whole pixels, so that a crop without rotation and scaling is not interpolated
    return np.column_stack([linear, np.rint(centre - linear @ crop_centre)])
