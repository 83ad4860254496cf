import contextlib

import numpy as np
import pytest

from skipshift.scratch import Scratch


def parts(rng):
    return [(key, rng.normal(size=(n, 5)).astype(np.float32)) for n in (3, 1, 4) for key in "ab"]


@pytest.mark.parametrize("budget", [0, 100, 200, 300, 1e9])
def test_arrays_are_whole_whatever_the_budget(budget, rng):
    given = parts(rng)
    with Scratch(budget) as scratch:
        for key, part in given:
            scratch.add(key, part)
        for key in "ba":
            whole = np.concatenate([part for name, part in given if name == key])
            assert np.array_equal(np.concatenate(scratch.take(key)), whole)


def test_a_key_that_was_taken_begins_anew(rng):
    with Scratch(0) as scratch:
        for _, part in parts(rng):
            scratch.add("a", part)
            assert np.array_equal(scratch.take("a")[0], part)


def test_what_exceeds_the_budget_is_on_disk_and_what_does_not_in_memory():
    with Scratch(200) as scratch:
        scratch.add("a", np.zeros((10, 5), np.float32))
        (first,) = scratch.take("a")
        scratch.add("b", np.zeros((1, 5), np.float32))
        (second,) = scratch.take("b")
    assert not isinstance(first, np.memmap)
    assert isinstance(second, np.memmap)


def test_the_folder_goes_even_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with contextlib.suppress(ZeroDivisionError), Scratch(0) as scratch:
        scratch.add("a", np.zeros((1, 5)))
        assert any(tmp_path.iterdir())
        1 / 0  # noqa: B018
    assert not any(tmp_path.iterdir())
