import numpy as np
import pytest
import torch

import skipshift as ss
from skipshift.data.manifest import read_cases, read_manifest
from skipshift.study.training import RunOutput
from skipshift.study_specs import TrainingSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def cases(small_set):
    return list(read_cases(read_manifest(small_set), 2))


def test_a_profile_is_the_same_on_a_gpu(rng):
    images = rng.integers(0, 256, (8, 3, 64, 64), dtype=np.uint8)
    net = ss.Unet("resnet18").eval()
    here = ss.profile_shift(net, images, images // 2).layers["distance"].to_numpy()
    there = ss.profile_shift(net.cuda(), images, images // 2).layers["distance"].to_numpy()
    assert there == pytest.approx(here, abs=0.02 * here.max())


def test_every_path_patched_on_a_gpu_is_the_reference(rng):
    images = rng.integers(0, 256, (8, 3, 64, 64), dtype=np.uint8)
    masks = (images.mean(1) > 127).astype(np.uint8)
    net = ss.Unet("resnet18").eval().cuda()
    table = ss.carry(net, images, images // 2, masks).set_index("path")
    assert table.loc["all", "iou"] == pytest.approx(table.loc["all", "in_domain"], rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_trains_and_is_evaluated_on_a_gpu(cases, tmp_path, precision):
    spec = TrainingSpec(
        encoder_weights=None, epochs=4, learning_rate=2e-3, crop=64, crops_per_image=4,
        precision=precision,
    )  # fmt: skip
    output = RunOutput(tmp_path)
    done = ss.train(ss.Unet("resnet18"), cases[:10], cases[10:], spec, 0, output)
    losses = [row["train_loss"] for row in done.history]
    assert losses[-1] < 0.75 * losses[0]
    classes = ("background", "cell")
    here = ss.evaluate(done.net, cases[10:], classes)
    there = ss.evaluate(done.net.cuda(), cases[10:], classes)
    assert (here["tp"] - there["tp"]).abs().max() <= 3e-3 * cases[0].mask.size
