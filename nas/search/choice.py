"""The strategy that a configuration names."""

from collections.abc import Callable, Sequence

from nas.config import EvolutionConfig
from nas.search.base import Strategy, Task
from nas.search.bayesian import GaussianProcess, TreeParzen
from nas.search.evolution import NSGA2, Evolution, RegularizedEvolution
from nas.search.simple import Grid, RandomSearch
from nas.space import Architecture, SearchSpace
from nas.training import seed_from

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
        name: One of `nas.config.STRATEGIES`.
        space: What may be chosen.
        seed: Same seed and same values, same proposals.
        is_feasible: Whether an architecture fits the memory budget alone.
        evolution: Sizes and shares, for those that evolve.
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
