"""Distil the ensemble of a search, and decide whether the distilled model takes the place of the best single one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas.config.schema import Config
from nas.run.answer import excluded_models
from nas.run.choose_ensemble import choose_ensemble
from nas.run.phases.context import PhaseContext
from nas.run.phases.distillation import DistillationPhase, Distilled
from nas.run.phases.race import Outcome, RaceEnd
from nas.run.phases.race_plan import ReadScores, preferred
from nas.run.prepare import SearchContext
from nas.run.progress_lines import metric_title
from nas.run.race_report import Margin
from nas.run.roles import BEST, DISTILLED
from nas.search.costs import CostModel
from nas.search.metric_registry import METRICS
from nas.search.objectives import Constraint
from nas.search.racing import LEVEL, Differences, SeedScores
from nas.search.trial import Result


@dataclass(frozen=True)
class DistilledReport:
    """The distilled model against the best single model.

    Args:
        result: The training that validation prefers.
        mean: The mean score over its seeds, higher is better.
        seeds: The number of its trainings.
        rival: The role of the best single model.
        margin: Its mean score minus that of the best single model, with the 95 % interval of this one comparison;
            infinite ends if no model has two seeds.
        is_answer: Whether it takes the place of the best single model: it is not worse than the best architecture,
            which costs as much, or better beyond chance than a simpler model.
        excluded: A constraint that it violates; empty if it may be the answer.
    """

    result: Result
    mean: float
    seeds: int
    rival: str
    margin: Margin
    is_answer: bool
    excluded: str = ""

    def line(self, metric: str, titles: Mapping[str, str]) -> str:
        """Return the statement about the model in the final report.

        Args:
            metric: The metric of the search.
            titles: The names of single models by their role.
        """
        name, score = metric_title(metric), METRICS[metric].score
        text = (
            f"distilled from the ensemble into one model ({self.result.architecture.summary()}): validation {name} "
            f"{score(self.mean):.3f}, mean of {self.seeds} seed{'s' if self.seeds > 1 else ''}"
        )
        shown, *ends = (score(value) for value in (self.margin.difference, self.margin.low, self.margin.high))
        text += f", {shown:+.3f} against the {titles[self.rival]}"
        if math.isfinite(self.margin.low):
            text += f" (95 % interval {min(ends):+.3f} to {max(ends):+.3f})"
        if self.excluded:
            return f"{text}; it does not meet {self.excluded}"
        return f"{text}; it is the best single model" if self.is_answer else text


def with_distilled(
    outcome: Outcome,
    context: PhaseContext,
    config: Config,
    prepared: SearchContext,
    *,
    full_steps: int,
    read: ReadScores,
) -> Outcome:
    """Choose the ensemble of a search after its race, distil it, and return the outcome with both.

    Args:
        outcome: The outcome of the race.
        context: The search.
        config: Its configuration, with the whole space.
        prepared: The encoders and features.
        full_steps: The number of steps of a full training.
        read: Function that returns the scores of one training.

    Raises:
        StudyError: If a stored training or its weights are damaged.
        TrainingError: If training fails the same way repeatedly.
    """
    clock, directory = context.clock, context.recorder.directory
    if outcome.race is None or clock.is_interrupted or "distillation" in clock.deadlines.left_out:
        return outcome
    clock.account.start("distillation")
    choice = choose_ensemble(config, directory, prepared, context.study, context.reporter)
    if choice.ensemble is None:
        context.reporter.note(f"Left out: distillation: there is no ensemble: {choice.reason}")
        return replace(outcome, choice=choice)
    phase = DistillationPhase(directory, prepared.store, choice.ensemble, full_steps=full_steps, read_scores=read)
    return replace(outcome, choice=choice, distilled=phase.run(context))


def compared(
    outcome: Outcome, rival: str, constraints: Sequence[Constraint], costs: CostModel
) -> DistilledReport | None:
    """Compare the distilled model of a search with its best single model; None if there is none.

    Args:
        outcome: The outcome of the search.
        rival: The role of the best single model.
        constraints: The constraints of the search.
        costs: The model that predicts costs.
    """
    if outcome.distilled is None or outcome.race is None:
        return None
    excluded = excluded_models({DISTILLED: preferred(outcome.distilled.trainings)}, constraints, costs)
    return report_distilled(outcome.distilled, outcome.race, rival, excluded=excluded.get(DISTILLED, ""))


def report_distilled(distilled: Distilled, race: RaceEnd, rival: str, *, excluded: str = "") -> DistilledReport:
    """Compare a distilled model with the best single model of a race.

    Their seeds and the validation samples are both random, crossed; see `nas.search.racing`. Validation has chosen the
    members of the ensemble, but no distilled model was chosen by it.

    Args:
        distilled: The distilled model.
        race: The race, at its end.
        rival: The role of the best single model.
        excluded: A constraint that the distilled model violates.
    """
    models = [*race.field.values(), distilled.scores]
    place = list(race.field).index(race.best if rival == BEST else race.simple[rival])
    margin = _margin(models, place)
    is_answer = margin.low > 0 or (rival == BEST and margin.difference >= 0 and math.isfinite(margin.low))
    return DistilledReport(
        result=preferred(distilled.trainings),
        mean=distilled.scores.mean,
        seeds=len(distilled.trainings),
        rival=rival,
        margin=margin,
        is_answer=is_answer and not excluded,
        excluded=excluded,
    )


def _margin(models: Sequence[SeedScores], place: int) -> Margin:
    """Return the last model's mean score minus that of the model at a place."""
    difference = models[-1].mean - models[place].mean
    if not any(scores.has_luck and len(scores) > 1 for scores in models):
        return Margin(difference, -math.inf, math.inf)
    compared = Differences.between(models, np.array([len(models) - 1]), np.array([place]))
    half = float(compared.half_widths(np.array([LEVEL]))[0])
    return Margin(difference, difference - half, difference + half)
