"""Experiment trackers for training curves: TensorBoard, MLflow and Weights & Biases."""

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from skipshift.errors import SkipshiftError
from skipshift.study_specs import Tracker

FOLDER = "trackers"
"""Folder of a study in which trackers write their files."""


def loggers_of(trackers: Sequence[Tracker], study: Path, run: str) -> list[Logger]:
    """Create the loggers of a run; `SkipshiftError` names the extra of a missing package."""
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise SkipshiftError(
                f"trackers: {name} is not installed; run pip install 'skipshift[{name}]' "
                f"or remove it from trackers"
            )
    return [_LOGGERS[name](study.absolute(), run) for name in trackers]


def _tensorboard(study: Path, run: str) -> Logger:
    return TensorBoardLogger(study / FOLDER / "tensorboard", name=run, version="")


def _mlflow(study: Path, run: str) -> Logger:
    """Log to MLFLOW_TRACKING_URI, or by default to a SQLite file in the study's folder."""
    (study / FOLDER).mkdir(parents=True, exist_ok=True)
    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{study / FOLDER / 'mlflow.db'}")
    return MLFlowLogger(study.name, run_name=run, tracking_uri=uri)


def _wandb(study: Path, run: str) -> Logger:
    """Log to a project named after the study's folder; WANDB_MODE=offline writes files only."""
    return WandbLogger(name=run, id=run, project=study.name, save_dir=study / FOLDER)


_LOGGERS: Mapping[Tracker, Callable[[Path, str], Logger]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
