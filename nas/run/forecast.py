"""Estimate when a search ends, from the plan of its phases and what has been measured since. Plain arithmetic."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.common.countdown import counted_down
from nas.run.phase_plan import PhasePlan

_PRIOR_SHARE = 0.12
"""The part of the whole plan that measured durations are weighed against before later phases are corrected by them.

Of simulated searches whose phases deviate by up to 50 %, all alike or each by itself, this leaves the fewest with an
estimate of the whole time that is more than 30 % wrong after a quarter (`tests/run/test_forecast.py`).
"""
_FULL_TRUST = 0.5
"""The part of a phase after which its own speed is trusted alone."""

EVALUATION = "evaluation"
"""The name of what follows the search: evaluating the answer and the simpler models on test."""
EVALUATED_MODELS = 4
"""The number of models that are usually evaluated: the answer, the default, the linear and the bilinear classifier."""


@dataclass(frozen=True)
class PlannedPhase:
    """One phase of a plan.

    Args:
        name: Its name, as in the account of the running time.
        seconds: The planned time.
        deadline_seconds: The end at the latest, in seconds of running time; infinite without one.
        fills: Whether it goes on until its deadline if earlier phases leave it time.
        longest_seconds: The longest time of one that fills.
    """

    name: str
    seconds: float
    deadline_seconds: float = math.inf
    fills: bool = False
    longest_seconds: float = math.inf


@dataclass(frozen=True)
class Activity:
    """The state of the running phase.

    Args:
        phase: Its name.
        seconds: Its running time until now, over all sessions.
        done: The number of finished pieces of its work.
        total: The number of all; None if unknown.
        seconds_at_done: Its running time when the last piece was finished; 0 if none was.
        limit_seconds: The time until its deadline; infinite without one.
    """

    phase: str
    seconds: float
    done: int = 0
    total: int | None = None
    seconds_at_done: float = 0.0
    limit_seconds: float = math.inf


@dataclass(frozen=True)
class Forecast:
    """The end of a search, estimated from a plan.

    Planned times are corrected by what finished phases, and the finished part of the running one, have taken. The
    running phase is estimated by its own speed, the more so the more of it is done.

    Args:
        phases: The planned phases in their order.
    """

    phases: Sequence[PlannedPhase]

    def left_seconds(self, spent: Mapping[str, float], activity: Activity) -> float:
        """Return the estimated time until the search ends.

        Args:
            spent: The running time of each phase, over all sessions, the running one included.
            activity: The state of the running phase.
        """
        names = [phase.name for phase in self.phases]
        if activity.phase not in names:  # one before the plan: nothing of the plan has begun
            index, left, factor = -1, 0.0, 1.0
        else:
            index = names.index(activity.phase)
            factor = self._factor(spent, index, activity)
            left = self._left_of(self.phases[index], activity, factor)
        started = sum(spent.values())
        now = started + left
        for phase in self.phases[index + 1 :]:
            now = _end_of(phase, now, factor)
        return now - started

    def _factor(self, spent: Mapping[str, float], index: int, activity: Activity) -> float:
        """Return how many times the planned time later phases are estimated to take.

        Phases that fill their time say nothing about the speed.
        """
        planned = taken = 0.0
        for phase in self.phases[:index]:
            if not phase.fills:
                planned += phase.seconds
                taken += spent.get(phase.name, 0.0)
        running = self.phases[index]
        if activity.total and not running.fills:
            share = min(activity.done / activity.total, 1.0)
            planned += share * running.seconds
            taken += activity.seconds_at_done if share else 0.0
        prior = _PRIOR_SHARE * sum(phase.seconds for phase in self.phases)
        return (taken + prior) / (planned + prior) if planned + prior > 0 else 1.0

    def _left_of(self, phase: PlannedPhase, activity: Activity, factor: float) -> float:
        """Return the estimated rest of the running phase."""
        limit = max(activity.limit_seconds, 0.0)
        if phase.fills and not math.isinf(limit):
            return limit
        planned = factor * phase.seconds
        if not activity.total:
            return min(counted_down(planned, activity.seconds), limit)
        share = min(activity.done / activity.total, 1.0)
        waited = activity.seconds - activity.seconds_at_done
        if not activity.done:
            return min(counted_down(planned, waited), limit)
        trust = min(share / _FULL_TRUST, 1.0)
        whole = trust * activity.seconds_at_done / share + (1 - trust) * max(planned, activity.seconds_at_done)
        return min(counted_down(whole * (1 - share), waited), limit)


def _end_of(phase: PlannedPhase, start: float, factor: float) -> float:
    """Return when a later phase ends, in seconds of running time."""
    if phase.fills and not math.isinf(phase.deadline_seconds):
        end = min(start + phase.longest_seconds, phase.deadline_seconds)
    else:
        end = min(start + factor * phase.seconds, phase.deadline_seconds)
    return max(end, start)


def forecast_of(seconds: Mapping[str, float]) -> Forecast:
    """Return the forecast of phases without deadlines.

    Args:
        seconds: The planned time of each phase, in their order.
    """
    return Forecast([PlannedPhase(name, value) for name, value in seconds.items()])


def budget_forecast(time_seconds: float, evaluation_seconds: float) -> Forecast:
    """Return the forecast of a search with a time budget before it is planned: the budget, then the evaluation.

    Args:
        time_seconds: The budget.
        evaluation_seconds: The estimated time of the evaluation.
    """
    search = PlannedPhase("search", time_seconds, deadline_seconds=time_seconds, fills=True)
    return Forecast([search, PlannedPhase(EVALUATION, evaluation_seconds)])


def plan_forecast(plan: PhasePlan, evaluation_seconds: float, *, fills: bool) -> Forecast:
    """Return the forecast of a search with a time budget.

    Args:
        plan: The division of the budget.
        evaluation_seconds: The estimated time of the evaluation.
        fills: Whether candidates are screened until the time of the phase is over, however many there are.
    """
    seconds, ends = plan.seconds, plan.deadlines
    candidates = seconds.get("screening", 0.0) + seconds.get("short", 0.0)
    longest = candidates if plan.unneeded_seconds else ends.longest.get("candidates", math.inf)
    return Forecast(
        [
            PlannedPhase("recipe", seconds.get("recipe", 0.0), ends.recipe_seconds),
            PlannedPhase("supernet", seconds.get("supernet", 0.0), ends.supernet_seconds),
            PlannedPhase("candidates", candidates, ends.candidates_seconds, fills, longest),
            PlannedPhase("finalists", seconds.get("finalists", 0.0), ends.total_seconds),
            PlannedPhase("race", seconds.get("race", 0.0), ends.total_seconds),
            PlannedPhase(EVALUATION, evaluation_seconds),
        ]
    )
