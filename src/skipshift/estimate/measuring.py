"""One pass over a set: confidence of each group, and pooled features of the last layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.estimate.calibration_shifts import Shift
from skipshift.estimate.settings import EstimateSpec
from skipshift.networks.changes import Change
from skipshift.networks.features import as_input, input_like
from skipshift.networks.hooks import captured
from skipshift.networks.inference import labels_of, run
from skipshift.networks.layers import layers_of
from skipshift.networks.outputs import Output, find_output, giving_logits
from skipshift.networks.pooling import cells_of, pooled, vectors
from skipshift.patching.labelled import Labelled
from skipshift.statistics.confidence import BINS, WIDTH, Confidence, agreement, histograms


@dataclass(frozen=True)
class Measured:
    """What one pass over a set gave."""

    confidence: Confidence

    features: Mapping[str, npt.NDArray[np.float32]]
    """Layer -> (N, K, D), K positions and D channels of each image."""

    groups: npt.NDArray[np.int64]
    """(N,): index of each image's group among the sorted labels."""

    names: npt.NDArray[np.str_]
    """(G,): sorted labels of the groups."""

    low: float
    """Least value that the network was given."""

    high: float
    """Largest value that the network was given."""

    channels: int
    """Channels of an image."""


@dataclass(frozen=True)
class Peer:
    """Another network of the same classes, whose predictions a network's are compared with."""

    net: nn.Module

    output: Output

    def logits(self, batch: Tensor) -> Tensor:
        """Run it: (N, classes, ...), on its own device."""
        with giving_logits(self.net, self.output):
            logits: Tensor = run(self.net, as_input(batch, input_like(self.net)))
            return logits


def find_peer(own: Peer, net: nn.Module, number: int, example: Tensor, spec: EstimateSpec) -> Peer:
    """Find the logits of a peer of a network; `ArgumentError` if it has other classes or input.

    ``number`` is the one by which errors name it.
    """
    name = f"peers[{number}]"
    if net is own.net:
        raise ArgumentError(f"{name} is the network itself, which always agrees; leave it out")
    try:
        output = find_output(net, example, own.output.classes, spec.output, spec.activation)
    except ArgumentError as error:
        raise ArgumentError(f"{name} must take the input of the network: {error}") from error
    peer = Peer(net, output)
    with torch.no_grad():
        theirs, ours = (max(2, one.logits(example).shape[1]) for one in (peer, own))
    if theirs != ours:
        raise ArgumentError(f"{name} must have the {ours} classes of the network, got {theirs}")
    return peer


def last_layer(net: nn.Module, images: Tensor) -> dict[str, str]:
    """Find the last layer of the default profile: name -> address."""
    layers = layers_of(net, None, images[:1])
    name = list(layers)[-1]
    return {name: layers[name]}


def measure(
    net: nn.Module,
    data: Labelled,
    layers: Mapping[str, str],
    batch_size: int,
    ignore: int | None = None,
    shift: Shift | None = None,
    peers: Sequence[Peer] = (),
    change: Change | None = None,
) -> Measured:
    """Run a network that gives logits once over a set, under a calibration shift if one is given.

    Peers are run on the same batches. ``change`` is one of the network itself, not of peers.

    `ArgumentError` for an image, logits or features that hold NaN or infinity, and for masks of a
    class that the network does not have.
    """
    like, names = input_like(net), np.unique(data.groups)
    sums: list[npt.NDArray[np.int64]] = []
    features: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in layers}
    low, high, channels = np.inf, -np.inf, 0
    with torch.no_grad():
        for images, masks, codes in data.batches(batch_size):
            batch = as_input(images, like)
            if not batch.isfinite().all():
                raise ArgumentError(f"images of the {data.name} hold NaN or infinity")
            low, high = min(low, float(batch.min())), max(high, float(batch.max()))
            channels = batch.shape[1]
            if shift is not None:
                batch = shift.images(batch)
                masks = None if masks is None else shift.masks(masks)
            logits, maps = run_through(net, batch, layers, change=change)
            own = [histograms_of(logits, masks, ignore, data.name)]
            if peers:
                labels, classes = labels_of(logits), own[0].shape[1]
                others = (labels_of(peer.logits(batch)) for peer in peers)
                each = [agreement(labels, one, classes, masks, ignore) for one in others]
                own.append(np.stack(each, 1))
            sums = sums or [np.zeros((len(names), *one.shape[1:]), np.int64) for one in own]
            for total, counted in zip(sums, own, strict=True):
                np.add.at(total, codes, counted)
            for name, part in maps.items():
                features[name].append(part)
    codes = np.unique(data.groups, return_inverse=True)[1]
    whole = {name: np.concatenate(parts) for name, parts in features.items()}
    return Measured(Confidence(*sums), whole, codes, names.astype(str), low, high, channels)


def log_odds(logits: Tensor) -> Tensor:
    """Log-odds (N, C, ...) of each class against all others; two classes of a single channel."""
    scores = logits.float()
    if scores.shape[1] <= 2:
        apart = scores if scores.shape[1] == 1 else scores[:, 1:] - scores[:, :1]
        return torch.cat([-apart, apart], 1)
    others = [torch.cat([scores[:, :c], scores[:, c + 1 :]], 1) for c in range(scores.shape[1])]
    return torch.stack([scores[:, c] - rest.logsumexp(1) for c, rest in enumerate(others)], 1)


def run_through(
    net: nn.Module,
    batch: Tensor,
    layers: Mapping[str, str],
    pooling: str = "average",
    change: Change | None = None,
) -> tuple[Tensor, dict[str, npt.NDArray[np.float32]]]:
    """Return the logits of a batch, and pooled features (n, K, D) of layers.

    `ArgumentError` names a layer whose features hold NaN or infinity.
    """
    cells = cells_of(batch)

    def pool(name: str, value: Tensor) -> npt.NDArray[np.float32]:
        # flips of the same images, of a change, come behind them
        own = value[: len(batch)].float()
        maps = pooled(own, cells, pooling, np.random.default_rng(0))
        part = vectors(maps).cpu().contiguous().numpy()
        if not np.isfinite(part).all():
            raise ArgumentError(
                f"layer {name}: features hold NaN or infinity; check weights and inputs"
            )
        return part

    with captured(net, layers, pool) as features:
        logits = run(net, batch) if change is None else change.logits(net, batch)
    return logits, features


def histograms_of(
    logits: Tensor,
    masks: npt.NDArray[np.uint8] | None = None,
    ignore: int | None = None,
    name: str = "images",
) -> npt.NDArray[np.int64]:
    """Count the log-odds of each image: `skipshift.statistics.confidence.histograms`.

    `ArgumentError` if logits hold NaN, or masks a class that the network does not have.
    """
    predictions = labels_of(logits)
    flat = predictions.reshape(len(predictions), -1)
    odds = log_odds(logits).flatten(2)
    bins = (odds / WIDTH).floor().add(BINS // 2).clamp(0, BINS - 1).to(torch.uint8).cpu().numpy()
    if masks is None:
        return histograms(bins, flat)
    own = masks.reshape(len(masks), -1)
    largest = int(own.max(initial=0, where=True if ignore is None else own != ignore))
    if largest >= bins.shape[1]:
        raise ArgumentError(
            f"masks of the {name} hold class {largest}, and the network has {bins.shape[1]} "
            f"classes; set ignore to the value of pixels that are not to be counted"
        )
    return histograms(bins, flat, own, ignore)
