"""Runs as tasks of a Ray cluster, each sent with its data; its results are sent back.

No node needs the study's folder, only skipshift itself.
"""

import contextlib
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from skipshift import records
from skipshift.errors import SkipshiftError
from skipshift.networks.allocator import keep_memory
from skipshift.networks.inference import best_device, resolve_precision
from skipshift.specs import Precision
from skipshift.study.grid import Run, Study
from skipshift.study.steps import attempt, record_failure
from skipshift.study_specs import ExecutionSpec

RETRIES = 20
"""How many times a run may lose its node before it counts as failed."""

Files = Mapping[str, bytes]


def run_tasks(study: Study, runs: Sequence[Run], spec: ExecutionSpec) -> Iterator[Run]:
    """Do runs on a Ray cluster and yield each as it ends, done or with its failure recorded.

    A run whose node is lost starts again on another. Only this process writes to the study.
    """
    with _connected(spec) as ray:
        packed, files = pack(study)
        task = ray.remote(**_resources(study, spec))(_task)
        shared = ray.put((packed, files))
        waiting = {task.remote(shared, run): run for run in runs}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting))
            run = waiting.pop(done)
            try:
                unpack(ray.get(done), study.folder(run))
            except records.UnwritableError:
                raise
            except (ray.exceptions.RayError, SkipshiftError) as error:
                record_failure(study, run, " ".join(f"{type(error).__name__}: {error}".split()))
            yield run


def precision_of_tasks(study: Study, spec: ExecutionSpec) -> Precision:
    """Decide the precision of a study on a node that could do one of its runs."""
    with _connected(spec) as ray:
        answer: Precision = ray.get(ray.remote(**_resources(study, spec))(_precision_here).remote())
        return answer


def _precision_here() -> Precision:
    return resolve_precision("auto", best_device())


@contextlib.contextmanager
def _connected(spec: ExecutionSpec) -> Iterator[Any]:
    """Connect to the cluster for as long as the context lasts, unless the process is connected."""
    ray = _import_ray()
    started = not ray.is_initialized()
    if started:
        _check_address(spec.address)
        ray.init(address=spec.address, log_to_driver=False, logging_level="error")
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()


def _resources(study: Study, spec: ExecutionSpec) -> dict[str, Any]:
    """Collect the resources of a task, as ``ray.remote`` takes them."""
    resources = {"num_cpus": study.spec.threads, "num_gpus": spec.gpus, "max_retries": RETRIES}
    return (
        {**resources, "memory": int(spec.memory_per_run * 2**30)}
        if spec.memory_per_run
        else resources
    )


def pack(study: Study) -> tuple[Study, Files]:
    """Make a study independent of this machine's files, which are returned by their new names.

    `SkipshiftError` if one cannot be read.
    """
    files: dict[str, bytes] = {}

    def add(path: str, kind: str) -> str:
        name = f"{kind}{len(files)}{Path(path).suffix}"
        try:
            files[name] = Path(path).read_bytes()
        except OSError as error:
            raise SkipshiftError(f"{path}: cannot be read: {error.strerror}") from None
        return name

    cases = study.cases.assign(
        **{kind: [add(path, kind) for path in study.cases[kind]] for kind in ("image", "mask")}
    )
    training = study.spec.training
    if training.encoder_weights not in (None, "imagenet"):
        training = replace(training, encoder_weights=add(str(training.encoder_weights), "weights"))
    return replace(study, spec=replace(study.spec, training=training), cases=cases), files


def unpack(files: Files, folder: Path) -> None:
    """Write files below a folder, ``made.json`` last: without it none of them counts.

    `SkipshiftError` names a file that would lie outside of the folder: none is written then.
    """
    for name in files:
        path = PurePosixPath(name)
        # a backslash separates folders on another system
        if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
            raise SkipshiftError(f"a node sent {name!r}, which leaves the folder of its run")
    for name in sorted(files, key=lambda name: (name == records.MADE, name)):
        records.write_bytes(folder / name, files[name])


def _task(shared: tuple[Study, Files], run: Run) -> Files:
    """Do a run in a temporary folder of this node; return the files that it wrote."""
    packed, files = shared
    keep_memory()
    with tempfile.TemporaryDirectory(prefix="skipshift-") as name:
        unpack(files, Path(name) / "data")
        study = settle(packed, Path(name))
        attempt(study, run)
        folder = study.folder(run)
        written = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in written}


def settle(study: Study, folder: Path) -> Study:
    """Point a packed study at the files that were unpacked below ``folder``/data."""
    data = folder / "data"

    def paths(names: "pd.Series[str]") -> list[str]:
        return [str(data / name) for name in names]

    cases = study.cases.assign(image=paths(study.cases["image"]), mask=paths(study.cases["mask"]))
    training = study.spec.training
    if training.encoder_weights not in (None, "imagenet"):
        training = replace(training, encoder_weights=str(data / str(training.encoder_weights)))
    spec = replace(study.spec, training=training)
    return replace(study, spec=spec, cases=cases, out=folder / "study")


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
