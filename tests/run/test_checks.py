"""Checks before any long computation."""

import pytest

from nas.common.errors import BudgetError
from nas.config.load import load_config
from nas.run.checks import check_memory
from nas.run.prepare import predict_memory
from tests.support.project import Project


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget.memory": "1MiB"}, r"memory budget 1\.00 MiB: not even the smallest architecture"),
        (
            {"search.constraints": ["trainable_parameters <= 10"]},
            r"search\.constraints: trainable_parameters <= 10: not even the smallest .* meets it",
        ),
        (
            {"search.constraints": ["peak_memory <= 1MiB"]},
            r"search\.constraints: peak_memory <= 1048576B: not even the smallest architecture",
        ),
    ],
)
def test_budget_that_nothing_meets_is_refused(project: Project, changes: dict[str, object], message: str) -> None:
    source = project.write("refused.yaml", **changes)
    memory, _ = predict_memory(load_config(source), source=str(source))
    with pytest.raises(BudgetError, match=message):
        check_memory(load_config(source), memory)


def test_smallest_architecture_may_fit_in_micro_batches(project: Project) -> None:
    config = load_config(project.root / "search.yaml")
    memory, _ = predict_memory(config, source="")
    needed = memory.predict(config.space.smallest).peak_bytes
    tight = config.budget.replace(memory_bytes=needed - 1)
    with pytest.raises(BudgetError, match=r"budget\.oversized: accumulate needs less"):
        check_memory(config.replace(budget=tight), memory)
    check_memory(config.replace(budget=tight.replace(oversized="accumulate")), memory)
