"""Whether estimates of the IoU without masks hold on domains that they were not calibrated on.

    python -m benchmarks.estimate pairs OUT MANIFEST RUNS [TRAINED]
    python -m benchmarks.estimate question OUT MANIFEST RUNS
    python -m benchmarks.estimate overhead MANIFEST RUNS

``RUNS`` is the folder of runs of a study, ``MANIFEST`` its test cases: half of them are the
reference, the others, under each shift of the paper, the new domain. No shift is judged by a
calibration on shifts of its own family. Other runs of a variant are the peers of the method
agreement. ``TRAINED`` is the folder of `benchmarks.trained`: networks of several libraries, each on
the other domains of its set. ``pairs`` prints coverage, errors and
the share answered, beside MOVAL on the same logits (``pip install moval``), which is given each set
as one image, so that its Dice is that of the set. ``question`` asks what predicts the IoU lost
under the shifts: the excess of a layer, the shift of the mean intensity, or the entropy.
``overhead`` prints what histograms and pooled features add to a pass of prediction. Tables go to
OUT. Centred crops of 128 pixels.
"""

import contextlib
import functools
import io
import multiprocessing
import sys
import time
import unittest.mock
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.optimize
import torch
from scipy.stats import spearmanr

import skipshift as ss
from skipshift.data.batches import stack_cases
from skipshift.data.manifest import read_cases
from skipshift.data.sets.sources import read_test_rows
from skipshift.estimate.calibration_shifts import FAMILIES
from skipshift.estimate.estimating import Calibration, calibrate
from skipshift.estimate.measuring import last_layer, log_odds, measure
from skipshift.names import ORIGINAL, paper_shifts
from skipshift.networks.as_found import evaluating
from skipshift.networks.features import as_input, input_like
from skipshift.networks.inference import labels_of, probabilities_of, run
from skipshift.networks.outputs import giving_logits
from skipshift.patching.labelled import Labelled, labelled
from skipshift.specs import ProfileSpec
from skipshift.statistics.counts import iou

CROP = 128

MOVAL = ("ac-model", "ts-model", "doc-model", "atc-model", "ts-atc-model")
LAYERS = ("e2", "e32", "d1")


@dataclass
class Network:
    """A network, its reference, and the domains on which its IoU is to be estimated."""

    name: str
    net: torch.nn.Module
    home: Labelled
    away: dict[str, Labelled]
    peers: tuple[torch.nn.Module, ...] = ()
    """Other runs of its variant."""


def of_study(manifest: str, runs: Iterable[Path]) -> Iterator[Network]:
    """Yield the runs of a study with the shifts of the paper."""
    images, masks, groups = stack_cases(list(read_cases(read_test_rows(manifest), 2, CROP)))
    half = np.isin(groups, np.unique(groups)[::2])
    home = _set("reference", images[half], masks[half], np.array(groups)[half])
    rest = images[~half], masks[~half], np.array(groups)[~half]
    away = {
        shift: _set("shifted", ss.shifts.apply(rest[0], shift), *rest[1:])
        for shift in (ORIGINAL, *paper_shifts())
    }
    folders = list(runs)
    for folder in folders:
        alike = (one for one in folders if _variant(one) == _variant(folder) and one != folder)
        peers = tuple(map(ss.load_net, alike))
        yield Network(folder.name, ss.load_net(folder), home, away, peers)


def _variant(run: Path) -> str:
    return run.name.partition(".fold")[0]


def of_trained(folder: Path) -> Iterator[Network]:
    """Yield the networks of `benchmarks.trained` with the domains that they have not seen."""
    from benchmarks import trained

    for record in sorted(folder.glob("*.json")):
        at = trained.NETWORKS[record.stem][1]
        home = trained.HOMES[at]
        images, masks, groups = trained.cases(folder / "sets", at, home.domain, CROP)
        new = ~trained.seen(home, groups)
        images, masks, groups = images[new], masks[new], groups[new]
        rows = trained.read_manifest(folder / "sets" / home.prepared / "manifest.csv")
        others = [domain for domain in rows["domain"].unique() if domain != home.domain]
        away = {
            domain: _set("shifted", *trained.cases(folder / "sets", at, domain, CROP))
            for domain in others
        }
        if not others:
            half = np.isin(groups, np.unique(groups)[::2])
            away = {
                shift: _set(
                    "shifted", ss.shifts.apply(images[~half], shift), masks[~half], groups[~half]
                )
                for shift in paper_shifts()
            }
            images, masks, groups = images[half], masks[half], groups[half]
        net = trained.load(folder, record.stem)
        yield Network(record.stem, net, _set("reference", images, masks, groups), away)


def _set(name: str, images: Any, masks: Any, groups: Any) -> Labelled:
    return labelled(name, np.ascontiguousarray(np.moveaxis(images, -1, 1)), masks, groups, False)


def pairs(out: Path, manifest: str, runs: Path, trained: Path | None = None) -> None:
    """Print how estimates do on every network and domain."""
    out.mkdir(parents=True, exist_ok=True)
    others = () if trained is None else of_trained(trained)
    networks = chain(of_study(manifest, sorted(runs.iterdir())), others)
    left = (network for network in networks if not (out / f"{network.name}.csv").exists())
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for name, rows, seconds in pool.imap_unordered(_judged, left):
            rows.to_csv(out / f"{name}.csv", index=False)
            print(f"{name}: {seconds:.0f} s of one core", flush=True)
    report(pd.concat([pd.read_csv(file) for file in sorted(out.glob("*.csv"))]))


def _judged(network: Network) -> tuple[str, pd.DataFrame, float]:
    torch.set_num_threads(1)
    start = time.process_time()
    rows = pd.DataFrame(_rows(network))
    return network.name, rows, time.process_time() - start


def _rows(network: Network) -> Iterator[dict[str, Any]]:
    with contextlib.ExitStack() as stack:
        for net in (network.net, *network.peers):
            stack.enter_context(evaluating(net))
        calibration = calibrate(network.net, network.home, ss.EstimateSpec(), peers=network.peers)
        without = functools.cache(calibration.without)
        plain = _logits(calibration, network.home)
        models = dict(_moval(plain, network.home.masks))
        for domain, data in network.away.items():
            family = FAMILIES.get(domain.partition(":")[0], "")
            blind = Labelled(data.name, data.images, None, data.groups)
            found = without(family).estimate(calibration.measured(blind))
            logits = _logits(calibration, data)
            truth = _truth(logits, data.masks)
            others = {name: _dice(model, logits) for name, model in models.items()}
            for c in range(1, len(truth)):
                row = found.table.iloc[c].to_dict() | {"true": truth[c]}
                row |= {name: values[c] / (2 - values[c]) for name, values in others.items()}
                row["reason"], row["home"] = found.reasons[c], found.home[c]
                yield {"network": network.name, "domain": domain, "excess": found.distance} | row


def _logits(calibration: Calibration, data: Labelled) -> torch.Tensor:
    like = input_like(calibration.net)
    with torch.no_grad(), giving_logits(calibration.net, calibration.output):
        parts = [run(calibration.net, as_input(batch, like)) for batch, _, _ in data.batches(8)]
    odds = torch.cat(parts)
    return log_odds(odds).mul(0.5) if odds.shape[1] == 1 else odds


def _truth(logits: torch.Tensor, masks: Any) -> Any:
    found = logits.argmax(1).numpy()
    classes = range(logits.shape[1])
    counts = [[((found == c) & (masks == c)).sum(), ((found == c) & (masks != c)).sum(),
               ((found != c) & (masks == c)).sum()] for c in classes]  # fmt: skip
    return iou(np.array(counts))


def _as_one(logits: torch.Tensor) -> list[Any]:
    """Lay all images side by side: one case of MOVAL."""
    return [logits.movedim(1, 0).flatten(1, 2).numpy().astype(np.float64)]


def _moval(logits: torch.Tensor, masks: Any) -> Iterator[tuple[str, Any]]:
    """Fit the methods of MOVAL on every second pixel of each side: they take no neighbourhood."""
    import moval

    for algorithm, score in product(MOVAL, ("max_class_probability-conf", "entropy-conf")):
        model = moval.MOVAL("segmentation", "f1score", score, algorithm, algorithm != "ac-model")
        with _quiet(), _scalars():
            few = masks[:, ::2, ::2]
            model.fit(
                _as_one(logits[:, :, ::2, ::2]),
                [few.reshape(-1, few.shape[-1]).astype(np.int64)],
            )
        yield f"MOVAL {algorithm} {score}", model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MOVAL from printing."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _scalars() -> Iterator[None]:
    """Hand MOVAL numbers where it puts arrays of one element, which NumPy 2.4 refuses."""
    minimize = scipy.optimize.minimize

    def wrapped(fun: Any, **keywords: Any) -> Any:
        return minimize(fun=lambda x: fun(x.item()), **keywords)

    with unittest.mock.patch.object(scipy.optimize, "minimize", wrapped):
        yield


def _dice(model: Any, logits: torch.Tensor) -> Any:
    with _quiet():
        return np.clip(np.nan_to_num(model.estimate(_as_one(logits))), 0, 1)


def report(rows: pd.DataFrame) -> None:
    """Print coverage, mean errors and the share answered, by the kind of network and together."""
    rows = rows.dropna(subset=["true"])
    for name, part in _parts(rows):
        known = part[part["answered"]]
        inside = (known["low"] <= known["true"]) & (known["true"] <= known["high"])
        errors = {n: _error(known, n) for n in rows if n == "iou" or n.startswith("MOVAL")}
        whole = {n: _error(part, n) for n in rows if n.startswith("MOVAL")}
        best = min((n for n in errors if n != "iou"), key=lambda n: errors[n], default="")
        sets = part.groupby(["network", "domain"]).ngroups
        print(f"{name}: {sets} pairs, {len(part)} classes; answered {part['answered'].mean():.2f}")
        if len(known):
            width = (known["high"] - known["low"]).mean()
            print(f"  covers {inside.mean():.3f}, width {width:.2f}, error {errors['iou']:.3f}; "
                  f"{best} {errors[best]:.3f}")  # fmt: skip
        print(f"  all pairs: best of MOVAL {min(whole.values()):.3f}")
        print(f"  not answered: {part.loc[~part['answered'], 'reason'].value_counts().to_dict()}")


def _parts(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Split pairs by whether choices were made while looking at their networks."""
    own = rows["network"]
    study, hearts = own.str.contains("fold"), own.str.endswith("hearts")
    looked_at = study | hearts | (own == "smp-nuclei")
    yield "study (looked at)", rows[study]
    for at in ("nuclei", "hearts"):
        yield f"{at} (looked at)", rows[looked_at & own.str.endswith(at)]
    for at in ("nuclei", "purple", "malaria"):
        yield at, rows[~looked_at & own.str.endswith(at)]
    yield "all that were not looked at", rows[~looked_at]
    yield "all", rows


def _error(rows: pd.DataFrame, name: str) -> float:
    return float((rows[name] - rows["true"]).abs().mean())


def question(out: Path, manifest: str, runs: Path) -> None:
    """Print how well each quantity predicts the IoU lost, with each kind of shift left out."""
    table = losses(manifest, sorted(runs.iterdir()))
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "question.csv", index=False)
    print(answer(table).to_string(index=False))


def losses(manifest: str, runs: Iterable[Path]) -> pd.DataFrame:
    """IoU lost by each network under each shift, beside what may predict it."""
    torch.set_num_threads(1)
    rows = []
    for network in of_study(manifest, runs):
        with evaluating(network.net):
            sets = {ORIGINAL: network.away[ORIGINAL]} | network.away
            seen = {name: _seen(network, data) for name, data in sets.items()}
        for shift in paper_shifts():
            profile = ss.profile_shift(
                network.net, network.home.images, network.away[shift].images,
                groups=(network.home.groups, network.away[shift].groups),
                spec=ProfileSpec(permutation_draws=0),
            ).layers.set_index("layer")["excess"]  # fmt: skip
            rows.append({
                "network": network.name, "shift": shift, "kind": shift.partition(":")[0],
                "lost": seen[ORIGINAL][0] - seen[shift][0], **profile[list(LAYERS)],
                "largest": profile.max(), "intensity": abs(seen[shift][1] - seen[ORIGINAL][1]),
                "entropy": abs(seen[shift][2] - seen[ORIGINAL][2]),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _seen(network: Network, data: Labelled) -> tuple[float, float, float]:
    like = input_like(network.net)
    batches = [as_input(batch, like) for batch, _, _ in data.batches(8)]
    with torch.no_grad():
        logits = torch.cat([run(network.net, batch) for batch in batches])
    chances = probabilities_of(logits)
    entropy = -(chances * np.log(np.maximum(chances, 1e-9))).sum(1).mean()
    return float(_truth(logits, data.masks)[1]), float(torch.cat(batches).mean()), float(entropy)


PREDICTORS = (*LAYERS, "largest", "intensity", "entropy")
"""What may predict a loss: the excess of a layer or the largest, and two rivals."""


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Mean error and mean rank correlation of each predictor, with the range over networks."""
    errors, ranks = errors_of(table), ranks_of(table)
    rows = pd.DataFrame({"error": errors.mean(), "rank": ranks.mean()})
    return rows.assign(least=ranks.min(), most=ranks.max()).reset_index(names="by")


def errors_of(table: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute error of a loss that an isotonic fit on the other kinds of shift predicts.

    A row per network, fitted and judged by itself; ``nothing`` is the mean of the other losses.
    """
    from scipy.optimize import isotonic_regression

    rows = {}
    for network, own in table.assign(nothing=0).groupby("network"):
        rows[network] = {}
        for name in ("nothing", *PREDICTORS):
            apart = []
            for kind in own["kind"].unique():
                rest, left = own[own["kind"] != kind].sort_values(name), own[own["kind"] == kind]
                fit = isotonic_regression(rest["lost"]).x if name != "nothing" else None
                fit = np.full(len(rest), rest["lost"].mean()) if fit is None else fit
                apart += list(np.abs(np.interp(left[name], rest[name], fit) - left["lost"]))
            rows[network][name] = np.mean(apart)
    return pd.DataFrame(rows).T


def ranks_of(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman correlation of each predictor with the loss, a row per network."""
    return pd.DataFrame(
        {
            network: {name: spearmanr(own[name], own["lost"])[0] for name in PREDICTORS}
            for network, own in table.groupby("network")
        }
    ).T


def overhead(manifest: str, runs: Path, repeats: int = 20) -> None:
    """Print the time of a pass that is measured over that of one that only predicts, taken in turn.

    The sets are 64 images; processor time, the median of the repeats' ratios and their quartiles.
    """
    torch.set_num_threads(1)
    network = next(of_study(manifest, runs.iterdir()))
    images = np.tile(network.home.images, (4, 1, 1, 1))
    data, like = labelled("shifted", images, None, None, False), input_like(network.net)
    layers = last_layer(network.net, as_input(torch.from_numpy(images[:1]), like))
    ratios = []
    with evaluating(network.net), torch.no_grad():
        for _ in range(repeats):
            start = time.process_time()
            for batch, _, _ in data.batches(8):
                labels_of(run(network.net, as_input(batch, like)))
            between = time.process_time()
            measure(network.net, data, layers, 8)
            ratios.append((time.process_time() - between) / (between - start))
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    print(f"{middle:.3f} times a pass of prediction ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    part, *rest = sys.argv[1:]
    if part == "overhead":
        overhead(rest[0], Path(rest[1]))
    elif part == "question":
        question(Path(rest[0]), rest[1], Path(rest[2]))
    else:
        pairs(Path(rest[0]), rest[1], *map(Path, rest[2:]))
