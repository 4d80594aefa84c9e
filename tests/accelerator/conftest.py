"""Tests on the simulated accelerator, which run in a process of their own: pytest -m accelerator."""

import pytest
import torch

from tests.execution.conftest import setup  # noqa: F401 - a fixture
from tests.support import simulated_accelerator
from tests.training.conftest import case, config, fresh, prepared, split  # noqa: F401 - fixtures


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """The simulated accelerator."""
    if simulated_accelerator.compiler() is None:
        pytest.skip("simulated accelerator: no C++ compiler, or no headers of Python")
    simulated_accelerator.load()
    return torch.device(simulated_accelerator.NAME, 0)
