"""Optuna's samplers as strategies, each on a study in memory."""

import random
import warnings
from abc import abstractmethod
from typing import Any

import optuna
from threadpoolctl import threadpool_limits

from nas.search.pareto import Values
from nas.search.space import Architecture
from nas.search.strategies.base import Proposer, Task

optuna.logging.set_verbosity(optuna.logging.WARNING)

Distributions = dict[str, optuna.distributions.BaseDistribution]


class _OptunaStrategy(Proposer):
    """A sampler of Optuna, which is shown every variable as the place of its value among the choices."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._study: optuna.Study | None = None
        # As numbers: that 4 lies between 2 and 8 is worth knowing. Variables with one choice are no choice.
        self._free = [variable for variable in self.space.variables if len(variable.choices) > 1]
        self._distributions: Distributions = {
            variable.name: optuna.distributions.IntDistribution(0, len(variable.choices) - 1) for variable in self._free
        }
        self._fixed = {variable.name: variable.choices[0] for variable in self.space.variables}

    @abstractmethod
    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """A sampler for one proposal: what it draws depends on the seed and the values told, not on former draws."""

    def learn(self, architecture: Architecture, values: Values) -> None:
        # Samplers look at variables that all trials have, so those in vain get a value too.
        chosen = self._fixed | self.space.encode(architecture)
        self._opened(len(values)).add_trial(
            optuna.trial.create_trial(
                params={variable.name: variable.choices.index(chosen[variable.name]) for variable in self._free},
                distributions=self._distributions,
                values=list(values),
            )
        )

    def propose(self, rng: random.Random) -> Architecture:
        if self._study is None or not self._free:  # how many objectives there are is not known before the first is told
            return self.space.sample(rng)
        self._study.sampler = self.sampler(rng.randrange(2**31))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self._study.ask(self._distributions)
        self._study.tell(trial, state=optuna.trial.TrialState.FAIL)  # proposals live in the caller's study, not here
        chosen = {variable.name: variable.choices[trial.params[variable.name]] for variable in self._free}
        return self.space.decode(self._fixed | chosen)

    def _opened(self, objectives: int) -> optuna.Study:
        if self._study is None:
            self._study = optuna.create_study(directions=["maximize"] * objectives)
        return self._study


class _WholeSpaceSampler(optuna.samplers.TPESampler):
    """Optuna's, told which parameters there are; else a new sampler compares those of all trials to find out.

    Args:
        seed: Decides what it draws.
        distributions: Of all parameters; every trial has them all.
    """

    def __init__(self, seed: int, distributions: Distributions) -> None:
        super().__init__(seed=seed, multivariate=True)
        self._distributions = dict(sorted(distributions.items()))

    def infer_relative_search_space(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        del study, trial
        return self._distributions


class TreeParzen(_OptunaStrategy):
    """Multivariate tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011)."""

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        return _WholeSpaceSampler(seed, self._distributions)


class GaussianProcess(_OptunaStrategy):
    """Expected improvement under a Gaussian process, of noisy values."""

    def propose(self, rng: random.Random) -> Architecture:
        # Workers keep all cores busy: threads that wait for cores make its small matrices slower by far.
        with threadpool_limits(limits=1):
            return super().propose(rng)

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=8, deterministic_objective=False)
