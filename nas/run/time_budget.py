"""How much a search has used and may use: time over all sessions, trials in all."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from nas.common.errors import BudgetError, StudyError
from nas.common.files import write_atomically
from nas.common.units import TIME_FORM, parse_seconds
from nas.config.schema import BudgetConfig

_SAVE_SECONDS = 2.0


def parse_budget(text: str) -> tuple[float | None, int | None]:
    """`4m` → (240.0, None); `200` → (None, 200).

    Raises:
        BudgetError: If the text is neither; says what is allowed.
    """
    if text.isascii() and text.strip().isdigit() and int(text) > 0:
        return None, int(text)
    try:
        seconds = parse_seconds(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise BudgetError(f"--budget {text!r}: expected a time ({TIME_FORM}) or a number of trials (for instance 200)")
    return seconds, None


class TimeAccount:
    """Running time of a search, summed over its sessions and kept in a file.

    Args:
        path: Where the sum is kept; read if it exists.
        now: A monotonic clock, in seconds.

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
        if path.exists():
            try:
                values = json.loads(path.read_text())
                self._spent = float(values["spent_seconds"])
                self._phases = {str(name): float(seconds) for name, seconds in values["phases"].items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                expected = '{"spent_seconds": number, "phases": {name: number}}'
                raise StudyError(f"{path}: is damaged; expected {expected}") from error

    @property
    def spent_seconds(self) -> float:
        """Running time so far, this session's included."""
        return self._spent + (0.0 if self._since is None else self._now() - self._since)

    @property
    def phases(self) -> dict[str, float]:
        """The same by phase, in the order in which they began."""
        running = self.spent_seconds - self._spent
        return self._phases | ({self._phase: self._phases.get(self._phase, 0.0) + running} if running else {})

    def start(self, phase: str) -> None:
        """Let the time run, as that of a phase; it may run already."""
        self._settle()
        self._phase, self._since = phase, self._now()

    def stop(self) -> None:
        """Stop the time and save it."""
        self._settle()
        self.save()

    def _settle(self) -> None:
        self._phases, self._spent, self._since = self.phases, self.spent_seconds, None

    def tick(self) -> None:
        """Save now and then, so that a killed driver's time is counted."""
        if self._now() - self._saved_at >= _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        phases = {name: round(seconds, 3) for name, seconds in self.phases.items()}
        values = {"spent_seconds": round(self.spent_seconds, 3), "phases": phases}
        write_atomically(self._path, json.dumps(values).encode())
        self._saved_at = self._now()


class Deadlines:
    """When each phase of a search has to end, in seconds of running time; infinite without a budget of time."""

    def __init__(self, budget: BudgetConfig) -> None:
        total = float("inf") if budget.time_seconds is None else budget.time_seconds
        self.supernet_seconds = total * budget.supernet_fraction
        self.candidates_seconds = total * (1 - budget.finalists_fraction)
        self.total_seconds = total
