"""The jobs that are timed: ours, and the same work as a user of smp would write it.

Each takes a manifest and the side of what the network sees, and returns images per second.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

STEPS = {128: 12, 512: 6}
"""Training steps to take, by side of the crop; the first two are not timed."""

WARM_UP = 2
BATCH = 8


def ours_train(manifest: Path, side: int) -> float:
    from skipshift.data.manifest import read_cases, read_manifest
    from skipshift.networks.unet import Unet
    from skipshift.study.training import RunOutput, train
    from skipshift.study_specs import TrainingSpec

    cases = list(read_cases(read_manifest(manifest), 2))
    crops = -(-STEPS[side] * BATCH // len(cases))
    spec = TrainingSpec(encoder_weights=None, epochs=1, crop=side, crops_per_image=crops)
    small = [dataclasses.replace(c, image=c.image[:64, :64], mask=c.mask[:64, :64]) for c in cases]
    times: list[float] = []

    def watch(items: Iterable[int], _label: str, _total: int | None = None) -> Iterator[int]:
        for item in items:
            times.append(time.perf_counter())
            yield item

    with tempfile.TemporaryDirectory() as folder:
        train(Unet(), cases, small[:1], spec, 0, RunOutput(Path(folder), progress=watch))
    return _rate(times)


def plain_train(manifest: Path, side: int) -> float:
    import segmentation_models_pytorch as smp
    import torch
    from torch.utils.data import DataLoader

    net = smp.Unet("resnet18", encoder_weights=None, classes=2).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    entropy, dice = torch.nn.CrossEntropyLoss(), smp.losses.DiceLoss("multiclass")
    repeats = -(-STEPS[side] * BATCH // len(pd.read_csv(manifest)))
    data = _dataset(manifest, side, augment=True, repeats=repeats)
    loader = DataLoader(data, BATCH, shuffle=True, drop_last=True)
    times = []
    for images, masks in loader:
        logits = net(images)
        loss = entropy(logits, masks) + dice(logits, masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter())
    return _rate(times)


def ours_evaluate(manifest: Path, side: int) -> float:
    from skipshift.data.manifest import read_cases, read_manifest
    from skipshift.networks.unet import Unet
    from skipshift.study.evaluation import evaluate

    net, rows = Unet().eval(), read_manifest(manifest)
    evaluate(net, read_cases(rows.head(BATCH), 2, side), ("background", "cell"))
    start = time.perf_counter()
    evaluate(net, read_cases(rows, 2, side), ("background", "cell"))
    return len(rows) / (time.perf_counter() - start)


def plain_evaluate(manifest: Path, side: int) -> float:
    import segmentation_models_pytorch as smp
    import torch
    from torch.utils.data import DataLoader

    net = smp.Unet("resnet18", encoder_weights=None, classes=2).eval()
    data = _dataset(manifest, side, augment=False)

    def run(batches: int) -> None:
        with torch.no_grad():
            for index, (images, masks) in enumerate(DataLoader(data, BATCH)):
                if index == batches:
                    return
                labels = net(images).argmax(1)
                stats = smp.metrics.get_stats(labels, masks, mode="multiclass", num_classes=2)
                smp.metrics.iou_score(*stats, reduction="micro")

    run(1)
    start = time.perf_counter()
    run(len(data))
    return len(data) / (time.perf_counter() - start)


def ours_carry(manifest: Path, side: int) -> float:
    from skipshift import shifts
    from skipshift.networks.unet import Unet
    from skipshift.patching.carry import carry

    net, images, masks = Unet().eval(), *_stacked(manifest, side)
    pair = [part.transpose(0, 3, 1, 2) for part in (images, shifts.brightness(images, 0.75))]
    carry(net, *(part[:BATCH] for part in pair), masks[:BATCH])
    start = time.perf_counter()
    carry(net, *pair, masks)
    return len(images) / (time.perf_counter() - start)


def plain_carry(manifest: Path, side: int) -> float:
    """Bare forward passes of the same network, as fast as ours, for each path and two more."""
    import torch

    from skipshift.networks.allocator import keep_memory
    from skipshift.networks.features import as_input
    from skipshift.networks.inference import fast_copy
    from skipshift.networks.unet import Unet
    from skipshift.patching.paths import paths_of

    keep_memory()
    net, images, _ = Unet().eval(), *_stacked(manifest, side)
    passes = len(paths_of(net)) + 2
    batches = torch.from_numpy(images.transpose(0, 3, 1, 2)).split(BATCH)
    fast = fast_copy(net, batches[0][:1].float() / 255)
    with torch.inference_mode():
        fast(as_input(batches[0], next(fast.parameters())))
        start = time.perf_counter()
        for _ in range(passes):
            for batch in batches:
                fast(as_input(batch, next(fast.parameters())))
    return len(images) / (time.perf_counter() - start)


def _stacked(manifest: Path, side: int):
    from skipshift.data.manifest import read_cases, read_manifest

    cases = list(read_cases(read_manifest(manifest).head(4 * BATCH), 2, side))
    return (np.stack([getattr(case, part) for case in cases]) for part in ("image", "mask"))


def ours_synth(manifest: Path, side: int) -> float:
    from skipshift.data.prepare.options import SynthSpec
    from skipshift.data.prepare.synthetic import write_synthetic

    with tempfile.TemporaryDirectory(dir=manifest.parent) as folder:
        start = time.perf_counter()
        write_synthetic(SynthSpec(Path(folder), images=200, size=side, workers=2))
        return 200 / (time.perf_counter() - start)


def plain_synth(manifest: Path, side: int) -> float:
    """Pillow all the way, one image after the other."""
    from PIL import Image

    from skipshift.data.prepare.options import SynthSpec
    from skipshift.data.prepare.smear_masks import cell_mask, stain_mask
    from skipshift.data.prepare.templates import load_templates

    templates = load_templates(SynthSpec(manifest.parent))
    ground = Image.fromarray(templates.background)
    cells = [(Image.fromarray(c), Image.fromarray(cell_mask(c))) for c in templates.cells]
    specks = [(Image.fromarray(a), Image.fromarray(stain_mask(a))) for a in templates.artifacts]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=manifest.parent) as folder:
        start = time.perf_counter()
        for index in range(16):
            image = ground.rotate(90 * int(rng.integers(4))).resize((1500, 1500))
            mask = Image.new("L", image.size)
            for number in rng.integers(len(cells), size=int(rng.integers(1, 101))):
                pixels, shape = cells[number]
                place = tuple(int(v) for v in rng.integers(0, 1500 - np.array(pixels.size)))
                image.paste(pixels, place, shape)
                mask.paste(1, place, shape)
            for pixels, shape in specks:
                place = tuple(int(v) for v in rng.integers(0, 1500 - np.array(pixels.size)))
                image.paste(pixels, place, shape)
            image.resize((side, side)).save(Path(folder) / f"{index}.png")
            mask.resize((side, side), Image.Resampling.NEAREST).save(Path(folder) / f"m{index}.png")
        return 16 / (time.perf_counter() - start)


def ours_check(manifest: Path, _side: int) -> float:
    from skipshift.data.checks.preflight import check_manifest

    start = time.perf_counter()
    check_manifest(manifest, workers=2)
    return len(pd.read_csv(manifest)) / (time.perf_counter() - start)


def plain_check(manifest: Path, _side: int) -> float:
    """Only decode the files, with Pillow in as many threads."""
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    rows = pd.read_csv(manifest)
    files = [manifest.parent / name for name in [*rows["image"], *rows["mask"]]]
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda file: Image.open(file).load(), files))
    return len(rows) / (time.perf_counter() - start)


def ours_slide(manifest: Path, side: int) -> float:
    from skipshift.data.images import one_thread_an_image
    from skipshift.data.slides.reader import open_slide

    with one_thread_an_image(), tempfile.TemporaryDirectory() as folder:
        path, places = _slide(manifest, Path(folder), side)
        with open_slide(path) as slide:
            return _patches_a_second(lambda place: slide.read(*place, side, side), places)


def plain_slide(manifest: Path, side: int) -> float:
    """Bare calls of OpenSlide, whose pictures nobody looks at, in as many threads."""
    import openslide

    with tempfile.TemporaryDirectory() as folder:
        path, places = _slide(manifest, Path(folder), side)
        with openslide.OpenSlide(path) as slide:
            return _patches_a_second(lambda at: slide.read_region(at, 0, (side, side)), places)


def _slide(manifest: Path, folder: Path, side: int) -> tuple[Path, list[tuple[int, int]]]:
    """A slide of 6 x 8 images in tiles of JPEG, and 600 places on it."""
    import tifffile
    from PIL import Image

    images = [np.asarray(Image.open(file)) for file in sorted(manifest.parent.glob("images/*"))]
    picture = np.concatenate([np.concatenate(images[i : i + 8], axis=1) for i in range(0, 48, 8)])
    path = folder / "slide.tif"
    tifffile.imwrite(
        path, picture, tile=(256, 256), compression="jpeg", photometric="rgb", metadata=None
    )
    most = np.array(picture.shape[1::-1]) - side
    places = np.random.default_rng(0).integers(0, most, (600, 2))
    return path, [(int(x), int(y)) for x, y in places]


def _patches_a_second(
    read: Callable[[tuple[int, int]], object], places: list[tuple[int, int]]
) -> float:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(read, places[:8]))
        start = time.perf_counter()
        list(pool.map(read, places))
        return len(places) / (time.perf_counter() - start)


JOBS: Mapping[str, Callable[[Path, int], float]] = {
    job.__name__: job
    for job in (
        ours_synth,
        plain_synth,
        ours_check,
        plain_check,
        ours_train,
        plain_train,
        ours_evaluate,
        plain_evaluate,
        ours_carry,
        plain_carry,
        ours_slide,
        plain_slide,
    )
}


def _rate(times: list[float]) -> float:
    return BATCH / median(np.diff(times[WARM_UP:]))


def _dataset(manifest: Path, side: int, augment: bool, repeats: int = 1):
    """Decode each image when it is asked for and transform it with torchvision."""
    import torch
    from PIL import Image
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    rows = pd.concat([pd.read_csv(manifest)] * repeats)
    steps = [
        v2.RandomAffine(180, scale=(0.8, 1.25), interpolation=v2.InterpolationMode.BILINEAR),
        v2.RandomCrop(side),
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
    ]
    transform = v2.Compose(steps if augment else [v2.CenterCrop(side)])

    class Files(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int):
            row = rows.iloc[index]
            pixels = [np.array(Image.open(manifest.parent / row[k])) for k in ("image", "mask")]
            image = tv_tensors.Image(torch.from_numpy(pixels[0]).permute(2, 0, 1))
            image, mask = transform(image, tv_tensors.Mask(torch.from_numpy(pixels[1])))
            return image.float() / 255, mask.long()

    return Files()
