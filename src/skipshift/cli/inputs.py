"""Networks and folders that commands are given, looked at before anything else is done."""

from pathlib import Path
from typing import TYPE_CHECKING

from skipshift.errors import SkipshiftError

if TYPE_CHECKING:
    from torch import nn


def check_folder(path: Path) -> None:
    """Raise a `SkipshiftError` unless a path is that of a folder."""
    if not path.is_dir():
        raise SkipshiftError(f"{path}: {'is not a folder' if path.exists() else 'does not exist'}")


def load_network(source: Path, builder: str | None, preprocess: str) -> "nn.Module":
    """Load a network onto the best device.

    `SkipshiftError` if there is no such file; a wrong preprocessing is an error before that.
    """
    from skipshift.data.preprocess import preprocess_of
    from skipshift.networks.checkpoints import load_net
    from skipshift.networks.inference import best_device

    preprocess_of(preprocess)
    if not source.exists():
        raise SkipshiftError(
            f"{source}: does not exist; NET must be a run folder, an smp or nnU-Net folder, a "
            f"MONAI bundle, an archive of torch.export or TorchScript, or weights"
        )
    return load_net(source, builder, preprocess).to(best_device())
