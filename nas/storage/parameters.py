"""The variables of a search space as parameters of Optuna trials, in the form that Optuna's figures can use.

Sizes are whole numbers in order, on a logarithmic axis where they grow by factors, and alternatives are categories with
their names. Names of parameters contain the unit, for instance `mapping_width (units)`.
"""

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial

from nas.search.space import SearchSpace
from nas.search.space.gene import Gene
from nas.search.space.variables import Variable

_LOG_RATIO = 4
"""The least ratio of the largest and the smallest size that are shown on a logarithmic axis."""


class _Parameter:
    """One variable as a parameter of trials.

    Args:
        variable: The variable.
        gene: Its gene.
    """

    def __init__(self, variable: Variable, gene: Gene) -> None:
        self._gene = gene
        self._old_name = variable.name
        self.name = f"{variable.name} ({gene.unit})" if gene.unit else variable.name
        self.distribution: BaseDistribution = (
            CategoricalDistribution([gene.names[value] for value in variable.choices])
            if gene.names
            else size_distribution(variable.choices)
        )
        self.old_distribution = CategoricalDistribution(variable.choices)

    def value(self, number: int) -> int | str:
        """Return the value of the parameter for a value of the variable."""
        return self._gene.names[number] if self._gene.names else number

    def number(self, params: Mapping[str, int | str]) -> int | None:
        """Return the value of the variable in a trial, written by this or an earlier version; None if it has none."""
        value = params[self.name] if self.name in params else params.get(self._old_name)
        number: int | None = self._gene.parse(value) if isinstance(value, str) else value
        return number


class TrialParameters:
    """Converts values of variables to the parameters of trials and back.

    A study that an earlier version has started keeps the form of its trials: a storage accepts one distribution for
    each parameter of a study.

    Args:
        space: The search space.
    """

    def __init__(self, space: SearchSpace) -> None:
        genes = {gene.name: gene for gene in space.architecture_class.genes}
        self._parameters = {variable.name: _Parameter(variable, genes[variable.gene]) for variable in space.variables}
        self._is_old = False

    def keep_form(self, trials: Iterable[FrozenTrial]) -> None:
        """Write further trials in the form of those that a study holds.

        Args:
            trials: The trials.
        """
        known = {parameter.name: parameter.distribution for parameter in self._parameters.values()}
        self._is_old = any(
            known.get(name) != distribution for trial in trials for name, distribution in trial.distributions.items()
        )

    def encode(self, values: Mapping[str, int]) -> tuple[dict[str, int | str], dict[str, BaseDistribution]]:
        """Return the parameters of a trial, and their distributions.

        Args:
            values: The values of the active variables, by their names.
        """
        if self._is_old:
            old = {name: self._parameters[name].old_distribution for name in values}
            return dict(values), dict(old)
        params = {self._parameters[name].name: self._parameters[name].value(value) for name, value in values.items()}
        distributions = {self._parameters[name].name: self._parameters[name].distribution for name in values}
        return params, distributions

    def decode(self, params: Mapping[str, int | str]) -> dict[str, int]:
        """Return the values of the active variables.

        Args:
            params: The parameters of a trial.

        Raises:
            ValueError: If a value is not one of a gene.
        """
        numbers = {name: parameter.number(params) for name, parameter in self._parameters.items()}
        return {name: number for name, number in numbers.items() if number is not None}


def size_distribution(choices: tuple[int, ...]) -> IntDistribution:
    """Return the distribution of a parameter that is a size, which contains at least the choices.

    Args:
        choices: The sizes, ascending.
    """
    steps = {after - before for before, after in pairwise(choices)}
    if len(steps) > 1 and choices[0] >= 1 and choices[-1] >= _LOG_RATIO * choices[0]:
        return IntDistribution(choices[0], choices[-1], log=True)
    return IntDistribution(choices[0], choices[-1], step=math.gcd(*steps) if steps else 1)
