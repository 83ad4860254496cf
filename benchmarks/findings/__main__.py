"""Make the findings again: their studies, their tables, their figures and the answers on the pages.

    python -m benchmarks.findings studies OUT DATA [JOBS]
    python -m benchmarks.findings measure OUT [WHAT ...]
    python -m benchmarks.findings tell OUT
    python -m benchmarks.findings redo OUT

``DATA`` holds ``bbbc041``, ``mnms`` and ``dsb2018_stage1``. What is there is not made again, so the
same command goes on where it stopped. ``measure`` writes docs/findings/tables, all or those named;
``tell`` makes figures and answers from these tables alone. ``redo`` trains three runs from scratch
and compares their counts with the tables'. Hours on two cores (docs/findings).
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch
import yaml

from benchmarks import estimate, remedies
from benchmarks.findings import measures, pages, pictures, tables
from benchmarks.findings.answers import CUT_FOLDS
from benchmarks.findings.parts import Call, in_parts
from skipshift.names import paper_shifts

ROOT = Path(__file__).parents[2]
SMEAR = "bbbc041/images/2f9f400d-2d67-4118-aaa1-9094bc4b0e47.png"
FOLDS = 5
"""Folds whose networks are mended."""

REDONE = (("none", "L1-pruned", 0), ("jitter50", "baseline", 1), ("sets", "skips-13", 2))
"""Study, variant and fold of the runs that are redone as a check."""

REAL = {
    "hearts": ("A", "B", ("background", "LV", "MYO", "RV"), 192),
    "nuclei": ("fluo", "purple", ("background", "nucleus"), 256),
}
"""Domains that networks are trained on and mended for, classes, and crop, by study. Vendor C has
two patients: too few to show some to a search and to judge on others."""

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
    baselines = [run_folder(out, "none", fold) for fold in range(FOLDS)]
    jobs = {
        "cases": lambda: tables.gather(out),
        "profiles": lambda: pd.concat(
            measures.profiles(measures.test_cases(manifest, 2, 256), baselines)
        ),
        "losses": lambda: estimate.losses(str(manifest), baselines),
        "cures": lambda: pd.concat(
            remedies.places_asked(64, str(manifest), list(map(str, baselines)), paper_shifts())
        ),
        "mended": lambda: mended(out),
        "subsets": lambda: subsets(out),
    }
    for name in what or jobs:
        table = jobs[name]()
        if table is not None:
            tables.keep(name, table)


def run_folder(out: Path, study: str, fold: int) -> Path:
    """Folder of a baseline of a study."""
    return out / f"study-findings-{study}/runs/resnet18.baseline.fold{fold}.seed0"


def mended(out: Path) -> pd.DataFrame:
    """Mend baselines, trained without and with colour jitter, for every shift; and those of hearts
    and nuclei for another domain.
    """
    manifest = out / "findings/synthetic/manifest.csv"
    shifts = tuple(paper_shifts())
    calls: dict[str, Call] = {
        f"{study}.fold{fold}": (
            measures.mended_for_shifts, run_folder(out, study, fold), manifest, shifts
        )
        for study in ("none", "jitter50")
        for fold in range(FOLDS)
    }  # fmt: skip
    for study, (home, away, classes, crop) in REAL.items():
        for run in sorted((out / f"study-findings-{study}/runs").glob("*.baseline.*")):
            own = (out / f"findings/{study}/manifest.csv", (home, away), classes, crop)
            calls[f"{study}.{run.name}"] = (measures.mended_for_domain, run, *own)
    return in_parts(out / "findings/mended", calls)


def subsets(out: Path) -> pd.DataFrame:
    """Cut the networks trained with skip dropout to every set of skips."""
    manifest = out / "findings/synthetic/manifest.csv"
    return in_parts(
        out / "findings/subsets",
        {
            f"dropout.fold{fold}": (measures.subsets, run_folder(out, "dropout", fold), manifest)
            for fold in range(CUT_FOLDS)
        },
    )


def tell(_out: Path) -> None:
    """Draw the figures and fill the pages, with what there is."""
    for name in pages.ANSWERS:
        for figure in pages.answered(name).figures:
            pictures.draw(figure)
    pages.write()


def redo(out: Path) -> None:
    """Train `REDONE` from scratch, beside what is there, and print how their counts differ."""
    for study, variant, fold in REDONE:
        given = ROOT / f"studies/findings-{study}.yaml"
        spec = yaml.safe_load(given.read_text(encoding="utf-8"))
        folder = out / f"findings/redone/{study}"
        # what was redone before would be compared again
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        manifest = (given.parent / spec["manifest"]).resolve()
        own = {"manifest": str(manifest), "skips": [variant], "run_folds": [fold]}
        # auto takes what is faster at the moment, and the other gives another training
        record = tables.read("runs").query("study == @study")
        training = spec["training"] | {"precision": str(record["precision"].iloc[0])}
        (folder / "spec.yaml").write_text(
            yaml.safe_dump(spec | own | {"training": training}), encoding="utf-8"
        )
        command(["study", str(folder / "spec.yaml"), str(folder / "study")])
        (made,) = (folder / "study/runs").iterdir()
        counts = pd.read_parquet(made / "cases.parquet")
        before = tables.study_cases(study).query("run == @made.name")
        both = counts.merge(before, on=["run", "domain", "case", "class"], suffixes=("", "_before"))
        assert len(both) == len(counts) == len(before)
        moved = (both["tp"] - both["tp_before"]).abs()
        ious = [tables.scores(part).set_index("domain")["iou"] for part in (counts, before)]
        print(
            f"{study} {made.name}: {int((moved > 0).sum())} of {len(moved)} counts differ, IoU by "
            f"at most {(ious[0] - ious[1]).abs().max():.6f}",
            flush=True,
        )


if __name__ == "__main__":
    part, place, *words = sys.argv[1:]
    parts = {"studies": studies, "measure": measure, "tell": tell, "redo": redo}
    parts[part](Path(place), *words)
