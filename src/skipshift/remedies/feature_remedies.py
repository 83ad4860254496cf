"""Remedies of feature maps and weights: statistics, maps onto the reference, training, ablation."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import grad

from skipshift.errors import ArgumentError
from skipshift.networks.changes import Affine, Change
from skipshift.networks.features import as_input, input_like
from skipshift.networks.losses import segmentation_loss
from skipshift.networks.quantile_map import QuantileMap
from skipshift.remedies.gathering import has_statistics
from skipshift.remedies.places import ALL, INPUT, Place, is_norm
from skipshift.remedies.setting import Fit, Remedy, Setting

_RATE = 1e-3
"""Step size of Adam in `finetune`, `scale` and `tent`, as Wang et al. 2021 have it for `tent`."""


def adabn(setting: Setting, place: Place) -> Fit | None:
    """Recompute the running statistics of batch norms on shifted images (AdaBN, Li et al. 2017).

    With weight w they are (1 - w) old + w new (Schneider et al. 2020).
    """
    modules = {name: setting.net.get_submodule(name) for name in place.modules}
    names = [n for n, m in modules.items() if has_statistics(m)]
    if not names:
        return None
    sums = setting.norms(tuple(names))
    state = setting.net.state_dict()

    def fit(without: int | None, weight: float) -> Change:
        weights = {}
        for name in names:
            for buffer, new in zip(("mean", "var"), sums[name].moments(without), strict=True):
                key = f"{name}.running_{buffer}"
                weights[key] = torch.lerp(state[key], new.to(state[key]), weight)
        return Change(weights=weights)

    return fit


def moments(setting: Setting, place: Place) -> Fit | None:
    """Give each channel at a place the mean and spread that it has on the reference."""
    if place.name not in setting.known.sums:
        return None
    mean, std = setting.known.moments(place.name)

    def fit(without: int | None, _weight: float) -> Change:
        own_mean, own_std = setting.seen.moments(place.name, without)
        scale = torch.where(own_std > 0, std / own_std, 1.0)
        return at(place, Affine(scale, mean - own_mean * scale))

    return fit


def quantile(setting: Setting, place: Place) -> Fit | None:
    """Map the distribution of each channel at a place onto that of the reference."""
    if place.name not in setting.known.samples:
        return None
    desired = setting.known.values(place.name)
    return lambda without, _weight: at(
        place, QuantileMap.between(setting.seen.values(place.name, without), desired)
    )


def prune(setting: Setting, place: Place) -> Fit | None:
    """Cut a skip: zeros in its place (weight 0), or its mean on the reference (weight 1)."""
    if place.kind != "skip" or place.name not in setting.known.sums:
        return None
    mean, _ = setting.known.moments(place.name)
    return lambda _without, weight: at(place, Affine(torch.zeros_like(mean), weight * mean))


def tent(setting: Setting, place: Place) -> Fit | None:
    """Make predictions certain by the scale and offset of normalisation layers (Wang et al. 2021).

    From recomputed statistics, which stay fixed, one pass over the images fitted on, in the order
    in which they come.
    """
    start = adabn(setting, place) if place.name == ALL else None
    norms = [n for n in place.modules if is_norm(setting.net.get_submodule(n))]
    names = _parameters(setting.net, norms)
    if start is None or not names:
        return None

    def fit(without: int | None, weight: float) -> Change:
        change = start(without, weight)
        batches = setting.shifted.batches(setting.net, setting.spec.batch_size)
        images = (images for fold, images, _, _ in batches if fold != without)
        given = {name: setting.net.get_parameter(name) for name in names}
        steps = ((batch, _entropy) for batch in images)
        return _descend(setting.net, given, lambda own: change.then(Change(weights=own)), steps)

    return fit


def finetune(setting: Setting, place: Place) -> Fit | None:
    """Train the parameters of a place alone on the labelled images."""
    names = _parameters(setting.net, place.modules)
    if setting.labelled is None or not names:
        return None
    given = {name: setting.net.get_parameter(name) for name in names}
    before = setting.shifted.before
    return lambda _without, _weight: _descend(
        setting.net, given, lambda own: Change(weights=own), _lessons(setting), before
    )


def scale(setting: Setting, place: Place) -> Fit | None:
    """Train a scale and an offset of each channel at a place on the labelled images."""
    if setting.labelled is None or place.name not in setting.seen.sums:
        return None
    channels = len(setting.seen.moments(place.name)[0])
    given = {"scale": torch.ones(channels), "offset": torch.zeros(channels)}
    before = setting.shifted.before
    return lambda _without, _weight: _descend(
        setting.net, given, lambda own: at(place, Affine(**own)), _lessons(setting), before
    )


FEATURE_REMEDIES = (
    Remedy("adabn", adabn, weights=(1.0, 0.5)),
    Remedy("moments", moments),
    Remedy("quantile", quantile),
    Remedy("tent", tent),
    Remedy("prune", prune, weights=(0.0, 1.0), fitted=False),
    Remedy("finetune", finetune, fitted=False, labelled=True),
    Remedy("scale", scale, fitted=False, labelled=True),
)


def at(place: Place, change: nn.Module) -> Change:
    """Change the tensor of a place."""
    if place.name == INPUT:
        return Change(inputs=(change,))
    assert place.mapped is not None
    return Change(maps={place.mapped: change})


def _parameters(net: nn.Module, modules: Sequence[str]) -> list[str]:
    """Names of the floating parameters that modules own themselves."""
    return [
        f"{module}.{name}" if module else name
        for module in modules
        for name, value in net.get_submodule(module).named_parameters(recurse=False)
        if value.is_floating_point()
    ]


def _entropy(logits: Tensor) -> Tensor:
    likely = two_classes(logits).float().log_softmax(1)
    return -(likely.exp() * likely).sum(1).mean()


def two_classes(logits: Tensor) -> Tensor:
    """Logits of both classes where a single channel is that of class 1 against class 0."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


Step = tuple[Tensor, Callable[[Tensor], Tensor]]
"""Images and the loss of their logits."""


def _lessons(setting: Setting) -> Iterator[Step]:
    """Yield steps over the labelled images, epoch after epoch, as many as the spec says."""
    assert setting.labelled is not None
    done = 0
    while True:
        for images, masks, _ in setting.labelled.batches(setting.spec.batch_size):
            if done == setting.spec.steps:
                return
            done += 1
            assert masks is not None
            truth = torch.from_numpy(masks)
            yield images, partial(_loss, masks=truth, ignore=setting.spec.ignore)


def _loss(logits: Tensor, masks: Tensor, ignore: int | None) -> Tensor:
    # a volume is as good as one wide image
    flat = two_classes(logits).flatten(3) if logits.ndim == 5 else two_classes(logits)
    truth = masks.to(logits.device, torch.int64)
    return segmentation_loss(flat, truth.view(len(truth), *flat.shape[2:]), ignore=ignore)


def _descend(
    net: nn.Module,
    given: Mapping[str, Tensor],
    change_of: Callable[[dict[str, Tensor]], Change],
    steps: Iterable[Step],
    before: Change | None = None,
) -> Change:
    """Lower a loss by Adam over the given numbers; the network itself stays as it is.

    The images go through ``before``, which is no part of what is returned. `ArgumentError` if the
    loss is no longer finite.
    """
    like = input_like(net)
    own = {
        name: value.detach().clone().to(like.device).requires_grad_()
        for name, value in given.items()
    }
    optimizer = torch.optim.Adam(own.values(), _RATE)
    with torch.enable_grad():
        for images, loss_of in steps:
            change = (before or Change()).then(change_of(own))
            loss = loss_of(change.logits(net, as_input(images, like)))
            if not loss.isfinite():
                raise ArgumentError("training diverged: the loss is not finite")
            # not backward(), which would add gradients to the network's own parameters
            for value, slope in zip(own.values(), grad(loss, list(own.values())), strict=True):
                value.grad = slope
            optimizer.step()
    return change_of({name: value.detach() for name, value in own.items()})
