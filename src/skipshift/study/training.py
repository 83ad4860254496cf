"""Training of one U-net by the paper's protocol, with the best epoch chosen on validation data."""

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
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from skipshift.data.crops import Crops, EpochSampler, ShardSampler, rank_and_size
from skipshift.data.images import Pixels
from skipshift.data.manifest import Case
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.networks.inference import best_device, labels_of, use_bf16
from skipshift.networks.losses import segmentation_loss
from skipshift.networks.unet import Unet
from skipshift.progress import Progress, silent
from skipshift.records import atomic
from skipshift.statistics.counts import count, iou
from skipshift.study_specs import TrainingSpec

CHECKPOINTS = "checkpoints"
"""Subfolder of a run that exists only during training."""


@dataclass(frozen=True)
class RunOutput:
    """Output folder, loggers and progress of a run."""

    folder: Path
    """Holds the run's files; an interrupted run resumes from the checkpoints in it."""

    loggers: Sequence[Logger] = ()
    """Lightning loggers that record the training curves."""

    progress: Progress = silent
    """Reports each training step."""


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
    output: RunOutput,
) -> Trained:
    """Train a network and keep the epoch of the highest validation mIoU (section IV-C).

    Parameters
    ----------
    training, validation
        Decoded cases; validation images may be whole or cropped, sides multiples of 32.
    seed
        Seeds crops, their order and dropout. Initial weights are those of ``net``.

    Returns
    -------
    The network of the best epoch. An interrupted run that resumes ends in the same weights as an
    uninterrupted one, given the same number of threads on the same kind of processor.
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
    checkpoints = output.folder / CHECKPOINTS
    best = ModelCheckpoint(
        checkpoints,
        filename="best",
        monitor="validation_iou",
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(checkpoints, filename="last", enable_version_counter=False)
    ticks = _Ticks(output.progress, spec.epochs * len(loader), output.folder.name)
    with _quiet(), torch.random.fork_rng(), _dropping_skips(net, spec.skip_dropout):
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
            logger=list(output.loggers),
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        _fit(trainer, module, loader, checks, checkpoints / "last.ckpt")
    # read from the files: with several devices the training ran in other processes
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
    """Writes checkpoints atomically, so that a loss of power leaves the one before."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: Any,
        storage_options: Any = None,  # noqa: ARG002
    ) -> None:
        with atomic(Path(path)) as scratch:
            torch.save(checkpoint, scratch)


class _Run(lightning.LightningModule):
    """Training and validation steps of a run, as Lightning calls them."""

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
            # like crops, dropout depends on seed and epoch alone, so that a run can resume
            state = np.random.SeedSequence((self.seed, self.current_epoch, rank_and_size()[0]))
            torch.manual_seed(int(state.generate_state(1)[0]))

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, masks = batch
        logits = self.net(_channels_first(images))
        spec = self.spec
        weights = (spec.cross_entropy, spec.dice)
        loss = segmentation_loss(logits, masks.long(), *weights, spec.ignore)
        self._losses.append(loss.detach())
        return loss

    def on_validation_start(self) -> None:
        if rank_and_size()[1] > 1:
            # the network of the first process is the one that is kept, so it is the one to score
            for buffer in self.net.buffers():
                distributed.broadcast(buffer, 0)

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        images, masks = batch
        try:
            labels = labels_of(self.net(_channels_first(images)))
        except ArgumentError:  # NaN: weights as the last step left them
            raise self._diverged("the loss is nan") from None
        counts = count(masks.cpu().numpy(), labels, self.net.classes, self.spec.ignore)
        self._counts += counts.sum(0)

    def _diverged(self, what: str) -> SkipshiftError:
        return SkipshiftError(
            f"training: {what} in epoch {self.current_epoch}; lower learning_rate or set precision "
            f"to fp32"
        )

    def on_validation_epoch_end(self) -> None:
        losses = torch.stack(self._losses).double().cpu().numpy()
        loss = float(self._summed(losses).mean() / rank_and_size()[1])
        if not np.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
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
    """Validation cases, unchanged."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> tuple[Pixels, Pixels]:
        return self.cases[index].image, self.cases[index].mask


class _Ticks(Callback):
    """Reports the progress of a run step by step."""

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
    """Convert (N, H, W, C) uint8 to float32 (N, C, H, W) in [0, 1], channels last in memory."""
    return images.permute(0, 3, 1, 2).float().div_(255)


def _batch_of(cases: Sequence[Case], spec: TrainingSpec) -> int:
    """Choose the batch size for whole images: one at a time where their sizes differ."""
    return spec.batch_size if len({case.mask.shape for case in cases}) == 1 else 1


@contextmanager
def _dropping_skips(net: Unet, share: float) -> Iterator[None]:
    """Feed zeros in place of some skips while training, drawn for each image and level."""

    def drop(decoder: nn.Module, inputs: tuple[list[Tensor]]) -> tuple[list[Tensor]]:
        image, *skips, bottleneck = inputs[0]
        kept = 1 - share if decoder.training else 1
        draws = [f.new_empty(len(f), 1, 1, 1).bernoulli_(kept) for f in skips]
        return ([image, *(f * d for f, d in zip(skips, draws, strict=True)), bottleneck],)

    hook = net.decoder.register_forward_pre_hook(drop) if share else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


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
