"""Account for the running time of a search over all its sessions, and divide its time budget."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nas.common.sealed_json import read_sealed_json, write_sealed_json
from nas.config.schema import BudgetConfig
from nas.search.trial import to_number

_SAVE_SECONDS = 2.0


def time_file(directory: Path) -> Path:
    """Return the file of a run directory with the running time of its search."""
    return directory / "time.json"


class TimeAccount:
    """Running time of a search, summed over its sessions and stored in a file.

    Args:
        path: The file; read if it exists.
        now: A monotonic clock in seconds.

    Raises:
        StudyError: If the file is damaged.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._spent = 0.0
        self._phases: dict[str, float] = {}
        self._phase = ""
        self._since: float | None = None
        self._saved_at = -_SAVE_SECONDS
        self.on_start: Callable[[str], None] = lambda phase: None
        """Callback that receives the name of a phase that starts."""
        if path.exists():
            self._spent, self._phases = read_sealed_json(
                path,
                _to_times,
                expected="the running time of the search",
                remedy="restore a copy of it, or delete it to count the time from zero",
            )

    @property
    def spent_seconds(self) -> float:
        """The running time so far, including this session."""
        return self._spent + (0.0 if self._since is None else self._now() - self._since)

    @property
    def phases(self) -> dict[str, float]:
        """The running time of each phase, in the order in which they began."""
        running = self.spent_seconds - self._spent
        return self._phases | ({self._phase: self._phases.get(self._phase, 0.0) + running} if running else {})

    def start(self, phase: str) -> None:
        """Count the time from now on as that of a phase; ends the phase before it.

        Args:
            phase: The name of the phase.
        """
        self._settle()
        self.on_start(phase)
        self._phase, self._since = phase, self._now()

    def stop(self) -> None:
        """Stop counting and save."""
        self._settle()
        self.save()

    def _settle(self) -> None:
        self._phases, self._spent, self._since = self.phases, self.spent_seconds, None

    def tick(self) -> None:
        """Save at intervals, so that the time of a killed driver is counted."""
        if self._now() - self._saved_at >= _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the file.

        Raises:
            OSError: If it cannot be written.
        """
        phases = {name: round(seconds, 3) for name, seconds in self.phases.items()}
        values = {"spent_seconds": round(self.spent_seconds, 3), "phases": phases}
        write_sealed_json(self._path, values)
        self._saved_at = self._now()


def _to_times(values: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
    """Return the running time in total and of each phase."""
    times = {"spent_seconds": values["spent_seconds"], **values["phases"]}
    for name, seconds in times.items():
        if not 0 <= to_number(name, seconds) < math.inf:
            raise ValueError(f"{name}: expected a number of seconds, got {seconds}")
    return float(values["spent_seconds"]), {str(name): float(seconds) for name, seconds in values["phases"].items()}


Phase = Literal["recipe", "supernet", "screening", "short", "finalists", "race", "distillation"]
"""A phase that a time budget is divided among; candidates are screened and trained briefly in turns."""


@dataclass(frozen=True)
class Deadlines:
    """The end of each phase in seconds of running time; infinite without a time budget.

    Args:
        recipe_seconds: The end of the recipe phase.
        supernet_seconds: The end of the supernet's training.
        candidates_seconds: The end of screening and short training.
        finalists_seconds: The time by which a full training of a finalist has to be finished, so that there is a race.
        total_seconds: The end of the search.
        longest: The longest duration of phases that the search need not spend all of its time on.
        left_out: The phases that are left out.
        distillation_seconds: The part of the time before the end of the search that the race leaves for a distillation.
    """

    recipe_seconds: float
    supernet_seconds: float
    candidates_seconds: float
    finalists_seconds: float
    total_seconds: float
    longest: Mapping[str, float] = field(default_factory=dict)
    left_out: frozenset[Phase] = frozenset()
    distillation_seconds: float = 0.0

    @property
    def race_seconds(self) -> float:
        """The end of the race."""
        return self.total_seconds - self.distillation_seconds

    @classmethod
    def of_fractions(cls, budget: BudgetConfig) -> "Deadlines":
        """Return the deadlines by the fractions of a budget, where the speed of the search is not known.

        Args:
            budget: The budget of the search.
        """
        total = math.inf if budget.time_seconds is None else budget.time_seconds
        # A fraction of zero skips the phase; infinity times zero would be no number.
        recipe = total * budget.recipe_fraction if budget.recipe_fraction else 0.0
        return cls(
            recipe_seconds=recipe,
            supernet_seconds=recipe + total * budget.supernet_fraction,
            candidates_seconds=total * (1 - budget.finalists_fraction),
            # Half of the time for full trainings is kept for further seeds of them.
            finalists_seconds=total * (1 - budget.finalists_fraction / 2),
            total_seconds=total,
        )
