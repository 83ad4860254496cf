"""Kill a study at random steps, again and again, and compare it with an undisturbed one.

    python -m benchmarks.kills [KILLS] [SEED]

Each kill is a SIGKILL of the command and of the processes that it started, as a loss of power or a
node that is taken away would be, from inside, at a named step (`benchmarks.interrupts`). Studies of
one job and of two take turns. A kill counts if it came under way: after a run had its folder, and
before the study had ended. Prints the step of each kill and what the study had come to, and exits 1
if a table differs.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.interrupts import arm, kill_group

STUDY = """
manifest: synthetic/manifest.csv
encoders: [resnet18]
skips: [baseline, L4-pruned]
folds: 3
run_folds: [0, 1]
shifts: ["brightness:0.75", "contrast:1.5"]
evaluation_crop: 96
threads: 1
jobs: {jobs}
training: {{encoder_weights: null, epochs: 6, crop: 64, learning_rate: 0.001, crops_per_image: 2}}
profile: {{null_draws: 10}}
"""


KILL_AT = "SKIPSHIFT_KILL_AT"
"""Environment variable with the count and step at which a study's process is killed."""

STEPS = [
    f"{event} {name}"
    for event in ("half_written", "written")
    for name in ("last.ckpt", "best.ckpt", "run.json", "cases.parquet", "samples.npz", "layers.csv")
]
"""Steps of every run; made.json is written between them."""


def main() -> None:
    if sys.argv[1:2] == ["--command"]:
        run_command(*sys.argv[2:])
        return
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command("synth", folder / "synthetic", "--images", 40, "--size", 128).wait()
        for jobs in (1, 2):
            (folder / f"{jobs}.yaml").write_text(STUDY.format(jobs=jobs))
        started = time.monotonic()
        assert command("study", folder / "1.yaml", folder / "whole").wait() == 0
        print(f"undisturbed: {time.monotonic() - started:.0f} s")
        done, alike = {1: 0, 2: 0}, True
        while (left := kills - sum(done.values())) > 0:
            jobs = min(done, key=lambda number: done[number])
            out = Path(tempfile.mkdtemp(dir=folder)) / "killed"
            more = disturbed(folder / f"{jobs}.yaml", out, rng, min(-(-left // 2), 10))
            done[jobs] += more
            same = tables(out) == tables(folder / "whole")
            alike = alike and same
            print(f"{jobs} jobs, {more} kills: tables {'equal' if same else 'DIFFER'}", flush=True)
    print(", ".join(f"{number} kills of {jobs} jobs" for jobs, number in done.items()))
    sys.exit(not alike)


def disturbed(study: Path, out: Path, rng: random.Random, kills: int) -> int:
    """Kill a study up to ``kills`` times, then let it end; how often it was killed under way."""
    done = 0
    while done < kills:
        step, count = rng.choice(STEPS), rng.randint(1, 3)
        code = command("study", study, out, kill_at=f"{count} {step}").wait()
        if code == 0:
            return done
        assert code == -signal.SIGKILL, code
        done += any((out / "runs").glob("*"))
        print(f"  killed at {step} ({count}): {stage(out)}", flush=True)
    assert command("study", study, out).wait() == 0
    return done


def command(*words: object, kill_at: str = "") -> "subprocess.Popen[bytes]":
    """Start a command of skipshift in a process group of its own."""
    line = [sys.executable, "-m", "benchmarks.kills", "--command", *map(str, words)]
    return subprocess.Popen(
        line,
        start_new_session=True,
        env={**os.environ, KILL_AT: kill_at},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def run_command(*words: str) -> None:
    from skipshift.cli.main import main as skipshift

    sys.argv = ["skipshift", *words]
    skipshift()


def stage(out: Path) -> str:
    """Say how far each run of a study had come."""
    runs = sorted((out / "runs").glob("*")) if out.exists() else []
    states = []
    for run in runs:
        left = {path.name for path in run.iterdir()}
        steps = ("layers.csv", "samples.npz", "cases.parquet", "run.json", "checkpoints")
        states.append(next((step for step in steps if step in left), "begun"))
    parts = len(list(out.rglob(".*.part"))) if out.exists() else 0
    return f"{', '.join(states) or 'nothing yet'}; {parts} files half-written"


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "tables").iterdir())}


# processes that a study starts import this module again, under another name than __main__
if os.environ.get(KILL_AT):
    _count, _, _step = os.environ[KILL_AT].partition(" ")
    arm(_step, int(_count), kill_group)

if __name__ == "__main__":
    main()
