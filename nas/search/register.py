"""Built-in search strategies: one line each. Imports neither torch nor Optuna."""

from nas.search.strategies.registry import register_strategy


def register() -> None:
    """Register all built-in strategies, in the order in which tables and messages list them."""
    strategies = "nas.search.strategies"
    register_strategy("evolution", f"{strategies}.evolution:Evolution")
    register_strategy("regularized_evolution", f"{strategies}.regularized_evolution:RegularizedEvolution")
    register_strategy("nsga2", f"{strategies}.nsga2:NSGA2")
    register_strategy("tpe", f"{strategies}.optuna_samplers:TreeParzen")
    register_strategy("gp", f"{strategies}.optuna_samplers:GaussianProcess")
    register_strategy("random", f"{strategies}.random:RandomSearch")
    register_strategy("grid", f"{strategies}.grid:Grid")
