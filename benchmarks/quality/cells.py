"""The cells of the comparison, one for each task, role and seed, and the loop that runs them."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """One run of one role.

    Args:
        role: The role, a key of `SEEDS`.
        task: The name of the task.
        seed: The seed of the search.
    """

    role: str
    task: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task} {self.role} {self.seed}"

    def directory(self, runs: Path) -> Path:
        """Return the run directory.

        Args:
            runs: The folder of all runs.
        """
        return runs / self.task / f"{self.role}-{self.seed}"


FRESH = "fresh"
"""The role of trainings of a search's answer with fresh seeds, which follow the search with the same seed."""
SEEDS: Mapping[str, int] = {"search": 5, FRESH: 5, "default_tuned": 5, "default_fixed": 5, "random": 3}
"""The roles, and the number of seeds of each."""
_ORDER = (("search", FRESH), ("default_tuned",), ("default_fixed",), ("random",))
"""The roles in the order in which they run; those of one group follow each other for each task."""


def ordered_cells(tasks: Sequence[str], seeds: int | None = None) -> list[Cell]:
    """Return all cells: by seed, then by role, then by task, so that those before any place are balanced.

    Fresh seeds follow their search at once, because they need its run.

    Args:
        tasks: The names of the tasks.
        seeds: The largest number of seeds of a role; None for those of `SEEDS`.
    """
    counts = {role: count if seeds is None else min(count, seeds) for role, count in SEEDS.items()}
    return [
        Cell(role, task, seed)
        for seed in range(max(counts.values()))
        for roles in _ORDER
        for task in tasks
        for role in roles
        if seed < counts[role]
    ]


def run_cells(
    cells: Iterable[Cell],
    run: Callable[[Cell], None],
    is_done: Callable[[Cell], bool],
    *,
    seconds: float,
    expected_seconds: float,
    now: Callable[[], float] = time.monotonic,
) -> list[Cell]:
    """Run the cells that are not done, as long as there is time for a whole one.

    Args:
        cells: The cells in their order.
        run: Runs one cell, or resumes it.
        is_done: Returns whether a cell has been run before.
        seconds: The time in which to run cells; may be infinite.
        expected_seconds: The expected time of a cell, before one is measured.
        now: A monotonic clock in seconds.

    Returns:
        The cells that are still not done.
    """
    started, longest = now(), 0.0
    left = [cell for cell in cells if not is_done(cell)]
    while left and now() - started + (longest or expected_seconds) <= seconds:
        began = now()
        run(left.pop(0))
        longest = max(longest, now() - began)
    return left
