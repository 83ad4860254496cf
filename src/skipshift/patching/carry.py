"""Activation patching: feed one skip the reference's features and measure how much IoU returns.

A path is a tensor that the decoder reads: a skip where it enters its decoder block, the bottleneck
where it leaves the encoder. The encoder runs on the shifted image throughout, so patching a path
restores what flows through that path, and not what other paths compute from the same features.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.networks.addresses import unwrap
from skipshift.networks.as_found import evaluating
from skipshift.networks.features import Groups, Images
from skipshift.networks.hooks import captured
from skipshift.networks.outputs import giving_logits, warn_if_constant
from skipshift.patching import behind, feeds
from skipshift.patching.labelled import Codes, Labelled, Masks, labelled_pair, output_of
from skipshift.patching.patcher import Labels, Patcher, checked, copied
from skipshift.patching.paths import paths_of
from skipshift.patching.trial import ready
from skipshift.specs import CarrySpec
from skipshift.statistics.counts import count
from skipshift.statistics.recovery import ALL, NONE, Counts, Rows, rows_of, share_table

_SAMPLE = 2**14
"""Values per channel from which quantiles and means are estimated, spread over all images."""

Pair = tuple[Labelled, Labelled]

_Measured = tuple[tuple[Counts, Counts], behind.Passed]


def carry(
    net: nn.Module,
    reference: Images,
    shifted: Images,
    masks: Masks | tuple[Masks, Masks],
    groups: Groups | tuple[Groups, Groups] | None = None,
    spec: CarrySpec | None = None,
) -> pd.DataFrame:
    """Measure which path of a network carries the IoU lost under a shift, by activation patching.

    The network segments the shifted images (target domain) while one path is fed the features of
    the reference (source domain). The ``share`` of the path is its recovered fraction: the IoU that
    returns, divided by the IoU lost. Nothing is trained. The method is also known as interchange
    intervention or causal mediation analysis; modes ``zero`` and ``mean`` are ablations. The IoU is
    that of the foreground, pooled over all images (section V), and the mean over several foreground
    classes. Shares of single paths need not add up to one; Shapley values do.

    Before anything is measured, one image shows which paths are read (noise in a path changes the
    logits) and that patching everything that the decoder reads gives the reference's logits. Short
    cuts (remembered parts of a forward pass, bf16) are taken only where they give the logits of the
    network itself with each path patched. The IoU of both unpatched sets is the network's own.

    Parameters
    ----------
    net
        Any network that returns logits (N, classes, H, W), or one channel for two classes. It runs
        on its own device and is left as it was found.
    reference, shifted
        Arrays (N, C, H, W), of volumes (N, C, D, H, W), or loaders that can be iterated more than
        once; uint8 is divided by 255, floats are used as they are. In mode ``paired`` the same
        images in the same order.
    masks
        (N, H, W) or (N, D, H, W) uint8 class indices of both sets, or a pair of such arrays, one
        per set; ``spec.ignore`` where a pixel is not to be counted.
    groups
        Label of each image's group, or a pair of such sequences, one per set; by default each image
        is a group of its own. Equal labels in both sets are pairs.

    Returns
    -------
    A table with a row ``none`` for the unpatched shifted images, one row per path, with
    ``spec.subsets`` one per set of paths (``L1+L2``), and a row ``all``. Everything computed from a
    patched tensor sees the patch, other paths too. A path that is not read has NaN and ``read``
    False. Intervals are 95 % over groups, NaN with a single group.

    ``iou``, ``lost``, ``lost_low``, ``lost_high``: IoU, and how far it is below the reference's.
    ``share``, ``low``, ``high``: the part of the loss that comes back with this path *alone*. NaN
    if the shift costs no IoU; the interval (Fieller's, with t) is NaN if the loss may be 0.
    ``missing``, ``missing_low``, ``missing_high``: the part that is *missed* when all other paths
    are patched and this one is not. Modes ``paired`` and ``quantile``.
    ``sure``, ``missing_sure``: whether ``share`` or ``missing`` is above 0, at 5 % for all single
    paths together (intervals at 1 - 0.05 / k). The intervals above are of each row alone.
    ``passed``, ``passed_low``, ``passed_high``: how much of the squared feature distance in the
    decoder block behind the path goes, where that block is known. In mode ``paired`` the distance
    is that of the same image's maps, in mode ``quantile`` that of each channel's distribution.
    ``farther``: the patch leads away from the reference there (``passed_high`` below 0), so that
    the decoder sees a state that neither set gives it.
    ``read``: whether anything reads the path.
    ``in_domain``: the IoU of the reference, in modes ``zero`` and ``mean`` with the same paths
    ablated.
    ``shapley``, ``shapley_low``, ``shapley_high``: of single paths if ``spec.subsets``.

    `ArgumentError` names the argument or path that is invalid, or says that patching everything
    does not give the reference's logits: then no share would mean what it says.
    """
    spec = spec or CarrySpec()
    net = unwrap(net)
    pair = labelled_pair((reference, shifted), masks, groups, spec.mode == "paired")
    paths = paths_of(net, spec.paths, next(pair[0].batches(1))[0])
    rows_of(tuple(paths), spec.subsets)
    with evaluating(net), giving_logits(net, output_of(net, pair, spec)):
        patcher = ready(net, paths, pair[0], spec)
        rows = rows_of(tuple(patcher.paths), spec.subsets, spec.mode in ("paired", "quantile"))
        measure = _paired if spec.mode == "paired" else _unpaired
        counts, passed = measure(patcher, rows, pair)
        table = share_table(rows, counts, (pair[0].groups, pair[1].groups), spec)
        if patcher.net is not net:
            table = _with_exact(table, replace(patcher, net=net, cache=False), pair)
    warn_if_constant(counts[0])
    return _finished(table, list(paths), passed)


def _with_exact(table: pd.DataFrame, plain: Patcher, pair: Pair) -> pd.DataFrame:
    """Take the IoU of both unpatched sets from the network itself instead of its copy.

    Shares stay those of the copy, whose own unpatched sets differ as its patched ones do.
    """
    rows = {NONE: (), ALL: tuple(plain.paths)}
    counts = [_zeros(plain, data, len(rows)) for data in pair]
    for into, data in zip(counts, pair, strict=True):
        for images, masks, codes in data.batches(plain.spec.batch_size):
            _add(into[:, 0], codes, plain.labels(images), masks, plain.spec.ignore)
        into[:, 1] = into[:, 0]
    groups = pair[0].groups, pair[1].groups
    spec = replace(plain.spec, subsets=False)
    exact = share_table(rows, (counts[0], counts[1]), groups, spec)
    table, none = table.copy(), table["path"] == NONE
    for column in ("iou", "lost", "lost_low", "lost_high"):
        table.loc[none, column] = exact[column][0]
    unablated = none if plain.spec.mode in ("zero", "mean") else none | True
    table.loc[unablated, "in_domain"] = exact["in_domain"][0]
    return table


def _finished(table: pd.DataFrame, paths: list[str], passed: behind.Passed) -> pd.DataFrame:
    """Add what was passed on, and a row for each path that is not read."""
    found = table.set_index("path")
    rest = [name for name in found.index if name not in (NONE, ALL, *paths)]
    order = [NONE, *paths, *rest, ALL]
    found = found.reindex(order)
    parts = np.array([passed.get(path, (np.nan,) * 3) for path in order])
    found[["passed", "passed_low", "passed_high"]] = parts
    found["farther"] = parts[:, 2] < 0
    for column in ("sure", "missing_sure"):
        found[column] = found[column].eq(True)
    found["read"] = found.index.isin(table["path"])
    first = ["iou", "share", "low", "high", "missing", "missing_low", "missing_high"]
    first += ["passed", "passed_low", "passed_high", "sure", "missing_sure", "farther", "read"]
    others = [column for column in found.columns if column not in first]
    return found[[*first, *others]].rename_axis("path").reset_index()


def _zeros(patcher: Patcher, data: Labelled, rows: int) -> Counts:
    return np.zeros((len(np.unique(data.groups)), rows, patcher.classes, 3), np.int64)


def _add(
    into: Counts, codes: Codes, labels: Labels, masks: Masks | None, ignore: int | None
) -> None:
    """Add the confusion counts of a batch to those of its groups, (groups, classes, 3)."""
    if masks is not None:
        # a volume is counted as one wide image
        flat = [array.reshape(len(array), array.shape[1], -1) for array in (masks, labels)]
        np.add.at(into, codes, count(flat[0], flat[1], into.shape[1], ignore))


def _paired(patcher: Patcher, rows: Rows, pair: Pair) -> _Measured:
    """Count the unpatched reference, in one row, and the shifted images in every row."""
    source, target = (_zeros(patcher, d, n) for d, n in zip(pair, (1, len(rows)), strict=True))
    distances = behind.InPairs(len(target))
    batches = [data.batches(patcher.spec.batch_size) for data in pair]
    for (images, masks, codes), (shifted, shifted_masks, shifted_codes) in zip(
        *batches, strict=True
    ):
        if images.shape != shifted.shape:
            raise ArgumentError(
                f"mode paired needs images of one shape in both sets, got {tuple(images.shape)} "
                f"and {tuple(shifted.shape)}"
            )
        with (
            captured(patcher.net, patcher.paths, copied) as features,
            captured(patcher.net, patcher.behind, copied) as maps,
        ):
            _add(source[:, 0], codes, patcher.labels(images), masks, patcher.spec.ignore)
        distances.reference(maps)

        def patch(path: str, _: Tensor, features: Mapping[str, Tensor] = features) -> Tensor:
            return features[path].clone()

        given = patcher.patched(shifted, rows.values(), patch)
        for row, (name, (labels, maps)) in enumerate(zip(rows, given, strict=True)):
            _add(target[:, row], shifted_codes, labels, shifted_masks, patcher.spec.ignore)
            if name != ALL:
                distances.add(rows[name], maps, shifted_codes)
    return (source, target), distances.passed()


def _unpaired(patcher: Patcher, rows: Rows, pair: Pair) -> _Measured:
    """Count both sets in every row; the reference unpatched only in mode quantile."""
    if patcher.spec.mode == "zero":
        return _tallied(patcher, (rows, rows), pair, feeds.zeros)
    blocks = {f"behind {path}": address for path, address in patcher.behind.items()}
    source = _sample(patcher, pair[0], {**patcher.paths, **blocks})
    if patcher.spec.mode == "mean":
        return _tallied(patcher, (rows, rows), pair, feeds.means(source))
    target = _sample(patcher, pair[1], patcher.paths)
    patch = feeds.quantiles(target, {path: source[path] for path in target})
    levels = {path: behind.levels_of(source[f"behind {path}"]) for path in patcher.behind}
    names = (np.unique(pair[0].groups), np.unique(pair[1].groups))
    # mapping the reference to its own quantiles would leave it as it is
    return _tallied(patcher, ({NONE: ()}, rows), pair, patch, behind.BetweenSets(levels, names))


def _tallied(
    patcher: Patcher,
    rows: tuple[Rows, Rows],
    pair: Pair,
    patch: feeds.Patch,
    distances: behind.BetweenSets | None = None,
) -> _Measured:
    counts = []
    for number, (data, own) in enumerate(zip(pair, rows, strict=True)):
        into = _zeros(patcher, data, len(own))
        for images, masks, codes in data.batches(patcher.spec.batch_size):
            given = patcher.patched(images, own.values(), patch)
            for row, (name, (labels, maps)) in enumerate(zip(own, given, strict=True)):
                _add(into[:, row], codes, labels, masks, patcher.spec.ignore)
                if distances is not None and name != ALL:
                    distances.add(number > 0, own[name], maps, codes)
        counts.append(into)
    return (counts[0], counts[1]), {} if distances is None else distances.passed()


def _sample(patcher: Patcher, data: Labelled, addresses: Mapping[str, str]) -> dict[str, Tensor]:
    """Sample tensors at random positions of every image: name -> (M, D) float32."""
    rng = torch.Generator().manual_seed(patcher.spec.seed)
    each = max(1, _SAMPLE // len(data.groups))
    parts: dict[str, list[Tensor]] = {name: [] for name in addresses}

    def pick(path: str, value: Tensor) -> Tensor:
        return feeds.picked(checked(path, value), each, rng)

    for images, _, _ in data.batches(patcher.spec.batch_size):
        with captured(patcher.net, addresses, pick) as found:
            patcher.labels(images)
        for path, values in found.items():
            parts[path].append(values)
    return {path: torch.cat(values) for path, values in parts.items()}
