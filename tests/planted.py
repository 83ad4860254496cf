"""A study folder with planted results, to compare the page with."""

import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from skipshift import records
from skipshift.names import ORIGINAL, paper_shifts, parse_shift
from skipshift.spec_files import to_plain
from skipshift.statistics.comparisons import compare
from skipshift.statistics.counts import iou
from skipshift.statistics.metric_scores import metric_scores
from skipshift.statistics.metrics import METRICS
from skipshift.statistics.scores import MEAN, estimates
from skipshift.study_specs import StudySpec, TrainingSpec

LAYERS = ("e2", "e4", "e8", "e16", "e32", "d16", "d8", "d4", "d2", "d1")
CHANNELS = (64, 64, 128, 256, 512, 256, 128, 64, 32, 16)
EXCESS = (0.66, 0.46, 0.34, 0.28, 0.35, 0.45, 0.36, 0.34, 0.56, 0.6)
SKILL = {"baseline": 0.96, "L1-pruned": 0.975, "L2-pruned": 0.95, "L3-pruned": 0.94}
PARAMETERS = {
    "baseline": 14328354,
    "L1-pruned": 14309922,
    "L2-pruned": 14273058,
    "L3-pruned": 14125602,
    "L4-pruned": 13535778,
}


@dataclass(frozen=True)
class Plan:
    encoders: tuple[str, ...] = ("resnet18",)
    variants: tuple[str, ...] = ("baseline", "L1-pruned", "L4-pruned")
    folds: int = 1
    classes: tuple[str, ...] = ("background", "cell")
    domains: tuple[str, ...] = (ORIGINAL, *paper_shifts())
    pairs: tuple[tuple[str, str], ...] = ((ORIGINAL, "brightness:0.75"),)
    cases: int = 40
    channels: tuple[int, ...] = CHANNELS
    noise: float = 0.01
    homes: tuple[str, ...] = (ORIGINAL,)
    metrics: tuple[str, ...] = ()


def plant(folder: Path, plan: Plan = Plan()) -> Path:
    """Write all tables of a study; L1-pruned is the planted winner."""
    spec = StudySpec(
        manifest=Path("data/manifest.csv"),
        classes=plan.classes,
        encoders=plan.encoders,
        skips=plan.variants,
        run_folds=tuple(range(plan.folds)),
        shifts=tuple(d for d in plan.domains if parse_shift(d)),
        profile_shifts=tuple(shifted for _, shifted in plan.pairs),
        training=TrainingSpec(encoder_weights=None, epochs=8, crop=128),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / records.STUDY).write_text(yaml.safe_dump(to_plain(spec), sort_keys=False))
    tables = folder / records.TABLES
    cases = plant_cases(plan)
    records.write_table(tables / "cases.parquet", cases)
    records.write_table(tables / "iou.csv", iou_of(cases))
    records.write_table(tables / "scores.csv", estimates(cases))
    measured = plant_metrics(cases, plan) if plan.metrics else None
    tests = compare(cases, spec.margin, plan.homes, measured=measured)
    records.write_table(tables / "tests.csv", tests)
    if measured is not None:
        names = records.run_parts(measured["run"])[["encoder", "variant"]]
        values = metric_scores(pd.concat([measured, names], axis=1))
        records.write_table(tables / "metrics.parquet", measured)
        records.write_table(tables / "metrics.csv", values)
    if plan.pairs:
        shift = plant_shift(plan)
        records.write_table(tables / "shift.parquet", shift)
        records.write_table(tables / "layers.csv", layers_of(shift))
        records.write_table(tables / "profile.csv", networks_of(shift))
    for encoder, variant, fold in product(plan.encoders, plan.variants, range(plan.folds)):
        plant_run(folder, plan, (encoder, variant, fold))
    return folder


def seeded(*names: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(names).encode()))


def loss(domain: str) -> float:
    shift = parse_shift(domain)
    if shift is None:
        return 0.0 if domain in (ORIGINAL, "A") else 0.15 + 0.2 * seeded(domain).random()
    kind, factor = shift
    steepness = {"brightness": 1.1, "contrast": 0.5, "saturation": 0.15}[kind]
    return min(0.8, steepness * abs(1 - factor) * (1.6 if factor < 1 else 0.5))


def plant_cases(plan: Plan) -> pd.DataFrame:
    rows = []
    for encoder, variant, fold in product(plan.encoders, plan.variants, range(plan.folds)):
        run = records.run_name(encoder, variant, fold, 0)
        luck = seeded(run).normal(0, 0.003)
        for domain, (k, name) in product(plan.domains, enumerate(plan.classes)):
            robust = {"L1-pruned": 0.85, "L4-pruned": 0.95}.get(variant, 1.0)
            mean = 1 - (1 - SKILL.get(variant, 0.9)) - loss(domain) * robust + luck
            rng = seeded("cases", domain, name)
            hardness = rng.normal(0, plan.noise, plan.cases)
            own = seeded("own", run, domain, name).normal(0, 1.5 * plan.noise, plan.cases)
            share = np.clip(mean - 0.05 * (k > 1) * k + hardness + own, 0.02, 0.999)
            # every run has the same masks, of which as much is missed as is found in excess
            area = rng.integers(4000, 9000, plan.cases) * (8 if k == 0 else 1)
            wrong = np.rint(area * (1 - share) / (1 + share)).astype(int)
            for i in range(plan.cases):
                case = (f"image-{i:04d}", f"g{i}", name)
                rows.append((run, domain, *case, area[i] - wrong[i], wrong[i], wrong[i]))
    return pd.DataFrame(rows, columns=list(records.TABLE_COLUMNS["cases.parquet"]))


def plant_metrics(cases: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Metrics of the planted cases: ratios of their counts, an error where lower is better."""
    union = cases[["tp", "fp", "fn"]].sum(axis=1).to_numpy(float)
    parts = []
    for name in plan.metrics:
        part = cases.assign(metric=name, present=True, part=0, denominator=union)
        if not METRICS[name].by_class:
            part = part[cases["class"] == plan.classes[-1]].assign(**{"class": "all"})
        above = part["fp"] + part["fn"] if METRICS[name].worse == "high" else part["tp"]
        parts.append(part.assign(numerator=above.astype(float)))
    table = pd.concat(parts, ignore_index=True)
    return table[list(records.TABLE_COLUMNS["metrics.parquet"])]


def iou_of(cases: pd.DataFrame) -> pd.DataFrame:
    """Mean IoU over runs, with an interval of constant width, since the page only repeats it."""
    sums = cases.groupby(["run", "domain", "class"], sort=False)[["tp", "fp", "fn"]].sum()
    per_run = pd.Series(iou(sums.to_numpy()), index=sums.index, name="iou").reset_index()
    parts = per_run["run"].str.split(".", expand=True)
    per_run = per_run.assign(encoder=parts[0], variant=parts[1])
    keys = ["variant", "encoder", "domain", "class"]
    mean = per_run.groupby(keys, sort=False)["iou"].mean().reset_index()
    classes = mean["class"].unique()
    if len(classes) > 2:
        foreground = mean[mean["class"] != classes[0]].groupby(keys[:3], sort=False)["iou"].mean()
        mean = pd.concat([mean, foreground.reset_index().assign(**{"class": MEAN})])
    return mean.assign(
        low=mean["iou"] - 0.006, high=mean["iou"] + 0.006, cases=cases["case"].nunique()
    )


def plant_shift(plan: Plan) -> pd.DataFrame:
    frames = []
    grid = product(plan.encoders, plan.variants, range(plan.folds), plan.pairs)
    for encoder, variant, fold, (reference, shifted) in grid:
        for depth, (layer, channels) in enumerate(zip(LAYERS, plan.channels, strict=True)):
            rng = seeded(encoder, variant, fold, shifted, layer)
            less = 0.8 if depth > 4 and variant == "L4-pruned" else 1.0
            null = np.clip(rng.normal(0.1, 0.02, channels), 0.01, 1)
            value = np.clip(null + rng.normal(EXCESS[depth] * less, 0.12, channels), 0, 1)
            names = {"variant": variant, "encoder": encoder, "fold": fold, "seed": 0}
            names |= {"reference": reference, "shifted": shifted, "layer": layer, "depth": depth}
            values = {
                "channel": range(channels),
                "distance": "hellinger",
                "value": value,
                "null": null,
                "pooling": "average",
            }
            frames.append(pd.DataFrame({**names, **values}))
    return pd.concat(frames, ignore_index=True)


def layers_of(shift: pd.DataFrame) -> pd.DataFrame:
    return _tested(shift, ["fold", "seed"])


def networks_of(shift: pd.DataFrame) -> pd.DataFrame:
    runs = shift.groupby(["fold", "seed"]).ngroups
    return _tested(shift, []).assign(runs=runs)


def _tested(shift: pd.DataFrame, run: list[str]) -> pd.DataFrame:
    """Layers with a planted excess: all clear, their order known."""
    network = ["variant", "encoder", *run, "reference", "shifted"]
    mean = shift.groupby([*network, "layer", "depth"], sort=False)[["value", "null"]].mean()
    mean = mean.reset_index().rename(columns={"value": "distance"})
    excess = mean["distance"] - mean["null"]
    kind = {"measure": "hellinger", "pooling": "average", "p": 0.002, "p_adjusted": 0.02}
    table = mean.assign(excess=excess, low=excess - 0.02, high=excess + 0.02, **kind)
    behind = table.groupby(network)["excess"].transform("max") - excess
    ends = {"behind_low": (behind - 0.005).clip(1e-3), "behind_high": behind + 0.005}
    return table.assign(behind=behind, **ends, groups="20 + 20", least_p=0.001)


def plant_run(folder: Path, plan: Plan, run: tuple[str, str, int]) -> None:
    encoder, variant, fold = run
    run_folder = folder / records.RUNS / records.run_name(encoder, variant, fold, 0)
    rng = seeded(run)
    epochs = np.arange(1, 9)
    top = SKILL.get(variant, 0.9)
    score = top - 0.6 * np.exp(-epochs / 1.8) + rng.normal(0, 0.004, 8)
    extra = 0 if encoder == "resnet18" else 24436514 - 14328354
    record = {
        "encoder": encoder, "variant": variant, "fold": fold, "seed": 0,
        "parameters": PARAMETERS.get(variant, 14e6) + extra, "epochs": 8,
        "best_epoch": int(score.argmax()) + 1, "validation_iou": float(score.max()),
        "seconds": 97.0 + rng.normal(0, 3),
    }  # fmt: skip
    records.write_json(run_folder / records.RUN_RECORD, record)
    history = {
        "epoch": epochs,
        "train_loss": 1.2 * np.exp(-epochs / 2) + 0.03,
        "validation_iou": score,
    }
    pd.DataFrame(history).to_csv(run_folder / records.HISTORY, index=False)
    samples = plant_samples(plan, variant)
    np.savez_compressed(run_folder / records.SAMPLES, **samples)


def plant_samples(plan: Plan, variant: str) -> dict[str, np.ndarray]:
    """Two cases on two domains, 96 x 96: discs on a textured background, with planted errors."""
    yy, xx = np.mgrid[:96, :96]
    shown = [(case, domain) for case in range(2) for domain in plan.domains[:2]]
    images, masks, predictions = [], [], []
    for case, domain in shown:
        rng = seeded("sample", case)
        mask = np.zeros((96, 96), np.uint8)
        guess = np.zeros((96, 96), np.uint8)
        for i in range(7):
            y, x, r = rng.uniform(8, 88), rng.uniform(8, 88), rng.uniform(6, 11)
            label = 1 + i % (len(plan.classes) - 1)
            mask[(yy - y) ** 2 + (xx - x) ** 2 < r**2] = label
            drift = seeded(variant, domain, i).normal(0, 1.2 + 2 * loss(domain), 3)
            guess[(yy - y - drift[0]) ** 2 + (xx - x - drift[1]) ** 2 < (r + drift[2]) ** 2] = label
        ground = 205 + 12 * np.sin(xx / 17) + 8 * np.cos(yy / 23) + rng.normal(0, 4, (96, 96))
        image = np.stack([ground, ground - 12, ground - 5], -1)
        image[mask > 0] -= np.array([40, 85, 35])
        images.append(np.clip(image, 0, 255).astype(np.uint8))
        masks.append(mask)
        predictions.append(guess)
    return {
        "images": np.stack(images),
        "masks": np.stack(masks),
        "predictions": np.stack(predictions),
        "cases": np.array([f"image-{case:04d}" for case, _ in shown]),
        "domains": np.array([domain for _, domain in shown]),
    }
