"""One run: a U-net trained by the paper's protocol and selected on its validation fold."""

import inspect
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
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from skipshift.data.crops import Crops, EpochSampler, ShardSampler, rank_and_size
from skipshift.data.images import Pixels
from skipshift.data.manifest import Case
from skipshift.errors import SkipshiftError
from skipshift.networks.inference import best_device, labels_of, use_bf16
from skipshift.networks.losses import segmentation_loss
from skipshift.networks.unet import Unet
from skipshift.progress import Progress, silent
from skipshift.records import atomic
from skipshift.specs import TrainingSpec
from skipshift.statistics.counts import count, iou

CHECKPOINTS = "checkpoints"
"""Folder of a run that lives while it is trained."""


@dataclass(frozen=True)
class RunOutput:
    """Where a run keeps its files, and who hears of it."""

    folder: Path
    """The run's; a run that was cut off goes on from the checkpoints below it."""

    loggers: Sequence[Logger] = ()
    """Lightning's, for the curves of the run."""

    progress: Progress = silent


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
    place: RunOutput,
) -> Trained:
    """Train a network and keep the epoch of the highest validation mIoU (section IV-C).

    Parameters
    ----------
    training, validation
        Decoded cases; validation images may be whole or cropped, sides multiples of 32.
    seed
        Of crops, their order and dropout; the network's first weights are as they come.

    Returns
    -------
    The network of the best epoch. With equal threads on one kind of processor a run that was cut
    off and goes on ends in the same weights as one that was not.
    """
    started = time.monotonic()
    bf16 = use_bf16(spec.precision, best_device())
    module = _Run(net, spec, seed)
    sampler = EpochSampler(len(training) * spec.crops_per_image, seed)
    batch = spec.batch_size // spec.devices
    loader: DataLoader[Any] = DataLoader(
        Crops(training, spec, seed),
        batch_size=batch,
        sampler=sampler,
        num_workers=spec.workers,
        persistent_workers=spec.workers > 0,
        # a last batch of one image would leave the bottleneck's batch norm too few values
        drop_last=len(sampler) > batch,
    )
    checks: DataLoader[Any] = DataLoader(
        _Whole(validation), _batch_of(validation, spec), sampler=ShardSampler(len(validation))
    )
    checkpoints = place.folder / CHECKPOINTS
    best = ModelCheckpoint(
        checkpoints,
        filename="best",
        monitor="validation_iou",
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(checkpoints, filename="last", enable_version_counter=False)
    ticks = _Ticks(place.progress, spec.epochs * len(loader), place.folder.name)
    with _quiet(), torch.random.fork_rng():
        trainer = lightning.Trainer(
            max_epochs=spec.epochs,
            accelerator=best_device(),
            devices=spec.devices,
            strategy=_strategy(spec.devices),
            sync_batchnorm=spec.devices > 1 and best_device() == "cuda",
            use_distributed_sampler=False,
            precision="bf16-mixed" if bf16 else "32-true",
            callbacks=[best, last, *([ticks] if spec.devices == 1 else [])],
            plugins=[_AtomicCheckpoints()],
            logger=list(place.loggers),
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        _fit(trainer, module, loader, checks, checkpoints / "last.ckpt")
    # from the files, because with several devices the training was in other processes
    state = _read(checkpoints / "best.ckpt")["state_dict"]
    net.load_state_dict({key.removeprefix("net."): tensor for key, tensor in state.items()})
    history: list[dict[str, float]] = _read(checkpoints / "last.ckpt")["history"]
    chosen = max(history, key=lambda row: row["validation_iou"])
    record = {
        "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
        "epochs": spec.epochs,
        "best_epoch": chosen["epoch"],
        "validation_iou": chosen["validation_iou"],
        "seconds": round(time.monotonic() - started, 1),
        "precision": "bf16" if bf16 else "fp32",
    }
    return Trained(net.cpu().eval(), record, history)


def _strategy(devices: int) -> DDPStrategy | str:
    if devices == 1:
        return "auto"
    # Validation shards differ in length, so no forward pass may wait for the others to share its
    # buffers. Newer torch calls that option by another name.
    known = inspect.signature(DistributedDataParallel).parameters
    share = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {share: False}
    return DDPStrategy(start_method="spawn", **options)


def _read(checkpoint: Path) -> dict[str, Any]:
    values: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return values


class _AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole whenever they are there, even after a loss of power."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: Any,
        storage_options: Any = None,  # noqa: ARG002
    ) -> None:
        with atomic(Path(path)) as scratch:
            torch.save(checkpoint, scratch)


class _Run(lightning.LightningModule):
    """What Lightning needs to know of a run."""

    def __init__(self, net: Unet, spec: TrainingSpec, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.net = net.to(memory_format=torch.channels_last)
        self.spec = spec
        self.history: list[dict[str, float]] = []
        self._rate = spec.learning_rate
        self._losses: list[Tensor] = []
        self._counts = np.zeros((net.classes, 3), np.int64)

    def on_train_epoch_start(self) -> None:
        self._rate = self.trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_start(self, _batch: Any, index: int) -> None:
        if index == 0:
            # dropout depends on seed and epoch alone, like crops, so that a run can be cut off
            state = np.random.SeedSequence((self.seed, self.current_epoch, rank_and_size()[0]))
            torch.manual_seed(int(state.generate_state(1)[0]))

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, masks = batch
        logits = self.net(_channels_first(images))
        loss = segmentation_loss(logits, masks.long(), self.spec.cross_entropy, self.spec.dice)
        self._losses.append(loss.detach())
        return loss

    def on_validation_start(self) -> None:
        if rank_and_size()[1] > 1:
            # the network that is kept is that of the first process, so that is what is scored
            for buffer in self.net.buffers():
                distributed.broadcast(buffer, 0)

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        images, masks = batch
        labels = labels_of(self.net(_channels_first(images)))
        self._counts += count(masks.cpu().numpy(), labels, self.net.classes).sum(0)

    def on_validation_epoch_end(self) -> None:
        losses = torch.stack(self._losses).double().cpu().numpy()
        loss = float(self._summed(losses).mean() / rank_and_size()[1])
        if not np.isfinite(loss):
            raise SkipshiftError(
                f"training: the loss is {loss} in epoch {self.current_epoch}; "
                f"lower learning_rate or set precision to fp32"
            )
        score = float(np.nanmean(iou(self._summed(self._counts))))
        self.history.append(
            {
                "epoch": self.current_epoch,
                "train_loss": loss,
                "validation_iou": score,
                "learning_rate": self._rate,
            }
        )
        shown = {"validation_iou": score, "train_loss": loss, "learning_rate": self._rate}
        self.log_dict(shown, sync_dist=rank_and_size()[1] > 1)
        self._losses.clear()
        self._counts[:] = 0

    def _summed(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sum an array over the processes that train together."""
        total = torch.from_numpy(values).to(self.device, copy=True)
        if rank_and_size()[1] > 1:
            distributed.all_reduce(total)
        summed: npt.NDArray[Any] = total.cpu().numpy()
        return summed

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
