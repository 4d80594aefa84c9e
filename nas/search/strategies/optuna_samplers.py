"""Optuna's samplers as strategies, each on an in-memory study."""

import random
import warnings
from abc import abstractmethod
from typing import Any

import optuna
from threadpoolctl import threadpool_limits

from nas.search.pareto import Values
from nas.search.space import Architecture
from nas.search.strategies.base import EvolutionSettings, SingleProposalStrategy, Task

Distributions = dict[str, optuna.distributions.BaseDistribution]


class OptunaStrategy(SingleProposalStrategy):
    """A strategy that proposes what an Optuna sampler suggests.

    The sampler sees every variable as the index of its value among the choices: an integer, since the order of the
    choices is informative. Variables with a single choice are hidden from it.
    """

    def __init__(self, task: Task, settings: EvolutionSettings) -> None:
        super().__init__(task, settings)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study: optuna.Study | None = None
        self._free = [variable for variable in self.space.variables if len(variable.choices) > 1]
        self.distributions: Distributions = {
            variable.name: optuna.distributions.IntDistribution(0, len(variable.choices) - 1) for variable in self._free
        }
        self._defaults = {variable.name: variable.choices[0] for variable in self.space.variables}

    @abstractmethod
    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return a sampler for one proposal; it depends on the seed and the reported values, not on earlier draws."""

    def learn(self, architecture: Architecture, values: Values) -> None:
        # Samplers only consider variables that all trials have, so inactive variables get a default value.
        chosen = self._defaults | self.space.encode(architecture)
        if self._study is None:  # the number of objectives is unknown before the first report
            self._study = optuna.create_study(directions=["maximize"] * len(values))
        self._study.add_trial(
            optuna.trial.create_trial(
                params={variable.name: variable.choices.index(chosen[variable.name]) for variable in self._free},
                distributions=self.distributions,
                values=list(values),
            )
        )

    def propose(self, rng: random.Random) -> Architecture:
        if self._study is None or not self._free:
            return self.space.sample(rng)
        self._study.sampler = self.sampler(rng.randrange(2**31))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self._study.ask(self.distributions)
        self._study.tell(
            trial, state=optuna.trial.TrialState.FAIL
        )  # the caller's study records proposals, not this one
        chosen = {variable.name: variable.choices[trial.params[variable.name]] for variable in self._free}
        return self.space.decode(self._defaults | chosen)


class _WholeSpaceSampler(optuna.samplers.TPESampler):
    """Optuna's TPE sampler with a known search space.

    A new sampler would otherwise compare the parameters of all trials to find the space.

    Args:
        seed: The seed of its draws.
        distributions: The distributions of all parameters; every trial has all of them.
    """

    def __init__(self, seed: int, distributions: Distributions) -> None:
        super().__init__(seed=seed, multivariate=True)
        self._distributions = dict(sorted(distributions.items()))

    def infer_relative_search_space(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        del study, trial
        return self._distributions


class TreeParzen(OptunaStrategy):
    """Multivariate tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011)."""

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        return _WholeSpaceSampler(seed, self.distributions)


class GaussianProcess(OptunaStrategy):
    """Expected improvement under a Gaussian process with noisy values."""

    def propose(self, rng: random.Random) -> Architecture:
        # Workers keep all cores busy: threads that wait for cores slow down its small matrices considerably.
        with threadpool_limits(limits=1):
            return super().propose(rng)

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=8, deterministic_objective=False)
