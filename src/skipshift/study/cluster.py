"""Runs as tasks of a Ray cluster: data go out with them, and what they leave comes back.

No node needs the study's folder, only skipshift itself.
"""

import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from skipshift import records
from skipshift.errors import SkipshiftError
from skipshift.networks.allocator import keep_memory
from skipshift.specs import ExecutionSpec
from skipshift.study.grid import Run, Study
from skipshift.study.steps import attempt, record_failure

RETRIES = 20
"""Times that a run may lose its node before it counts as failed."""

Files = Mapping[str, bytes]


def run_tasks(study: Study, runs: Sequence[Run], spec: ExecutionSpec) -> Iterator[Run]:
    """Do runs on a Ray cluster and yield each as it ends, done or with its failure recorded.

    A run whose node goes away starts again on another. Only this process writes to the study.
    """
    ray = _import_ray()
    started = not ray.is_initialized()
    if started:
        _check_address(spec.address)
        ray.init(address=spec.address, log_to_driver=False, logging_level="error")
    try:
        away, files = pack(study)
        asked = {"num_cpus": study.spec.threads, "num_gpus": spec.gpus, "max_retries": RETRIES}
        if spec.memory_per_run:
            asked["memory"] = int(spec.memory_per_run * 2**30)
        task = ray.remote(**asked)(_task)
        shared = ray.put((away, files))
        waiting = {task.remote(shared, run): run for run in runs}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting))
            run = waiting.pop(done)
            try:
                unpack(ray.get(done), study.folder(run))
            except ray.exceptions.RayError as error:
                record_failure(study, run, " ".join(f"{type(error).__name__}: {error}".split()))
            yield run
    finally:
        if started:
            ray.shutdown()


def pack(study: Study) -> tuple[Study, Files]:
    """Make a study independent of this machine's files: their names are keys of the mapping."""
    files: dict[str, bytes] = {}

    def taken(path: str, kind: str) -> str:
        name = f"{kind}{len(files)}{Path(path).suffix}"
        try:
            files[name] = Path(path).read_bytes()
        except OSError as error:
            raise SkipshiftError(f"{path}: cannot be read: {error.strerror}") from None
        return name

    cases = study.cases.assign(
        **{kind: [taken(path, kind) for path in study.cases[kind]] for kind in ("image", "mask")}
    )
    training = study.spec.training
    if training.encoder_weights not in (None, "imagenet"):
        # under its own name, which is one of the things that a run is made from
        name = f"weights/{Path(training.encoder_weights).name}"
        files[name] = files.pop(taken(training.encoder_weights, "weights"))
        training = replace(training, encoder_weights=name)
    return replace(study, spec=replace(study.spec, training=training), cases=cases), files


def unpack(files: Files, folder: Path) -> None:
    """Write files below a folder, ``made.json`` last, without which none of them counts."""
    for name in sorted(files, key=lambda name: (name == records.MADE, name)):
        records.write_bytes(folder / name, files[name])


def _task(shared: tuple[Study, Files], run: Run) -> Files:
    """Do a run in a folder of this node's own; return what it leaves."""
    away, files = shared
    keep_memory()
    with tempfile.TemporaryDirectory(prefix="skipshift-") as place:
        unpack(files, Path(place) / "data")
        study = settle(away, Path(place))
        attempt(study, run)
        folder = study.folder(run)
        left = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in left}


def settle(study: Study, place: Path) -> Study:
    """Give a packed study the paths of a folder that its files were unpacked to."""
    data = place / "data"

    def here(names: "pd.Series[str]") -> list[str]:
        return [str(data / name) for name in names]

    cases = study.cases.assign(image=here(study.cases["image"]), mask=here(study.cases["mask"]))
    training = study.spec.training
    if training.encoder_weights not in (None, "imagenet"):
        training = replace(training, encoder_weights=str(data / str(training.encoder_weights)))
    spec = replace(study.spec, training=training)
    return replace(study, spec=spec, cases=cases, out=place / "study")


def _check_address(address: str | None) -> None:
    """`SkipshiftError` if nothing listens there: Ray itself would try for ten minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host:  # "auto", "local" or none
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise SkipshiftError(
            f"--address {address}: no Ray cluster there ({error}); give HOST:PORT as ray start "
            f"printed it"
        ) from None


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise SkipshiftError(
            "ray is not installed; pip install 'skipshift[ray]', or leave out --on ray"
        ) from None
    return ray
