"""Parallel runs on one machine, each in its own process."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from skipshift.networks.allocator import keep_memory
from skipshift.records import UnwritableError
from skipshift.study.grid import Run, Study
from skipshift.study.steps import attempt, record_failure

LIVES = 2
"""How many times a run may be killed from outside before it counts as failed."""


def run_processes(study: Study, runs: Sequence[Run], jobs: int) -> Iterator[Run]:
    """Do runs, ``jobs`` at a time, and yield each as it ends, done or with its failure recorded.

    A run whose process is killed resumes once from its last epoch. Killed again, it counts as
    failed, most likely for lack of memory. If this process dies, so do the others.
    `UnwritableError` as soon as one of them cannot write.
    """
    waiting, running = list(runs), dict[int, tuple[Run, _Worker]]()
    kills = dict.fromkeys(runs, 0)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                worker = _Worker(study, waiting[0])
                running[worker.process.sentinel] = (waiting.pop(0), worker)
            wait(list(running))
            for sentinel in [s for s, (_, w) in running.items() if not w.process.is_alive()]:
                run, worker = running.pop(sentinel)
                worker.process.join()
                if worker.process.exitcode == 0:
                    yield run
                    continue
                if worker.reason.poll():
                    with contextlib.suppress(EOFError):
                        raise UnwritableError(worker.reason.recv())
                kills[run] += 1
                if kills[run] < LIVES:
                    waiting.insert(0, run)
                    continue
                record_failure(study, run, _death(worker.process.exitcode))
                yield run
    finally:
        for _, worker in running.values():
            worker.process.terminate()
            worker.process.join()


class _Worker:
    """A process that does one run, and a pipe for its reason if it cannot write."""

    def __init__(self, study: Study, run: Run) -> None:
        context = multiprocessing.get_context("spawn")
        self.reason, theirs = context.Pipe(duplex=False)
        self.process: SpawnProcess = context.Process(target=_work, args=(study, run, theirs))
        with _patient_threads():
            self.process.start()
        theirs.close()


@contextlib.contextmanager
def _patient_threads() -> Iterator[None]:
    """Let waiting threads sleep, so that more of them can share the cores."""
    before = os.environ.get("OMP_WAIT_POLICY")
    os.environ["OMP_WAIT_POLICY"] = before or "PASSIVE"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_WAIT_POLICY"]


def _work(study: Study, run: Run, reason: Connection) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    keep_memory()
    try:
        attempt(study, run)
    except UnwritableError as error:
        reason.send(str(error))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(1) from None


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return (
            f"killed {LIVES} times by signal {-code}; if that was for lack of memory, "
            f"take fewer jobs or a smaller batch_size"
        )
    return f"its process ended {LIVES} times with exit code {code}"
