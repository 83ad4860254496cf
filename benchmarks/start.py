"""How long help and the import of the package take, beside Python and NumPy.

    python -m benchmarks.start [ROUNDS]

Each in a process of its own, turn by turn: seconds on the clock and of the processor (the least of
all rounds: a busy machine only ever adds), and processor time as a multiple of ``import numpy``.
Modules are compiled once before, as an installation does.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time

JOBS = {
    "python": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import skipshift": ["-c", "import skipshift"],
    "skipshift --version": ["-m", "skipshift", "--version"],
    "skipshift --help": ["-m", "skipshift", "--help"],
    "skipshift diagnose --help": ["-m", "skipshift", "diagnose", "--help"],
}


def measure(words: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run Python once; seconds of the processor, and on the clock."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as compiled:
        environment["PYTHONPYCACHEPREFIX"] = compiled
        for words in JOBS.values():
            measure(words, environment)
        times = {name: [] for name in JOBS}
        for _ in range(rounds):
            for name, words in JOBS.items():
                times[name].append(measure(words, environment))
    least = {
        name: [min(column) for column in zip(*rows, strict=True)] for name, rows in times.items()
    }
    print(f"{'':<27}{'clock':>8}{'processor':>11}{'/ numpy':>9}")
    for name, (busy, wall) in least.items():
        print(f"{name:<27}{wall:>7.3f}s{busy:>10.3f}s{busy / least['import numpy'][0]:>8.2f}x")


if __name__ == "__main__":
    main()
