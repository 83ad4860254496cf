"""Time a profile beside the bare forward passes of the same two sets, and beside a naive profile.

    python -m benchmarks.profile [IMAGES] [ROUNDS] [SIDE ...]

Each job has a process of its own. ``added`` is what the paper's profile adds to the forward passes
of the same network in the same process (bf16 where the processor has it, channels last, batch norms
folded), ``draws`` what null, interval and p add on top. ``speed`` and ``memory`` compare with a
naive profile, which keeps every map and calls np.histogram for each channel: of a plain fp32
network, and in brackets of the same network as ours. That one sees at most `FEW` images of either
set, and its memory is scaled up. Memory is what comes on top of a forward pass, so few images say
nothing about it. Only ratios of one run mean anything.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np

BATCH = 8
FEW = 16
DRAWS = ("null_draws", "permutation_draws")


def main() -> None:
    given = [int(word) for word in sys.argv[1:]]
    images, rounds = [*given, *(200, 3)[len(given) :]][:2]
    sides = given[2:] or [128, 256, 512]
    print(f"{'side':<6}{'added':>8}{'draws':>8}{'speed':>14}{'memory':>9}   (ratios)")
    for side in sides:
        ours = measure("ours", side, images, rounds)
        plain, same = (measure(way, side, min(images, FEW), 1) for way in ("plain", "same"))
        speeds = [naive["seconds"] / naive["images"] * images for naive in (plain, same)]
        memory = plain["memory"] / plain["images"] * images / ours["memory"]
        fast, slow = (seconds / ours["profile"] for seconds in speeds)
        print(
            f"{side:<6}{ours['added']:>8.1%}{ours['draws']:>8.1%}{fast:>7.2f}x ({slow:.2f}x)"
            f"{memory:>8.1f}x",
            flush=True,
        )


def measure(job: str, side: int, images: int, rounds: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.profile", "--job", job]
    command += [str(number) for number in (side, images, rounds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def sets(side: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random images, and the same darker: 400 of them cost nothing but their bytes."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (images, side // 8, side // 8, 3), dtype=np.uint8)
    reference = coarse.repeat(8, 1).repeat(8, 2)
    return reference.transpose(0, 3, 1, 2), (reference // 4 * 3).transpose(0, 3, 1, 2)


def ours(side: int, images: int, rounds: int) -> dict[str, float]:
    from skipshift.networks.allocator import keep_memory

    keep_memory()
    import torch

    from skipshift.networks.features import as_input
    from skipshift.networks.inference import fast_copy
    from skipshift.networks.unet import Unet
    from skipshift.profile.profiling import profile_shift
    from skipshift.specs import ProfileSpec

    torch.manual_seed(0)
    net = fast_copy(Unet(), torch.rand(1, 3, side, side))
    layers, both = Unet().layers(), sets(side, images)
    bare = ProfileSpec(batch_size=BATCH, **dict.fromkeys(DRAWS, 0))

    def forward() -> None:
        like = next(net.parameters())
        with torch.inference_mode():
            for images in both:
                for start in range(0, len(images), BATCH):
                    net(as_input(torch.from_numpy(images[start : start + BATCH]), like))

    def profile(spec: ProfileSpec) -> None:
        profile_shift(net, *both, layers, spec=spec)

    profile_shift(net, *(half[:BATCH] for half in both), layers, spec=bare)
    before = peak()
    jobs = {
        "forward": forward,
        "profile": lambda: profile(bare),
        "whole": lambda: profile(ProfileSpec(batch_size=BATCH)),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(seconds(job))
    # what disturbs a run only ever makes it longer
    took = {name: min(found) for name, found in times.items()}
    return {
        "profile": took["profile"],
        "added": took["profile"] / took["forward"] - 1,
        "draws": (took["whole"] - took["profile"]) / took["forward"],
        "memory": peak() - before,
    }


def naive(side: int, images: int, same: bool) -> dict[str, float]:
    import torch
    from torch.nn import functional

    from skipshift.networks.features import as_input
    from skipshift.networks.hooks import captured
    from skipshift.networks.inference import fast_copy
    from skipshift.networks.layers import layers_of
    from skipshift.networks.unet import Unet

    torch.manual_seed(0)
    net = Unet().eval()
    layers = layers_of(net)
    if same:
        net = fast_copy(net, torch.rand(1, 3, side, side))
    like, both = next(net.parameters()), sets(side, images)

    def batch(pixels: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(pixels))
        return as_input(pixels, like) if same else pixels.float() / 255

    def maps(pixels: np.ndarray) -> dict[str, torch.Tensor]:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(pixels), BATCH):
                with captured(net, layers, lambda _name, output: output.clone()) as kept:
                    net(batch(pixels[start : start + BATCH]))
                parts.append(kept)
        return {name: [part[name] for part in parts] for name in layers}

    def profile() -> None:
        kept = [maps(pixels) for pixels in both]
        for name in layers:
            pooled = [
                torch.cat([functional.adaptive_avg_pool2d(m.float(), side // 32) for m in s[name]])
                .permute(1, 0, 2, 3)
                .flatten(1)
                .numpy()
                for s in kept
            ]
            for a, b in zip(*pooled, strict=True):
                span = min(a.min(), b.min()), max(a.max(), b.max())
                p, q = (np.histogram(x, 100, span)[0] / x.size for x in (a, b))
                np.sqrt(max(0.0, 1 - np.sqrt(p * q).sum()))

    with torch.inference_mode():
        net(batch(both[0][:BATCH]))
    before = peak()
    return {"seconds": seconds(profile), "memory": peak() - before, "images": images}


def seconds(job) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_job(job: str, side: str, images: str, rounds: str) -> None:
    if job == "ours":
        found = ours(int(side), int(images), int(rounds))
    else:
        found = naive(int(side), int(images), job == "same")
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        run_job(*sys.argv[2:])
    else:
        main()
