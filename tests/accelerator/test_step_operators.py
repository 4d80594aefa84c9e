"""The budget of operators of a training step at base size, counted without data."""

import pytest
import torch

from benchmarks.operator_counts import step_operators
from nas.common.precision import Precision
from tests.support.simulated_accelerator import SYNCHRONISATIONS

pytestmark = [pytest.mark.accelerator, pytest.mark.usefixtures("simulated")]


@pytest.mark.parametrize(("precision", "count"), [("float32", 796), ("bfloat16", 966)])
def test_step_at_base_size_keeps_to_its_budget_of_operators_and_waits_for_none(
    device: torch.device, precision: Precision, count: int
) -> None:
    counts = step_operators(device, precision=precision)
    assert counts.total() == count
    assert not {f"aten::{name}" for name in counts} & set(SYNCHRONISATIONS)
