"""One run: a U-net trained by the paper's protocol and selected on its validation fold."""

import logging
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from skipshift.counts import count, iou
from skipshift.data.crops import Crops, EpochSampler
from skipshift.data.images import Pixels
from skipshift.data.manifest import Case
from skipshift.inference import best_device, labels_of, use_bf16
from skipshift.losses import segmentation_loss
from skipshift.models import Unet
from skipshift.progress import Progress, silent
from skipshift.specs import SkipshiftError, TrainingSpec

CHECKPOINTS = "checkpoints"
"""Folder of a run that lives while it is trained."""


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    net: Unet
    """The network of the best epoch, in evaluation mode, float32."""

    record: dict[str, Any]
    """``best_epoch, validation_iou, epochs, seconds, precision, parameters``."""

    history: list[dict[str, float]]
    """``epoch, train_loss, validation_iou, learning_rate`` of each epoch."""


def train(
    net: Unet,
    training: Sequence[Case],
    validation: Sequence[Case],
    spec: TrainingSpec,
    seed: int,
    folder: Path,
    progress: Progress = silent,
) -> Trained:
    """Train a network and keep the epoch of the highest validation mIoU (section IV-C).

    Parameters
    ----------
    training, validation
        Decoded cases; validation images may be whole or cropped, sides multiples of 32.
    folder
        The run's; a run that was cut off goes on from the checkpoints below it.
    """
    started = time.monotonic()
    bf16 = use_bf16(spec.precision, best_device())
    module = _Run(net, spec)
    sampler = EpochSampler(len(training) * spec.crops_per_image, seed)
    loader: DataLoader[Any] = DataLoader(
        Crops(training, spec, seed),
        batch_size=spec.batch_size,
        sampler=sampler,
        num_workers=spec.workers,
        persistent_workers=spec.workers > 0,
        # a last batch of one image would leave the bottleneck's batch norm too few values
        drop_last=len(sampler) > spec.batch_size,
    )
    checks: DataLoader[Any] = DataLoader(_Whole(validation), _batch_of(validation, spec))
    checkpoints = folder / CHECKPOINTS
    best = ModelCheckpoint(
        checkpoints,
        filename="best",
        monitor="validation_iou",
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(checkpoints, filename="last", enable_version_counter=False)
    steps = spec.epochs * len(loader)
    with _quiet():
        trainer = lightning.Trainer(
            max_epochs=spec.epochs,
            accelerator=best_device(),
            devices=1,
            precision="bf16-mixed" if bf16 else "32-true",
            callbacks=[best, last, _Ticks(progress, steps, folder.name)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        _fit(trainer, module, loader, checks, checkpoints / "last.ckpt")
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
    net.load_state_dict({key.removeprefix("net."): tensor for key, tensor in state.items()})
    chosen = max(module.history, key=lambda row: row["validation_iou"])
    record = {
        "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
        "epochs": spec.epochs,
        "best_epoch": chosen["epoch"],
        "validation_iou": chosen["validation_iou"],
        "seconds": round(time.monotonic() - started, 1),
        "precision": "bf16" if bf16 else "fp32",
    }
    return Trained(net.cpu().eval(), record, module.history)


class _Run(lightning.LightningModule):
    """What Lightning needs to know of a run."""

    def __init__(self, net: Unet, spec: TrainingSpec) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)
        self.spec = spec
        self.history: list[dict[str, float]] = []
        self._rate = spec.learning_rate
        self._losses: list[Tensor] = []
        self._counts = np.zeros((net.classes, 3), np.int64)

    def on_train_epoch_start(self) -> None:
        self._rate = self.trainer.optimizers[0].param_groups[0]["lr"]

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, masks = batch
        logits = self.net(_channels_first(images))
        loss = segmentation_loss(logits, masks.long(), self.spec.cross_entropy, self.spec.dice)
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        images, masks = batch
        labels = labels_of(self.net(_channels_first(images)))
        self._counts += count(masks.cpu().numpy(), labels, self.net.classes).sum(0)

    def on_validation_epoch_end(self) -> None:
        loss = float(torch.stack(self._losses).mean())
        if not np.isfinite(loss):
            raise SkipshiftError(
                f"training: the loss is {loss} in epoch {self.current_epoch}; "
                f"lower learning_rate or set precision to fp32"
            )
        score = float(np.nanmean(iou(self._counts)))
        self.history.append(
            {
                "epoch": self.current_epoch,
                "train_loss": loss,
                "validation_iou": score,
                "learning_rate": self._rate,
            }
        )
        self.log("validation_iou", score)
        self._losses.clear()
        self._counts[:] = 0

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), self.spec.learning_rate, fused=True)
        decay = torch.optim.lr_scheduler.StepLR(
            optimizer, self.spec.decay_every, self.spec.decay_factor
        )
        return {"optimizer": optimizer, "lr_scheduler": decay}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = list(self.history)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint["history"])


class _Whole(Dataset[tuple[Pixels, Pixels]]):
    """Validation cases as they are."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> tuple[Pixels, Pixels]:
        return self.cases[index].image, self.cases[index].mask


class _Ticks(Callback):
    """Tells the progress of a run step by step."""

    def __init__(self, progress: Progress, steps: int, label: str) -> None:
        self._ticks = iter(progress(range(steps), f"train {label}", steps))

    def on_train_batch_end(self, *_: Any) -> None:
        next(self._ticks, None)

    def on_train_end(self, *_: Any) -> None:
        next(self._ticks, None)


def _fit(
    trainer: lightning.Trainer,
    module: _Run,
    loader: DataLoader[Any],
    checks: DataLoader[Any],
    last: Path,
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(
            module, loader, checks, ckpt_path=last if last.exists() else None, weights_only=True
        )
    except SystemExit:
        # Lightning turns Ctrl-C into an exit and leaves the signal switched off
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, handler)


def _channels_first(images: Tensor) -> Tensor:
    """(N, H, W, C) uint8 as float32 (N, C, H, W) in [0, 1], channels last in memory as it came."""
    return images.permute(0, 3, 1, 2).float().div_(255)


def _batch_of(cases: Sequence[Case], spec: TrainingSpec) -> int:
    """Batch size for whole images: one at a time where their sizes differ."""
    return spec.batch_size if len({case.mask.shape for case in cases}) == 1 else 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's advice and announcements: the library never prints."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
