"""Find where domain shift enters a segmentation network, what to change, and how sure that is.

The public names load on first use, so that ``import skipshift`` does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipshift import shifts
    from skipshift.binning import fingerprint
    from skipshift.checkpoints import load_net
    from skipshift.data.specs import SynthSpec
    from skipshift.distances import hellinger
    from skipshift.evaluation import evaluate
    from skipshift.fingerprints import Fingerprint
    from skipshift.models import Unet
    from skipshift.patching import carry
    from skipshift.profile import Profile, profile_shift
    from skipshift.specs import (
        CarrySpec,
        EvaluationSpec,
        FingerprintSpec,
        ProfileSpec,
        SkipshiftError,
        StudySpec,
        TrainingSpec,
    )
    from skipshift.study import run_study
    from skipshift.training import Place, train

_HOMES = {
    "Place": "skipshift.training",
    "CarrySpec": "skipshift.specs",
    "EvaluationSpec": "skipshift.specs",
    "Fingerprint": "skipshift.fingerprints",
    "FingerprintSpec": "skipshift.specs",
    "Profile": "skipshift.profile",
    "ProfileSpec": "skipshift.specs",
    "SkipshiftError": "skipshift.specs",
    "StudySpec": "skipshift.specs",
    "SynthSpec": "skipshift.data.specs",
    "TrainingSpec": "skipshift.specs",
    "Unet": "skipshift.models",
    "carry": "skipshift.patching",
    "evaluate": "skipshift.evaluation",
    "fingerprint": "skipshift.binning",
    "hellinger": "skipshift.distances",
    "load_net": "skipshift.checkpoints",
    "profile_shift": "skipshift.profile",
    "run_study": "skipshift.study",
    "train": "skipshift.training",
}

__all__ = [
    "CarrySpec",
    "EvaluationSpec",
    "Fingerprint",
    "FingerprintSpec",
    "Place",
    "Profile",
    "ProfileSpec",
    "SkipshiftError",
    "StudySpec",
    "SynthSpec",
    "TrainingSpec",
    "Unet",
    "carry",
    "evaluate",
    "fingerprint",
    "hellinger",
    "load_net",
    "profile_shift",
    "run_study",
    "shifts",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "shifts":
        return importlib.import_module("skipshift.shifts")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'skipshift' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
