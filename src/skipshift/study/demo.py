"""The demo: a complete study on a synthetic data set, small enough for two cores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skipshift.data.prepare.options import SynthSpec
from skipshift.data.prepare.synthetic import write_synthetic
from skipshift.progress import Progress, silent
from skipshift.specs import RemedySpec
from skipshift.study.study import run_study
from skipshift.study_specs import DemoSpec, StudySpec, TrainingSpec

IMAGES = {"small": 160, "smallest": 15}

STUDIES: Mapping[str, Mapping[str, Any]] = {
    "small": {
        "evaluation_crop": 256,
        "training": TrainingSpec(
            encoder_weights=None,
            epochs=7,
            learning_rate=1e-3,
            decay_every=5,
            crop=128,
            crops_per_image=2,
        ),
    },
    "smallest": {
        "evaluation_crop": 64,
        "shifts": ("brightness:0.75", "contrast:1.5", "saturation:0"),
        "training": TrainingSpec(
            encoder_weights=None, epochs=2, learning_rate=1e-3, decay_every=1, crop=64
        ),
    },
}
"""Settings that differ from the paper's protocol: training from scratch, one fold, few small crops.

In 128 x 128 crops of 512 x 512 images a cell is 40 pixels wide; in images resized to 128 x 128 it
would be ten, too few for a network without skip connections.
"""


REMEDIES: Mapping[str, RemedySpec] = {
    "small": RemedySpec(
        remedies=("adabn", "moments", "brightness", "image-moments"),
        places=("input", "encoder.conv1", "e4", "L1", "L2", "encoder", "all"),
        folds=3,
    ),
    "smallest": RemedySpec(
        remedies=("adabn", "image-moments"), places=("input", "encoder.conv1"), folds=2
    ),
}
"""What the diagnosis at the end tries: enough to see the page, in a few minutes."""

SHIFT = "brightness:0.75"
"""The shift that is profiled, and diagnosed."""


def run_demo(spec: DemoSpec, progress: Progress = silent) -> Path:
    """Generate a synthetic set, train, evaluate and profile three variants, write the report."""
    folder = spec.out / "synthetic"
    manifest = write_synthetic(
        SynthSpec(
            folder,
            smear=spec.smear,
            templates=spec.templates,
            images=IMAGES[spec.size],
            seed=spec.seed,
        ),
        progress,
    )
    study = StudySpec(
        manifest=manifest,
        encoders=("resnet18",),
        skips=("baseline", "L1-pruned", "L4-pruned"),
        run_folds=(0,),
        seeds=(spec.seed,),
        profile_shifts=(SHIFT,),
        **STUDIES[spec.size],
    )
    return run_study(study, spec.out, progress=progress)
