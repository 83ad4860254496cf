from pathlib import Path

import numpy as np
import pytest

from discs import write_discs

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip("needs the shared folder with real data beside the project")
    return SHARED


@pytest.fixture
def small_set(tmp_path, rng):
    """A manifest of 14 images of 64 x 64, dark discs on a bright ground; 10 are for training."""
    return write_discs(tmp_path, rng)
