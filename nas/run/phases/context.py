"""The state that all phases of a search share."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from nas.common.interrupt import Interruption
from nas.common.progress import Reporter
from nas.common.units import format_bytes
from nas.config.schema import Config
from nas.execution.plan import Plan
from nas.execution.scheduler import JobScheduler
from nas.run.feasibility import Feasibility
from nas.run.forecast import Activity, Forecast
from nas.run.phases.jobs import JobFactory
from nas.run.progress_lines import PHASE_TITLES
from nas.run.recording import ResultRecorder
from nas.run.time_budget import Deadlines, TimeAccount
from nas.search.objectives import Objectives
from nas.storage.study import Study


class SearchClock:
    """Determines when a phase ends: at its deadline, or when the user interrupts the search.

    Args:
        account: The running time of the search over all sessions.
        deadlines: The end of each phase.
        interruption: The user's request to end the search.
    """

    def __init__(self, account: TimeAccount, deadlines: Deadlines, interruption: Interruption) -> None:
        self.account = account
        self.deadlines = deadlines
        """The ends of the phases; replaced when the speed of the search is known."""
        self.forecast: Forecast | None = None
        """The estimated times of the phases; None while nothing is known, replaced when something is."""
        self._interruption = interruption

    @property
    def is_interrupted(self) -> bool:
        """Whether the user has interrupted the search."""
        return self._interruption.is_requested

    def is_over(self, deadline_seconds: float) -> bool:
        """Return whether a deadline has passed, and keep the account up to date.

        Args:
            deadline_seconds: The deadline in seconds of running time.
        """
        self.account.tick()
        return self.account.spent_seconds >= deadline_seconds

    def seconds_left(self, deadline_seconds: float) -> float:
        """Return the time until a deadline; infinite without one."""
        return deadline_seconds - self.account.spent_seconds

    def end_of(self, phase: str, deadline_seconds: float) -> float:
        """Return the earlier one of a deadline and the end of the longest time that a phase may take.

        Args:
            phase: The name of the phase.
            deadline_seconds: The deadline in seconds of running time.
        """
        longest = self.deadlines.longest.get(phase, math.inf)
        return min(deadline_seconds, self.account.spent_seconds + longest - self.account.phases.get(phase, 0.0))


class PhaseWatch:
    """Watches the progress of one phase to estimate when the whole search ends.

    Args:
        clock: The clock of the search.
        phase: The name of the phase, as in the account of the running time.
        deadline_seconds: The end of the phase in seconds of running time.
    """

    def __init__(self, clock: SearchClock, phase: str, deadline_seconds: float = math.inf) -> None:
        self._clock = clock
        self._phase = phase
        self._deadline_seconds = deadline_seconds
        self._done = 0
        self._seconds_at_done = 0.0

    def left_seconds(self, done: int = 0, total: int | None = None) -> float | None:
        """Return the estimated time until the search ends; None if unknown.

        Args:
            done: The number of finished pieces of the phase.
            total: The number of all; None if unknown.
        """
        if self._clock.forecast is None:
            return None
        spent = self._clock.account.phases
        seconds = spent.get(self._phase, 0.0)
        if done != self._done:
            self._done, self._seconds_at_done = done, seconds
        limit = self._clock.seconds_left(self._deadline_seconds)
        return self._clock.forecast.left_seconds(
            spent, Activity(self._phase, seconds, done, total, self._seconds_at_done, limit)
        )


@dataclass(frozen=True)
class PhaseContext:
    """The state that all phases of a search share.

    Args:
        config: The configuration of the search.
        study: The persistent record of all candidates.
        scheduler: The scheduler that runs jobs within the memory budget.
        feasibility: The rule for what fits the memory budget.
        objectives: The order of results.
        recorder: The recorder of results and failures.
        clock: The deadlines.
        reporter: The receiver of messages.
    """

    config: Config
    study: Study
    scheduler: JobScheduler
    feasibility: Feasibility
    objectives: Objectives
    recorder: ResultRecorder
    clock: SearchClock
    reporter: Reporter

    @property
    def jobs(self) -> JobFactory:
        """The maker of jobs."""
        return JobFactory(self.config, self.feasibility, self.recorder.recipe.setting)

    def run_plan(
        self, name: str, plan: Plan, *, deadline_seconds: float, counts: Callable[[], tuple[int, int | None]]
    ) -> None:
        """Run the jobs of a plan until none is left or the phase has to end.

        Args:
            name: The name of the phase.
            plan: The plan.
            deadline_seconds: The end of the phase in seconds of running time.
            counts: Function that returns the number of results and the planned number.
        """
        if self.clock.is_interrupted:
            return
        title, watch = PHASE_TITLES[name], PhaseWatch(self.clock, name, deadline_seconds)
        self.reporter.note(f"Phase: {title}")

        def on_turn() -> None:
            self.study.check_lease()
            done, total = counts()
            memory = f"{format_bytes(self.scheduler.reserved_bytes)} reserved"
            # A budget that was lowered may be exceeded already.
            shown = None if total is None else max(total, done)
            left = watch.left_seconds(done, shown)
            self.reporter.progress(title, done, shown, f"{self.recorder.best_text()}, {memory}", left_seconds=left)

        stopped_count = self.scheduler.run(
            plan,
            is_over=lambda: self.clock.is_over(deadline_seconds),
            is_interrupted=lambda: self.clock.is_interrupted,
            in_rounds=self.config.deterministic,
            on_turn=on_turn,
        )
        if stopped_count and not self.clock.is_interrupted and name != "candidates":
            plural = "s were" if stopped_count > 1 else " was"
            self.reporter.note(f"{title}: time was up; {stopped_count} unfinished training{plural} stopped")
