"""Make the findings again: their studies, their tables, their figures and the answers on the pages.

    python -m benchmarks.findings studies OUT DATA [JOBS]
    python -m benchmarks.findings measure OUT [WHAT ...]
    python -m benchmarks.findings tell OUT

``DATA`` holds ``bbbc041``, ``mnms`` and ``dsb2018_stage1``. What is there is not made again, so the
same command goes on where it stopped. ``measure`` writes docs/findings/tables, all or those named;
``tell`` makes figures and answers from these tables alone. Hours on two cores (docs/findings).
"""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch

import skipshift as ss
from benchmarks import estimate, remedies
from benchmarks.findings import measures, pages, pictures, tables
from skipshift.data.manifest import read_cases, read_manifest
from skipshift.names import paper_shifts

ROOT = Path(__file__).parents[2]
SMEAR = "bbbc041/images/2f9f400d-2d67-4118-aaa1-9094bc4b0e47.png"
FOLDS = 3
"""Folds whose networks are mended and cut."""

SETS = {
    "synthetic": ["synth", "--smear", f"DATA/{SMEAR}", "--images", "160"],
    "hearts": ["prepare", "mms", "DATA/mnms"],
    "nuclei": [
        "prepare", "folder", "DATA/dsb2018_stage1", "--images", "images/{case}.png", "--masks",
        "labels/{case}.png", "--instances", "--classes", "background", "--classes", "nucleus",
        "--table", "index.csv", "--columns", "case=id", "--columns", "domain=kind",
        "--train", "fluo",
    ],
}  # fmt: skip
"""How each set is prepared; the folder to write comes last."""


def studies(out: Path, data: str, jobs: str = "2") -> None:
    """Prepare the sets and run the studies, those that are not done."""
    for name, words in SETS.items():
        folder = out / "findings" / name
        if not (folder / "manifest.csv").exists():
            command([word.replace("DATA", data) for word in words] + ["--out", str(folder)])
    for name in tables.STUDIES:
        spec = ROOT / f"studies/findings-{name}.yaml"
        command(["study", str(spec), str(out / f"study-findings-{name}"), "--jobs", jobs])


def command(words: list[str]) -> None:
    """Run a command of skipshift; `subprocess.CalledProcessError` if it fails."""
    subprocess.run([sys.executable, "-m", "skipshift", *words], check=True)


def measure(out: Path, *what: str) -> None:
    """Write the tables."""
    torch.set_num_threads(1)
    manifest = out / "findings/synthetic/manifest.csv"
    baselines = [run_folder(out, "none", fold) for fold in range(5)]
    jobs = {
        "cases": lambda: tables.gather(out),
        "profiles": lambda: pd.concat(
            measures.profiles(measures.test_cases(manifest, 2, 256), baselines)
        ),
        "losses": lambda: estimate.losses(str(manifest), baselines),
        "cures": lambda: pd.concat(
            remedies.places_asked(64, str(manifest), list(map(str, baselines)), paper_shifts())
        ),
        "mended": lambda: mended(out, manifest),
        "subsets": lambda: subsets(out, manifest),
    }
    for name in what or jobs:
        table = jobs[name]()
        if table is not None:
            tables.keep(name, table)


def run_folder(out: Path, study: str, fold: int) -> Path:
    """Folder of a baseline of a study."""
    return out / f"study-findings-{study}/runs/resnet18.baseline.fold{fold}.seed0"


def mended(out: Path, manifest: Path) -> pd.DataFrame:
    """Mend baselines, trained without and with colour jitter, for every shift."""
    cases = measures.test_cases(manifest, 2, 256)
    counts, told = [], []
    for study in ("none", "jitter50"):
        for fold in range(FOLDS):
            run = run_folder(out, study, fold)
            net = ss.load_net(run)
            for shift in paper_shifts():
                away = measures.shifted(cases, shift)
                own, best = measures.mended(run.name, net, cases, away, ("background", "cell"))
                counts.append(own.assign(study=study))
                told.append({"study": study, "run": run.name, "shift": shift, "recommended": best})
    tables.keep("recommended", pd.DataFrame(told))
    return pd.concat(counts, ignore_index=True)


def subsets(out: Path, manifest: Path) -> pd.DataFrame:
    """Cut the networks trained with skip dropout to every set of skips; on half of the test cases.

    Statistics are recomputed on the first 64 training images.
    """
    rows = read_manifest(manifest)
    training = rows[rows["split"] == "train"].head(64)
    own = list(read_cases(training, 2, 128))
    cases = measures.test_cases(manifest, 2, 256)[::2]
    parts = (
        part
        for fold in range(FOLDS)
        for part in measures.subsets(
            run_folder(out, "dropout", fold), own, cases, ("background", "cell")
        )
    )
    return pd.concat(parts, ignore_index=True)


def tell(_out: Path) -> None:
    """Draw the figures and fill the pages, with what there is."""
    for name in pages.ANSWERS:
        for figure in pages.answered(name).figures:
            pictures.draw(figure)
    pages.write()


if __name__ == "__main__":
    part, place, *words = sys.argv[1:]
    {"studies": studies, "measure": measure, "tell": tell}[part](Path(place), *words)
