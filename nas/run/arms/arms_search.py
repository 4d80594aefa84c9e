"""Search over arms: compare them by successive halving, search the one that is left, and report.

Which arm is next follows from the configuration and from what is stored, so that a killed search continues where it
was. All arms share one budget: the time of an arm is what the others have left, and only the last one has trials.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from nas.common.errors import ArmsError, BudgetError, ConfigError, DiskError, EncoderError, NasError, TrainingError
from nas.common.progress import PartReporter, Reporter
from nas.common.units import format_bytes, format_seconds
from nas.config.schema import Config
from nas.config.search_schema import objectives_of
from nas.run.arms.arm_run import ArmRun
from nas.run.arms.directory import ArmsRun
from nas.run.arms.report import conclude, trial_rows
from nas.run.arms.state import STATE, ArmsState, LeftOut, TrialRecord
from nas.run.executors import ExecutionOptions
from nas.run.phases.arm_trial import ArmTrial
from nas.run.prepare import SearchContext
from nas.run.program_name import command_line
from nas.search.arm_halving import ArmScores, better_half, rung_count, rung_end, seeds_of

_OF_THE_ARM = (BudgetError, ConfigError, DiskError, EncoderError, TrainingError)
"""The errors that leave an arm out; all others are those of the data or of the machine, and so of all arms."""


class ArmsSearch:
    """One session of a search over arms.

    Args:
        directory: Its directory, which exists.
        run: The arms.
        options: The workers, the cluster and the storage of the studies.
        reporter: The receiver of messages.
        source: The name of the search file, for messages.

    Raises:
        StudyError: If the stored state is damaged.
    """

    def __init__(
        self, directory: Path, run: ArmsRun, options: ExecutionOptions, reporter: Reporter, *, source: str
    ) -> None:
        self._directory = directory
        self._reporter = reporter
        self._arms = {
            arm.name: ArmRun(directory, arm, options, PartReporter(reporter), source=source) for arm in run.arms
        }
        self._budget_seconds = run.arms[0].config.budget.time_seconds
        self._objective = run.arms[0].config.search.objective
        self._state = ArmsState(directory / STATE, run.names)

    def check(self) -> dict[str, LeftOut]:
        """Return the arms that cannot be loaded or do not fit, before anything is computed or written.

        Arms that were reached before are not checked again. None are once a rung is decided.

        Raises:
            ArmsError: If none is left.
        """
        found: dict[str, LeftOut] = {}
        for name, arm in self._arms.items() if not self._state.rungs else ():
            if arm.exists:
                continue
            try:
                arm.check()
            except _OF_THE_ARM as error:
                found[name] = self._reason(name, error)
        if len(found) == len(self._arms):
            raise none_left(self._directory, found)
        return found

    def run(self, left_out: Mapping[str, LeftOut]) -> None:
        """Search until the budget is spent, nothing is left to do, or the user interrupts.

        Args:
            left_out: The arms that are not to be tried; see `check`.

        Raises:
            NasError: If no arm can be searched, or the search of the last one fails.
            Interrupted: If the user has interrupted the search.
        """
        state = self._state
        if state.winner is None:
            state.reconsider(left_out)
            self._reporter.note(self._plan_line())
            self._halve()
        winner = state.winner
        assert winner is not None
        self._reporter.note(f"Arm {winner}: searching it with what is left of the budget")
        others = sum(arm.spent_seconds for name, arm in self._arms.items() if name != winner)
        left = None if self._budget_seconds is None else self._budget_seconds - others
        self._arms[winner].search(left)
        conclude(self._directory, self._arms, state, self._objective, self._reporter)

    def _plan_line(self) -> str:
        count = rung_count(len(self._state.members))
        if not count:
            return "Plan: one arm is left, which is searched with the whole budget"
        rungs = f"{count} rung{'s' if count > 1 else ''}"
        share = self._budget_seconds
        limit = "" if share is None else f", at most {format_seconds(share / (count + 1))} each"
        return f"Plan: {len(self._state.members)} arms → {rungs} of the default{limit} → search of the last arm"

    def _reason(self, name: str, error: NasError) -> LeftOut:
        self._reporter.note(f"Arm {name} is left out: {error}")
        return LeftOut(str(error), error.needed_bytes if isinstance(error, BudgetError) else None)

    def _halve(self) -> None:
        """Compare the arms rung by rung, until one is left."""
        state = self._state
        total = math.inf if self._budget_seconds is None else self._budget_seconds
        while state.winner is None:
            if len(state.members) > 1:
                rung = len(state.rungs)
                self._climb(rung, rung_end(rung, rung + rung_count(len(state.members)), total))
            if not state.members:
                raise none_left(self._directory, state.left_out)
            self.decide()

    def _climb(self, rung: int, end_seconds: float) -> None:
        """Try every arm of a rung, each with an equal part of the time that is left for it."""
        seeds, members = seeds_of(rung), self._state.members
        for index, name in enumerate(members):
            spent = sum(arm.spent_seconds for arm in self._arms.values())
            seconds = (end_seconds - spent) / (len(members) - index)
            known = self._state.trials.get(name)
            if seconds <= 0 or (known is not None and len(known.scores.default) >= seeds):
                continue
            limit = "" if math.isinf(seconds) else f", at most {format_seconds(seconds)}"
            place, count = f"{index + 1} of {len(members)}", f"{seeds} seed{'s' if seeds > 1 else ''}"
            self._reporter.note(f"Arm {name} ({place}): default with {count}{limit}")
            self._try(name, seeds, seconds)

    def _try(self, name: str, seeds: int, seconds: float) -> None:
        """Try an arm, and store its scores or the reason why it is left out."""
        arm, state = self._arms[name], self._state
        try:
            trial, context = arm.try_default(seeds, seconds=seconds)
        except _OF_THE_ARM as error:
            if name in state.trials and not isinstance(error, BudgetError | TrainingError):
                raise  # its encoders were there before
            state.leave_out(name, self._reason(name, error))
            return
        state.record(name, self._record(arm.config(), trial, context))

    def _record(self, config: Config, trial: ArmTrial, context: SearchContext) -> TrialRecord:
        objectives = objectives_of(config.search, context.memory)
        default = [
            -math.inf if result is None or not objectives.is_eligible(result) else result.score
            for result in trial.default
        ]
        linear = trial.linear
        counts = linear is not None and objectives.is_eligible(linear)
        scores = ArmScores(default, linear.score if linear is not None and counts else None)
        return TrialRecord(scores, trial_rows(trial, context))

    def decide(self) -> None:
        """Decide a rung: which arms go on, and which had no time.

        Raises:
            BudgetError: If none had; a later session with more time compares them.
        """
        state = self._state
        if len(state.members) == 1:
            state.decide(state.members)
            return
        tried = {name: state.trials[name].scores for name in state.members if name in state.trials}
        scored = {name: scores for name, scores in tried.items() if len(scores.default)}
        if not scored:
            raise self._no_time()
        for name in state.members:
            if name not in scored:
                reason = "no complete training of its default ended in its part of the time"
                state.leave_out(name, LeftOut(reason))
                self._reporter.note(f"Arm {name} is left out: {reason}")
        rung = len(state.rungs)
        going_on = better_half(scored, seeds_of(rung))
        state.decide(going_on)
        dropped = [name for name in scored if name not in going_on]
        if dropped:
            self._reporter.note(f"Going on: {', '.join(going_on)}; dropped: {', '.join(dropped)}")

    def _no_time(self) -> BudgetError:
        count, total = len(self._state.members), self._budget_seconds or 0.0
        share = format_seconds(total / (rung_count(count) + 1))
        resume = command_line("resume", self._directory, rest="--budget ...")
        return BudgetError(
            f"time budget {format_seconds(total)}: too small to compare {count} arms; expected one in whose first "
            f"part, {share} of this one, a complete training of a default ends; continue with a larger budget: {resume}"
        )


def none_left(directory: Path, left_out: Mapping[str, LeftOut]) -> ArmsError:
    """Return the error that no arm can be searched, with the smallest need of memory.

    Args:
        directory: The directory of the search.
        left_out: All arms.
    """
    needs = {name: entry.needed_bytes for name, entry in left_out.items() if entry.needed_bytes is not None}
    heading = f"{directory}: none of its {len(left_out)} arms can be searched"
    if needs:
        name, needed = min(needs.items(), key=lambda item: item[1])
        heading += f"; expected a memory budget of at least {format_bytes(needed)}, which {name} needs"
    reasons = (entry.reason.replace("\n", "\n    ") for entry in left_out.values())
    lines = [f"  - {name}: {reason}" for name, reason in zip(left_out, reasons, strict=True)]
    return ArmsError("\n".join([f"{heading}:", *lines]))
