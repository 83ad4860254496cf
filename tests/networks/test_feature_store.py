import contextlib

import numpy as np
import pytest

from skipshift.networks.feature_store import FeatureStore


def parts(rng):
    return [(key, rng.normal(size=(n, 5)).astype(np.float32)) for n in (3, 1, 4) for key in "ab"]


@pytest.mark.parametrize("budget", [0, 100, 200, 300, 1e9])
def test_arrays_are_whole_whatever_the_budget(budget, rng):
    given = parts(rng)
    with FeatureStore(budget) as store:
        for key, part in given:
            store.add(key, part)
        for key in "ba":
            whole = np.concatenate([part for name, part in given if name == key])
            assert np.array_equal(np.concatenate(store.take(key)), whole)


def test_a_key_that_was_taken_begins_anew(rng):
    with FeatureStore(0) as store:
        for _, part in parts(rng):
            store.add("a", part)
            assert np.array_equal(store.take("a")[0], part)


def test_what_exceeds_the_budget_is_on_disk_and_what_does_not_in_memory():
    with FeatureStore(200) as store:
        store.add("a", np.zeros((10, 5), np.float32))
        (first,) = store.take("a")
        store.add("b", np.zeros((1, 5), np.float32))
        (second,) = store.take("b")
    assert not isinstance(first, np.memmap)
    assert isinstance(second, np.memmap)


def test_the_folder_goes_even_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with contextlib.suppress(ZeroDivisionError), FeatureStore(0) as store:
        store.add("a", np.zeros((1, 5)))
        assert any(tmp_path.iterdir())
        1 / 0  # noqa: B018
    assert not any(tmp_path.iterdir())
