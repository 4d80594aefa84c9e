"""Tests on the simulated accelerator, which run in a process of their own: pytest -m accelerator.

With `NAS_TEST_DEVICE=cuda` they run on that device. What the simulation counts is then not looked at.
"""

import os
from collections.abc import Iterator

import pytest
import torch

from nas.common import devices
from tests.execution.conftest import setup  # noqa: F401 - a fixture
from tests.support import simulated_accelerator
from tests.training.conftest import case, config, fresh, prepared, split  # noqa: F401 - fixtures


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """The simulated accelerator, or the device that `NAS_TEST_DEVICE` names."""
    name = os.environ.get("NAS_TEST_DEVICE", simulated_accelerator.NAME)
    if name.partition(":")[0] == simulated_accelerator.NAME:
        if simulated_accelerator.compiler() is None:
            pytest.skip("simulated accelerator: no C++ compiler, or no headers of Python")
        simulated_accelerator.load()
        return torch.device(simulated_accelerator.NAME, 0)
    found = devices.device_of(name)
    torch.backends.cudnn.allow_tf32 = False  # convolutions would differ from those of the CPU by more than rounding
    devices.load_kernels(found)  # their memory belongs to no test
    return found


@pytest.fixture(autouse=True)
def unlimited(device: torch.device) -> Iterator[None]:
    """Lift the limit of memory that the last job of a test has left, as every job of a worker sets its own."""
    yield
    devices.limit_memory(device, None)


@pytest.fixture
def simulated(device: torch.device) -> torch.device:
    """The simulated accelerator; on another device the test is skipped."""
    if device.type != simulated_accelerator.NAME:
        pytest.skip(f"simulated accelerator: this is {device}")
    return device
