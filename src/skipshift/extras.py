"""Optional packages: what each extra adds, what of it is installed, and its import."""

import importlib
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from skipshift.errors import SkipshiftError

EXTRAS = {
    "nifti": "NIfTI volumes (`prepare mms`, `--volumes`)",
    "formats": "MetaImage, NRRD, DICOM, TIFF files of several pages, OME-Zarr (`prepare folder`)",
    "slides": "whole slides by OpenSlide and tiffslide (`prepare scc`, `prepare mitosis`, "
    "`register`)",
    "stain": "stain normalisation as a remedy: Reinhard, Macenko (`remedy`)",
    "export": "`skipshift export`: ONNX and ONNX Runtime",
    "nnunet": "networks of nnU-Net v2 results",
    "monai": "networks of MONAI bundles",
    "ray": "studies on a Ray cluster",
    "tensorboard": "training curves in TensorBoard",
    "mlflow": "training curves in MLflow",
    "wandb": "training curves in Weights & Biases",
}
"""Each extra of the package, and what it adds; the README has the same words."""


class Package(NamedTuple):
    """A package that skipshift names among its requirements."""

    name: str
    needed: str
    """Versions that will do, such as ``>=5.2``."""
    found: str | None
    """Version that is installed; None if it is missing."""
    fits: bool
    """Whether the installed version is among those needed."""


def packages_of(extra: str = "") -> list[Package]:
    """List the packages of an extra, or those that skipshift always needs, from its metadata."""
    needed = [Requirement(line) for line in requires("skipshift") or ()]
    always = [one for one in needed if _applies(one, "")]
    if not extra:
        return [_package(one) for one in always]
    return [_package(one) for one in needed if _applies(one, extra) and one not in always]


def _applies(needed: Requirement, extra: str) -> bool:
    return needed.marker is None or needed.marker.evaluate({"extra": extra})


def _package(needed: Requirement) -> Package:
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        return Package(needed.name, str(needed.specifier), None, False)
    fits = needed.specifier.contains(found, prereleases=True)
    return Package(needed.name, str(needed.specifier), found, fits)


def load_extra(package: str, extra: str) -> Any:
    """Import an optional package; `SkipshiftError` says how to install it if it is missing."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise SkipshiftError(
            f"{package} is not installed; run pip install 'skipshift[{extra}]'"
        ) from None
