"""Time skipshift beside the plain way, each job in a process of its own, turn by turn.

    python -m benchmarks [ROUNDS]

Prints images or draws per second and peak memory of both, medians over rounds, and the ratio. Only
ratios of one run mean anything: the machine may be busy with other things. Beside carry stand as
many bare forward passes as it has paths, and two; beside slide bare calls of OpenSlide.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.jobs import JOBS

GRID = [
    ("synth", 512, 512),
    ("check", 512, 512),
    ("train", 128, 512),
    ("train", 512, 512),
    ("evaluate", 128, 128),
    ("evaluate", 512, 512),
    ("carry", 128, 128),
    ("carry", 512, 512),
    ("slide", 512, 512),
]
"""Work, side of what the network sees, side of the images on disk: training crops, the rest not."""

IMAGES = {128: 256, 512: 48}


def main() -> None:
    from skipshift.data.prepare.options import SynthSpec
    from skipshift.data.prepare.synthetic import write_synthetic

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        manifests = {
            side: write_synthetic(SynthSpec(Path(folder) / str(side), images=number, size=side))
            for side, number in IMAGES.items()
        }
        print(
            f"{'job':<14}{'plain':>10}{'ours':>10}{'speed':>9}{'memory':>9}   (per second, ratios)"
        )
        for work, side, size in GRID:
            both = {"plain": [], "ours": []}
            for _ in range(rounds):
                for way, results in both.items():
                    results.append(measure(f"{way}_{work}", manifests[size], side))
            speed, memory = (
                {way: median(r[i] for r in results) for way, results in both.items()}
                for i in (0, 1)
            )
            ratios = speed["ours"] / speed["plain"], memory["ours"] / memory["plain"]
            print(
                f"{work + ' ' + str(side):<14}{speed['plain']:>10.2f}{speed['ours']:>10.2f}"
                f"{ratios[0]:>8.2f}x{ratios[1]:>8.2f}x",
                flush=True,
            )


def measure(job: str, manifest: Path, side: int) -> tuple[float, float]:
    """Run one job in a fresh process; images per second and peak memory in MiB."""
    command = [sys.executable, "-m", "benchmarks", "--job", job, str(manifest), str(side)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    rate, memory = json.loads(done.stdout)
    return rate, memory


def run_job(job: str, manifest: str, side: str) -> None:
    if job.startswith("ours"):
        from skipshift.networks.allocator import keep_memory

        keep_memory()
    rate = JOBS[job](Path(manifest), int(side))
    print(json.dumps([rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        run_job(*sys.argv[2:])
    else:
        main()
