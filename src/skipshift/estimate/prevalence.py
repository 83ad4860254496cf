"""Shares of classes in images without masks."""

import pandas as pd
from torch import nn

from skipshift.estimate.estimating import labelled_sets, prepared
from skipshift.estimate.measuring import measure
from skipshift.estimate.settings import EstimateSpec
from skipshift.networks.addresses import unwrap
from skipshift.networks.as_found import evaluating
from skipshift.networks.features import Groups, Images
from skipshift.networks.outputs import giving_logits
from skipshift.patching.labelled import Masks
from skipshift.statistics.quantification import share_intervals


def prevalence(
    net: nn.Module,
    reference: Images,
    masks: Masks,
    shifted: Images,
    groups: Groups | tuple[Groups | None, Groups | None] | None = None,
    spec: EstimateSpec | None = None,
) -> pd.DataFrame:
    """Estimate which share of the pixels of unlabelled images is of each class (HDy).

    The network's log-odds in the new images are explained as a mixture of those inside and outside
    of each class in the reference (`class_shares`). That holds where the shares of the classes
    differ and their looks do not; under a shift of their looks it is as wrong as the network.

    The arguments are those of `skipshift.estimate`; `ArgumentError` names the one at fault.

    Returns
    -------
    One row per class, background too: ``class, share, low, high``. The shares add up to 1; ``low``
    and ``high`` are a 95 % interval over groups, NaN of a single group.
    """
    net, spec = unwrap(net), spec or EstimateSpec()
    home, away = labelled_sets((reference, shifted), masks, groups, spec.ignore)
    with evaluating(net):
        output, _ = prepared(net, home, spec)
        with giving_logits(net, output):
            known = measure(net, home, {}, spec.batch_size, spec.ignore).confidence
            seen = measure(net, away, {}, spec.batch_size).confidence
    share, low, high = share_intervals(known, seen)
    names = [f"class {index}" for index in range(len(share))]
    return pd.DataFrame({"class": names, "share": share, "low": low, "high": high})
