"""Divide a time budget among the phases of a search, from the measured speed of its workers. Plain arithmetic.

Every phase of training gets 5 to 70 % of the planned time or is left out. The plan is made before anything is trained,
and again when the recipe is chosen, which may ask for another number of steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import mean

from nas.common.units import format_seconds
from nas.config.schema import Config
from nas.run.speed import TrainingSpeed
from nas.run.time_budget import Deadlines, Phase
from nas.search.distillation import SEEDS
from nas.search.recipe_tuning import SETTINGS, TRAININGS

MIN_SHARE, MAX_SHARE = 0.05, 0.7
"""The limits of what a phase of training gets of the time."""

_LOW, _HIGH = 0.08, 0.65
"""The same for what is planned where there is a choice, because the time of a phase is not known exactly."""
_MIN_KEPT = 0.055
"""A phase that is shorter than this without screening cannot get its part by less screening."""
_RECIPE_TRAININGS = 3
"""The smallest number of trainings from which a setting of the recipe can be chosen."""
_MARGIN = 1.1
_SLOWER = 1.4
"""How many times the default's training a candidate's may take where the time holds one: deeper fusion takes longer."""
_LARGEST = 2.0
"""How much longer the evaluation of the first candidates may take than that of as many defaults."""
_ENOUGH = 0.6
"""The largest part of the time that a short search gives to the models of an ensemble."""
_SPARE = 2
"""The number of models that an ensemble is chosen from besides those that it may have."""
_TEACHING = 0.5
"""What computing the ensemble's outputs for the training samples takes in full trainings: a forward pass a member."""
_SHORTEST_SECONDS = 1e-3
_SUPERNET_STEP = 1.8
"""What an architecture in a step of the supernet costs in steps of the default, estimated from few searches of the demo
on a busy machine. It is more than 1: steps have the largest architecture, and processes wait for each other."""


@dataclass(frozen=True)
class PhasePlan:
    """The division of a time budget.

    Args:
        seconds: The planned time of each phase; the race may end earlier.
        left_out: The phases that are left out, and why.
        corrections: Sentences about settings of the search file that cannot be kept.
        deadlines: The ends of the phases.
        unneeded_seconds: The part of the budget that no phase needs.
    """

    seconds: Mapping[Phase, float]
    left_out: Mapping[Phase, str]
    corrections: tuple[str, ...]
    deadlines: Deadlines
    unneeded_seconds: float


def least_seconds(config: Config, speed: TrainingSpeed, full_steps: int) -> float:
    """Return the shortest time budget that holds a training of the default beside the other phases.

    Args:
        config: The configuration of the search.
        speed: The measured speed.
        full_steps: The number of steps of a full training.
    """
    training = _MARGIN * speed.full_seconds(full_steps)
    return max(training / MAX_SHARE, (training + _first_group(config, speed)) / (1 - MIN_SHARE))


def plan_phases(
    config: Config,
    speed: TrainingSpeed,
    *,
    full_steps: int,
    tuned_steps: int,
    spent_seconds: float,
    first_count: int = 1,
) -> PhasePlan:
    """Divide the time budget of a search.

    Args:
        config: The configuration of the search, which has a time budget.
        speed: The measured speed.
        full_steps: The number of steps of a full training with the recipe as configured.
        tuned_steps: The same with the chosen recipe.
        spent_seconds: The time that the search has used before its phases of training.
        first_count: The number of full trainings besides those of the finalists: of the default and its variant.
    """
    assert config.budget.time_seconds is not None
    total = max(config.budget.time_seconds - spent_seconds, _SHORTEST_SECONDS)
    return _Division(config, speed, full_steps, tuned_steps, total, spent_seconds, first_count).plan()


def _first_group(config: Config, speed: TrainingSpeed) -> float:
    """Return the time in which the first candidates are scored: those that one job has, the largest among them."""
    return _LARGEST * config.search.eval_batch * speed.evaluation_seconds


@dataclass
class _Division:
    """The division of the time among the phases, and what is said about it."""

    config: Config
    speed: TrainingSpeed
    full_steps: int
    tuned_steps: int
    total: float
    spent: float
    first_count: int
    left_out: dict[Phase, str] = field(default_factory=dict)
    corrections: list[str] = field(default_factory=list)

    def plan(self) -> PhasePlan:
        full = self._full_share()
        recipe_share = self._recipe_share(full)
        supernet_share = self._supernet_share(self.total - full - recipe_share)
        recipe = min(recipe_share, self._recipe_need())
        distillation = self._distillation(full)
        finalists, race = self._full_trainings(full, distillation)
        others = recipe + finalists + race + distillation
        most_supernet = max(others / (1 - _LOW), others + self._first_group) * MAX_SHARE / (1 - MAX_SHARE)
        supernet = self._supernet(supernet_share, most_supernet)
        others += supernet
        # Screening would go on as long as there is time: more than this is more than it is worth.
        kept = [entry for entry in (recipe, supernet, finalists, race) if entry > _MIN_KEPT * others]
        most = min(min(kept) / _LOW - others, others * _HIGH / (1 - _HIGH))
        most = max(most, self._first_group, others * _LOW / (1 - _LOW))
        most = most if self.config.budget.trials is None else math.inf  # whose number of candidates is given
        candidates = min(self.total - full - recipe - supernet, most, self._candidates_need())
        candidates = max(candidates, 0.0)
        short = self._short(candidates, others)
        seconds: dict[Phase, float] = {
            "recipe": recipe,
            "supernet": supernet,
            "screening": candidates - short,
            "short": short,
            "finalists": finalists,
            "race": race,
        }
        if self.config.search.distill:
            seconds["distillation"] = distillation
        longest = {"supernet": most_supernet, "candidates": most}
        return PhasePlan(
            seconds={phase: value for phase, value in seconds.items() if phase not in self.left_out},
            left_out=self.left_out,
            corrections=tuple(self.corrections),
            deadlines=replace(
                self._deadlines(full, recipe_share, supernet_share, longest), distillation_seconds=distillation
            ),
            unneeded_seconds=max(self.total - others - candidates, 0.0),
        )

    def _deadlines(self, full: float, recipe: float, supernet: float, longest: Mapping[str, float]) -> Deadlines:
        end = self.spent + self.total
        return Deadlines(
            recipe_seconds=self.spent + recipe,
            supernet_seconds=self.spent + recipe + supernet,
            candidates_seconds=end - full,
            finalists_seconds=end if "race" in self.left_out else end - self._race_room(full),
            total_seconds=end,
            longest=longest,
            left_out=frozenset(self.left_out),
        )

    @property
    def _training(self) -> float:
        return self.speed.full_seconds(self.full_steps)

    @property
    def _tuned_training(self) -> float:
        return self.speed.full_seconds(self.tuned_steps)

    @property
    def _first_group(self) -> float:
        return _first_group(self.config, self.speed)

    def _full_share(self) -> float:
        """Return the time of finalists and race: a training of the default in any case, and if possible a candidate's.

        Without one the search would have no answer of its own. The first of several workers trains the default. A short
        search trains several models rather than screen more: together they are better than the best of them.
        """
        fraction, total, training = self.config.budget.finalists_fraction, self.total, self._training
        wanted = min(fraction, MAX_SHARE) * total
        both = _SLOWER if self.speed.process_count > 1 else 1 + _SLOWER
        room = min(total - self._first_group - 2 * MIN_SHARE * total, MAX_SHARE * total)
        needed = min(max(_MARGIN * training, min(both * training, room)), MAX_SHARE * total)
        useful = min(_MARGIN * self._first_rounds * training, _ENOUGH * total, room)
        share = max(wanted, needed, useful)
        if share > wanted:
            reason = (
                f"{format_seconds(wanted)}, but the default's full training takes {format_seconds(training)} "
                f"and a candidate's up to {format_seconds(_SLOWER * training)}"
            )
        elif fraction > MAX_SHARE:
            reason = f"more than the {MAX_SHARE:.0%} that a phase may have"
        else:
            return share
        self.corrections.append(
            f"budget.finalists_fraction: {fraction:g} of the time is {reason}; corrected to {share / total:.2f}"
        )
        return share

    def _recipe_share(self, full: float) -> float:
        """Return the time of the recipe phase; 0 if it is left out."""
        fraction = self.config.budget.recipe_fraction
        if not fraction:
            self.left_out["recipe"] = "budget.recipe_fraction is 0, the recipe is used as it is"
            return 0.0
        rest = self.total - full
        share = min(rest * fraction / (1 - self.config.budget.finalists_fraction), MAX_SHARE * self.total)
        count = int(share / self._training) * self.speed.process_count
        longest = self.speed.full_seconds(self.full_steps * max(setting.steps for setting in SETTINGS))
        if count < _RECIPE_TRAININGS:
            reason = (
                f"{format_seconds(share)} hold {count} trainings of the default, too few to choose a setting; expected "
                f"{_RECIPE_TRAININGS}"
            )
        elif longest > full:
            reason = (
                f"the longest setting would need {format_seconds(longest)} for a full training, and there are "
                f"{format_seconds(full)}"
            )
        elif rest - share < max(self._first_group, MIN_SHARE * self.total) + MIN_SHARE * self.total:
            reason = f"the other phases need the {format_seconds(share)}"
        else:
            return share
        self.left_out["recipe"] = reason
        return 0.0

    def _recipe_need(self) -> float:
        """Return the time of the recipe phase if it is not cut short."""
        if "recipe" in self.left_out:
            return 0.0
        steps = self.full_steps * mean(setting.steps for setting in SETTINGS)
        return TRAININGS * self.speed.full_seconds(steps) / self.speed.process_count

    def _supernet_share(self, rest: float) -> float:
        """Return the part of the supernet in what full trainings and recipe leave for it and the candidates."""
        budget, least = self.config.budget, MIN_SHARE * self.total
        wanted = 1 - budget.recipe_fraction - budget.finalists_fraction
        share = max(rest * budget.supernet_fraction / wanted, least)
        return max(min(share, rest - max(least, self._first_group)), 0.0)

    def _supernet(self, share: float, most: float) -> float:
        """Return the time of the supernet, which gets at most a given time."""
        per_step, settings = self._supernet_step_seconds, self.config.supernet
        needed = settings.steps * per_step
        if min(needed, share) <= most:
            return min(needed, share)
        self.corrections.append(
            f"supernet.steps: {settings.steps} steps would take more than {MAX_SHARE:.0%} of the time; corrected to "
            f"about {int(most / per_step)}, over which the learning rate decays"
        )
        return most

    @property
    def _supernet_step_seconds(self) -> float:
        """The time of a step of the supernet, whose architectures the processes share."""
        rounds = math.ceil(self.config.supernet.architectures_per_step / self.speed.process_count)
        return rounds * _SUPERNET_STEP * self.speed.step_seconds

    def _distillation(self, full: float) -> float:
        """Return the time of the distillation at the end of the full trainings; 0 if it is left out."""
        if not self.config.search.distill:
            return 0.0
        needed = (math.ceil(SEEDS / self.speed.process_count) + _TEACHING) * self._tuned_training
        if needed <= full / 4:
            return needed
        self.left_out["distillation"] = (
            f"a quarter of the {format_seconds(full)} for full trainings is shorter than the {format_seconds(needed)} "
            "that it takes"
        )
        return 0.0

    def _full_trainings(self, full: float, distillation: float) -> tuple[float, float]:
        """Return the times of finalists and race; 0 for a race that is left out."""
        search, count, training = self.config.search, self.speed.process_count, self._tuned_training
        models = search.finalists + 1  # the default races as well
        two = math.ceil(2 / count) * training
        race_room = self._race_room(full)
        if not search.rerun_seeds:
            self.left_out["race"] = "search.rerun_seeds is 0"
        elif race_room - distillation < two:
            self.left_out["race"] = (
                f"what the first full trainings leave of {format_seconds(full)} is too short for another seed of two "
                f"models, which takes {format_seconds(two)}"
            )
        has_race = "race" not in self.left_out
        room = full - race_room if has_race else full - distillation
        finalists = max(min(self._round_count, int(room / training)), 1) * training
        if not has_race:
            return min(max(finalists, _SLOWER * training), full - distillation), 0.0
        most = full - distillation - finalists
        return finalists, min(math.ceil(models * search.rerun_seeds / count) * training, most)

    @property
    def _round_count(self) -> int:
        """The number of times that all processes train a model completely until all finalists are trained."""
        return math.ceil((self.config.search.finalists + self.first_count) / self.speed.process_count)

    @property
    def _first_rounds(self) -> int:
        """The same until an ensemble has models enough to choose from."""
        enough = min(self.config.search.members + _SPARE, self.config.search.finalists + self.first_count)
        return math.ceil(enough / self.speed.process_count)

    def _race_room(self, full: float) -> float:
        """Return the part of the full trainings' time that a race may have: half, after the models of an ensemble."""
        return max(min(full / 2, full - self._first_rounds * self._tuned_training), 0.0)

    @property
    def _round(self) -> tuple[float, float]:
        """The times of scoring a round of candidates, and of the short trainings of its best."""
        search, count = self.config.search, self.speed.process_count
        trainings = round(search.round_size * search.promotion_fraction)
        short = trainings * self.speed.short_seconds(search.short_training_steps)
        return search.round_size * self.speed.evaluation_seconds / count, short / count

    def _candidates_limit(self) -> float:
        """Return the number of candidates after which screening ends by itself."""
        trials = self.config.budget.trials
        return min(self.config.space.size, math.inf if trials is None else trials)

    def _candidates_need(self) -> float:
        """Return the time of the candidates if it is not cut short."""
        return self._candidates_limit() / self.config.search.round_size * sum(self._round)

    def _short(self, candidates: float, others: float) -> float:
        """Return the time of short trainings out of that of the candidates; 0 if they are left out."""
        scoring, training = self._round
        size, share = self.config.search.round_size, training / (scoring + training)
        short = candidates * share
        if candidates < min(scoring + training, self._candidates_need()):
            reason = (
                f"the {format_seconds(candidates)} of the candidates are too short for {size} of them and the short "
                f"trainings of the best, which take {format_seconds(scoring + training)}"
            )
        elif short < MIN_SHARE * (candidates + others):
            reason = f"the short trainings of all rounds would take less than {MIN_SHARE:.0%} of the time"
        else:
            return short
        self.left_out["short"] = reason
        return 0.0
