"""Write docs/howto/networks.md: networks of tests/architectures.py with what carry makes of them.

    python -m benchmarks.networks [NAME ...]

For each network: its default layers, its paths, whether all of them give the reference's logits,
and the planted control: with noise on one path, that path's share is 1 and that of the others 0.
Cost is counted in operations of a bare pass of one image, so it does not depend on the machine:
``check`` once, and ``image`` for each image of the shifted set, in fp32.
"""

import logging
import sys
import warnings
from pathlib import Path

sys.path.insert(0, "tests")

import torch
from torch.utils.flop_counter import FlopCounterMode

PAGE = Path(__file__).parents[1] / "docs/howto/networks.md"

HEAD = """# Networks that were tried

Look here whether an architecture like yours has been tried, and which paths it has.

Made by `python -m benchmarks.networks` from the networks of `tests/architectures.py`, each small
and untrained, in fp32. *Known* structures have layers and paths by name; of the others a traced
forward pass finds both. *all* is whether patching all paths gives the reference's logits exactly.
*control*: noise is planted on one path at a time; its share must be 1, that of the others 0 (where
a path is computed of another, as nested nodes and gates are, only its own is told). Cost is in
operations of one bare forward pass of an image: *check* once, *image* for each shifted image with
its reference: each path alone, all but each path, none and all.

| network | layers | paths | all | control | check | image |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    import architectures

    every = [*architectures.CASES, *architectures.TRACED]
    names = sys.argv[1:] or every
    rows = {}
    for name in names:
        rows[name] = row(name)
        print(rows[name], flush=True)
    if names == every:
        PAGE.write_text(HEAD + "\n".join(rows.values()) + "\n", encoding="utf-8")


def row(name: str) -> str:
    import architectures
    from control import DOWNSTREAM, carried
    from skipshift.networks.layers import layers_of
    from skipshift.patching.paths import paths_of

    net, image = architectures.build(name)
    layers, paths = layers_of(net, example=image), paths_of(net, None, image)
    tables = [carried(name, path, number=1) for path in paths]
    whole = all(t.loc["all", "iou"] == t.loc["none", "in_domain"] for t in tables)
    own = all(t.loc[path, "share"] == 1 for path, t in zip(paths, tables, strict=True))
    alone = all(
        (t.drop(index=["none", "all", path])["share"] == 0).all()
        for path, t in zip(paths, tables, strict=True)
    )
    control = "1, 0" if own and alone else "1" if own and name in DOWNSTREAM else "no"
    check, each = cost(net, image)
    known = "" if name in architectures.TRACED else " (known)"
    return (
        f"| {name}{known} | {len(layers)} | {' '.join(paths)} | {'yes' if whole else 'no'} | "
        f"{control} | {check:.0f} | {each:.1f} |"
    )


def cost(net: torch.nn.Module, image: torch.Tensor) -> tuple[float, float]:
    """Operations of the check, and of each further image, in bare passes of one image."""
    import skipshift as ss

    spec = ss.CarrySpec(precision="fp32", batch_size=2)
    masks = torch.zeros(4, *image.shape[2:], dtype=torch.uint8).numpy()
    masks[:, ::2] = 1
    found = []
    for number in (0, 2, 4):
        images = torch.rand(number or 1, *image.shape[1:])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            if number:
                ss.carry(net, images, 1 - images, masks[:number], spec=spec)
            else:
                net(images)
        found.append(counter.get_total_flops())
    bare, two, four = found
    each = (four - two) / 2
    return (two - 2 * each) / bare, each / bare


if __name__ == "__main__":
    main()
