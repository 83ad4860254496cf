import pandas as pd

from skipshift.page.ordering import grid


def test_a_grid_has_a_row_for_each_network_and_for_no_other_pair():
    networks = [("resnet18", "baseline"), ("resnet18", "L1-pruned"), ("constant", "all-cell")]
    iou = pd.DataFrame(
        [(*network, domain, "cell", 0.5) for network in networks for domain in ("b", "a")],
        columns=["encoder", "variant", "domain", "class", "iou"],
    )
    iou.loc[iou["domain"] == "a", "iou"] = float("nan")
    found = grid(iou, "cell")
    assert list(found.index) == networks
    assert list(found.columns) == ["b", "a"]
