"""Search strategies by name. Imports no strategy, and so no Optuna."""

from collections.abc import Callable, Sequence
from typing import cast

from nas.common.registry import Registry, load_object
from nas.common.seeds import seed_from
from nas.search.space import Architecture, SearchSpace
from nas.search.strategies.base import EvolutionSettings, Strategy, Task

STRATEGIES: Registry[str] = Registry(
    "search strategy", builtins="nas.search.register:register_strategies", entry_points="pmf_nas.strategies"
)
"""The class of each strategy, as `package.module:Class`, by its name in search files."""


def register_strategy(name: str, strategy: str) -> None:
    """Register a search strategy.

    Args:
        name: The name in search files (`search.strategy`).
        strategy: The subclass of `Strategy`, as `package.module:Class`.

    Raises:
        ExtensionError: If the name is taken.
    """
    STRATEGIES.register(name, strategy)


def build_strategy(
    name: str,
    *,
    space: SearchSpace,
    seed: int,
    is_feasible: Callable[[Architecture], bool],
    settings: EvolutionSettings,
    initial_architectures: Sequence[Architecture] = (),
) -> Strategy:
    """Build a registered strategy.

    Args:
        name: The name of the strategy.
        space: The search space.
        seed: The seed of the search; the same seed and the same values give the same proposals.
        is_feasible: Callback that returns whether an architecture fits the memory budget when it runs alone.
        settings: The settings of the evolutionary strategies.
        initial_architectures: Architectures to propose first, if they are feasible and in the space.

    Raises:
        KeyError: If no strategy has this name.
        ExtensionError: If the class of the strategy cannot be imported.
    """
    task = Task(space, seed_from(seed, "strategy", name), is_feasible, initial_architectures)
    return cast(type[Strategy], load_object(STRATEGIES[name]))(task, settings)
