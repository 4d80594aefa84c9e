"""The strategy that a configuration names."""

from collections.abc import Callable, Sequence

from nas.common.seeds import seed_from
from nas.search.space import Architecture, SearchSpace
from nas.search.strategies.base import EvolutionConfig, Strategy, Task
from nas.search.strategies.evolution import Evolution
from nas.search.strategies.grid import Grid
from nas.search.strategies.nsga2 import NSGA2
from nas.search.strategies.optuna_samplers import GaussianProcess, TreeParzen
from nas.search.strategies.random import RandomSearch
from nas.search.strategies.regularized_evolution import RegularizedEvolution

_EVOLVING: dict[str, Callable[[Task, EvolutionConfig], Strategy]] = {
    "evolution": Evolution,
    "regularized_evolution": RegularizedEvolution,
    "nsga2": NSGA2,
}
_OTHERS: dict[str, Callable[[Task], Strategy]] = {
    "tpe": TreeParzen,
    "gp": GaussianProcess,
    "random": RandomSearch,
    "grid": Grid,
}


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

    Args:
        name: One of `nas.config.schema.STRATEGIES`.
        space: What may be chosen.
        seed: Same seed and same values, same proposals.
        is_feasible: Whether an architecture fits the memory budget alone.
        evolution: DirectionSizes and shares, for those that evolve.
        first: Proposed first, where feasible and in the space.

    Raises:
        ValueError: If there is none.
    """
    task = Task(space, seed_from(seed, "strategy", name), is_feasible, first)
    if name in _EVOLVING:
        return _EVOLVING[name](task, evolution)
    if name in _OTHERS:
        return _OTHERS[name](task)
    raise ValueError(f"no strategy {name!r}; there are {', '.join([*_EVOLVING, *_OTHERS])}")
