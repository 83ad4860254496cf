"""The command `doctor`: what skipshift finds on a machine, to paste into an issue."""

import json
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from skipshift.data.checks.findings import CheckError
from skipshift.extras import EXTRAS, Package, packages_of
from skipshift.progress import Progress, silent

_GB = 1e9


@dataclass(frozen=True)
class DoctorSpec:
    """Say what skipshift finds here: versions, devices, memory, disk, and what extras would add.

    The text names no user, folder or machine: paste it into an issue. Nothing is downloaded. The
    exit code is 1 if a package that skipshift needs is missing, too old or cannot be imported.

    Example: skipshift doctor
    """

    out: Path = Path()
    """Folder that results are to be written to, to see the space on its disk."""

    json: bool = field(default=False, kw_only=True)
    """Print all of it as JSON."""


def doctor(spec: DoctorSpec, progress: Progress = silent) -> str:  # noqa: ARG001
    """Look at what there is; `CheckError` with all of it if a package that is needed is wrong."""
    found = examine(spec.out)
    report = json.dumps(found, indent=2) if spec.json else _text(found)
    if found["problems"]:
        raise CheckError(f"not ready: {found['problems'][0]}", report)
    return report


def examine(out: Path) -> dict[str, Any]:
    """Collect versions, devices, memory, free disk, extras and problems, as ``--json`` prints."""
    needed = packages_of()
    torch = _torch()
    wrong = [_wrong(one) for one in needed if not one.fits]
    return {
        "skipshift": version("skipshift"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_gb": _memory(),
        "disk_free_gb": {name: _free(folder) for name, folder in _folders(out).items()},
        "torch": torch,
        "packages": {one.name: one.found for one in needed},
        "extras": {name: _extra(name) for name in EXTRAS},
        "problems": [*wrong, *filter(None, [torch.get("problem")])],
    }


def _torch() -> dict[str, Any]:
    """Import torch and torchvision, run an operator of each, and look at the devices."""
    try:
        import torch
        import torchvision

        from skipshift.networks.inference import best_device, instruction_set, resolve_precision

        # an operator that torchvision brings itself, compiled for one build of torch
        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except Exception as error:
        # a pair of builds that do not match raises ImportError, RuntimeError or OSError
        return {
            "problem": "torch and torchvision cannot be used together: "
            f"{type(error).__name__}; install builds that match"
        }
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    device = best_device()
    return {
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "cuda": torch.version.cuda,
        "gpus": [f"{gpu.name}, {gpu.total_memory / _GB:.0f} GB" for gpu in gpus],
        "device": device,
        "instruction_set": instruction_set(device),
        "precision": resolve_precision("auto", device),
        "threads": torch.get_num_threads(),
    }


def _extra(name: str) -> dict[str, Any]:
    packages = packages_of(name)
    return {
        "adds": EXTRAS[name],
        "ready": all(one.fits for one in packages),
        "packages": {one.name: one.found for one in packages},
    }


def _wrong(package: Package) -> str:
    there = "is missing" if package.found is None else f"{package.found} is installed"
    return f"{package.name}{package.needed} is needed, {there}"


def _memory() -> float | None:
    """Memory of the machine in GB; None where the system does not say."""
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GB, 1)
    except (AttributeError, ValueError, OSError):  # not POSIX
        return None


def _folders(out: Path) -> dict[str, Path]:
    """Name the folders of results, of features that memory cannot hold, and of encoder weights."""
    cache = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return {"out": out, "temporary": Path(tempfile.gettempdir()), "encoder_weights": cache}


def _free(folder: Path) -> float:
    whole = folder.absolute()
    there = next(place for place in (whole, *whole.parents) if place.exists())
    return round(shutil.disk_usage(there).free / _GB, 1)


def _text(found: dict[str, Any]) -> str:
    torch, disk = found["torch"], found["disk_free_gb"]
    memory = "unknown" if found["memory_gb"] is None else f"{found['memory_gb']:g} GB"
    rows = [
        ("skipshift", found["skipshift"]),
        ("Python", f"{found['python']} on {found['system']}"),
        *_torch_rows(torch),
        ("cores, memory", f"{found['cores']}, {memory}"),
        (
            "disk free",
            f"{disk['out']:g} GB for OUT, {disk['temporary']:g} GB for temporary files, "
            f"{disk['encoder_weights']:g} GB for encoder weights",
        ),
        ("packages", ", ".join(f"{k} {v or 'missing'}" for k, v in found["packages"].items())),
    ]
    lines = [f"{name:<16}{value}" for name, value in rows]
    lines += ["", "extras"]
    for name, extra in found["extras"].items():
        lines.append(f"  {name:<14}{'ready' if extra['ready'] else 'missing'}: {extra['adds']}")
        if not extra["ready"]:
            lines.append(f"{'':<16}pip install 'skipshift[{name}]'")
    lines += ["", *(f"problem: {problem}" for problem in found["problems"] or ())]
    return "\n".join(lines if found["problems"] else [*lines, "no problems"])


def _torch_rows(torch: dict[str, Any]) -> list[tuple[str, str]]:
    if "problem" in torch:
        return [("torch", torch["problem"])]
    gpus = ", ".join(torch["gpus"]) or "none"
    build = f"CUDA {torch['cuda']}" if torch["cuda"] else "CPUs alone"
    return [
        ("torch", f"{torch['torch']}, torchvision {torch['torchvision']}: builds that match"),
        ("GPUs", f"{gpus} (torch is built for {build})"),
        ("device", f"{torch['device']}, {torch['threads']} threads, {torch['instruction_set']}"),
        ("precision auto", f"is {torch['precision']} here"),
    ]
