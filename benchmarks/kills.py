"""Kill a study at random moments, again and again, and compare it with an undisturbed one.

    python -m benchmarks.kills [KILLS] [SEED]

Each kill is a SIGKILL of the command and of the processes that it started, as a loss of power or a
node that is taken away would be. Prints what was under way at each, and exits 1 if a table differs.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command("synth", folder / "synthetic", "--images", 40, "--size", 128).wait()
        for jobs in (1, 2):
            (folder / f"{jobs}.yaml").write_text(STUDY.format(jobs=jobs))
        started = time.monotonic()
        assert command("study", folder / "1.yaml", folder / "whole").wait() == 0
        took = time.monotonic() - started
        print(f"undisturbed: {took:.0f} s")
        done, alike = 0, True
        while done < kills:
            out = folder / f"killed-{done}"
            jobs = 1 + done % 2
            more = disturbed(folder / f"{jobs}.yaml", out, rng, min(kills - done, 10), took)
            done += more
            same = tables(out) == tables(folder / "whole")
            alike = alike and same
            print(f"{jobs} jobs, {more} kills: tables {'equal' if same else 'DIFFER'}", flush=True)
    sys.exit(not alike)


def disturbed(study: Path, out: Path, rng: random.Random, kills: int, took: float) -> int:
    """Kill a study up to ``kills`` times, then let it end; how often it was killed."""
    done = 0
    while done < kills:
        process = command("study", study, out)
        while process.poll() is None and not holds(out, process.pid):
            time.sleep(0.05)  # it is still importing
        try:
            code = process.wait(rng.uniform(0, 0.4) * took)
            assert code == 0, code
            return done
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
            print(f"  killed: {stage(out)}", flush=True)
    assert command("study", study, out).wait() == 0
    return done


def holds(out: Path, pid: int) -> bool:
    """Whether a process has begun with a study."""
    note = out / ".holder"
    return note.exists() and f"process {pid} " in note.read_text()


def command(*words: object) -> "subprocess.Popen[bytes]":
    code = "from skipshift.cli import main; main()"
    line = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(
        line, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def stage(out: Path) -> str:
    """What a study had come to."""
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


if __name__ == "__main__":
    main()
