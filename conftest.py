"""Every test and every example: fp32, one thread and seeds of its own, on any processor."""

import random
import zlib

import numpy as np
import pytest
import torch

from skipshift.networks import inference


def seed(number):
    """Seed every ambient generator."""
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    torch.manual_seed(number)


@pytest.fixture(autouse=True)
def numerics():
    """Make a test independent of the tests before it: ambient seeds and the number of threads.

    One thread: sums then have one order, and two workers on two cores do not hinder each other.
    """
    seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def fp32():
    """Let ``auto`` mean fp32, whatever is faster here; tests of bf16 ask for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "bf16_is_faster", lambda _device: False)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """Seed shared fixtures by their names: which test makes them is up to the order of tests."""
    if fixturedef.scope == "function":
        return (yield)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    seed(zlib.crc32(fixturedef.argname.encode()))
    torch.set_num_threads(1)
    try:
        return (yield)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
