"""The strategy that a configuration names."""

from collections.abc import Callable, Sequence

from nas.config import EvolutionConfig
from nas.search.base import Strategy
from nas.search.bayesian import GaussianProcess, TreeParzen
from nas.search.evolution import NSGA2, Evolution, RegularizedEvolution
from nas.search.simple import Grid, RandomSearch
from nas.space import Architecture, SearchSpace
from nas.training import seed_from

_EVOLVING: dict[str, Callable[..., Strategy]] = {
    "evolution": Evolution,
    "regularized_evolution": RegularizedEvolution,
    "nsga2": NSGA2,
}
_OTHERS: dict[str, Callable[..., Strategy]] = {
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

    Raises:
        ValueError: If there is none.
    """
    seed = seed_from(seed, "strategy", name)
    if name in _EVOLVING:
        return _EVOLVING[name](space=space, seed=seed, is_feasible=is_feasible, evolution=evolution, first=first)
    if name in _OTHERS:
        return _OTHERS[name](space=space, seed=seed, is_feasible=is_feasible, first=first)
    raise ValueError(f"no strategy {name!r}; there are {', '.join([*_EVOLVING, *_OTHERS])}")
