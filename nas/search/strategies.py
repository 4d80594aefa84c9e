"""The strategies: evolution, TPE, random."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import optuna

from nas.config import EvolutionConfig
from nas.search.base import Strategy
from nas.space import Architecture, SearchSpace
from nas.training import seed_from


class RandomSearch(Strategy):
    """Every architecture with equal probability."""

    def propose(self, rng: random.Random) -> Architecture:
        return self.space.sample(rng)

    def learn(self, architecture: Architecture, score: float) -> None:
        del architecture, score


class Evolution(Strategy):
    """Evolution as in AutoFormer (Chen et al., ICCV 2021, section 3.3), bounded.

    The first generation is random. Each later one has as parents the best of all scored so far; a child is a crossover
    of two parents, a mutation of one, or a fresh random architecture.
    """

    def __init__(
        self,
        *,
        space: SearchSpace,
        seed: int,
        is_feasible: Callable[[Architecture], bool],
        evolution: EvolutionConfig,
        first: Sequence[Architecture] = (),
    ) -> None:
        super().__init__(space=space, seed=seed, is_feasible=is_feasible, first=first)
        self._evolution = evolution
        self._generation: dict[Architecture, float] = {}
        self._parents: dict[Architecture, float] = {}

    def learn(self, architecture: Architecture, score: float) -> None:
        """Scores count once their generation is complete; the best of all so far are the next one's parents."""
        self._generation[architecture] = score
        if len(self._generation) < self._evolution.population:
            return
        scores = self._parents | self._generation
        # Of equal scores the smaller architecture.
        best = sorted(scores, key=lambda entry: (-scores[entry], entry))[: self._evolution.parents]
        self._parents, self._generation = {entry: scores[entry] for entry in best}, {}

    def propose(self, rng: random.Random) -> Architecture:
        parents = list(self._parents)
        if not parents:
            return self.space.sample(rng)
        chance = rng.random()
        if chance < self._evolution.crossover_share:
            return self.space.cross(rng.choice(parents), rng.choice(parents), rng)
        if chance < self._evolution.crossover_share + self._evolution.mutation_share:
            return self.space.mutate(rng.choice(parents), rng, self._evolution.mutation_probability)
        return self.space.sample(rng)


class _WholeSpaceSampler(optuna.samplers.TPESampler):
    """Optuna's, told which parameters there are; else a new sampler compares those of all trials to find out.

    Args:
        seed: Decides what it draws.
        distributions: Of all parameters; every trial has them all.
    """

    def __init__(self, seed: int, distributions: dict[str, Any]) -> None:
        super().__init__(seed=seed, multivariate=True)
        self._relative = {
            name: distribution for name, distribution in sorted(distributions.items()) if not distribution.single()
        }

    def infer_relative_search_space(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        del study, trial
        return self._relative


class TreeParzen(Strategy):
    """Optuna's multivariate tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), on a study in memory."""

    def __init__(
        self,
        *,
        space: SearchSpace,
        seed: int,
        is_feasible: Callable[[Architecture], bool],
        first: Sequence[Architecture] = (),
    ) -> None:
        super().__init__(space=space, seed=seed, is_feasible=is_feasible, first=first)
        self._study = optuna.create_study(direction="maximize")
        self._distributions: dict[str, Any] = {
            variable.name: optuna.distributions.CategoricalDistribution(variable.choices)
            for variable in space.variables
        }
        self._unused = {variable.name: variable.choices[0] for variable in space.variables}

    def learn(self, architecture: Architecture, score: float) -> None:
        # Optuna's multivariate estimator looks at variables that all trials have, so those in vain get a value too.
        values = self._unused | self.space.encode(architecture)
        self._study.add_trial(optuna.trial.create_trial(params=values, distributions=self._distributions, value=score))

    def propose(self, rng: random.Random) -> Architecture:
        # A sampler of its own for each proposal: what it draws depends on the seed and the scores, not on former draws.
        self._study.sampler = _WholeSpaceSampler(rng.randrange(2**31), self._distributions)
        trial = self._study.ask(self._distributions)
        self._study.tell(trial, state=optuna.trial.TrialState.FAIL)  # proposals live in the caller's study, not here
        return self.space.decode(trial.params)


def build_strategy(
    name: str,
    *,
    space: SearchSpace,
    seed: int,
    is_feasible: Callable[[Architecture], bool],
    evolution: EvolutionConfig,
    first: Sequence[Architecture] = (),
) -> Strategy:
    """The strategy of that name.

    Raises:
        ValueError: If there is none.
    """
    seed = seed_from(seed, "strategy", name)
    if name == "evolution":
        return Evolution(space=space, seed=seed, is_feasible=is_feasible, evolution=evolution, first=first)
    if name == "tpe":
        return TreeParzen(space=space, seed=seed, is_feasible=is_feasible, first=first)
    if name == "random":
        return RandomSearch(space=space, seed=seed, is_feasible=is_feasible, first=first)
    raise ValueError(f"no strategy {name!r}; there are evolution, tpe and random")
