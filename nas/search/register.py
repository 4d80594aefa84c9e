"""Built-in metrics, costs and search strategies: one line each. Imports neither torch nor Optuna."""

from nas.common.units import parse_bytes
from nas.search import costs
from nas.search.costs import number_parser, register_cost
from nas.search.metric_registry import register_metric
from nas.search.strategies.registry import register_strategy


def register_metrics() -> None:
    """Register all built-in metrics, in the order of the columns of result tables."""
    functions = "nas.training.metrics"
    register_metric("accuracy", f"{functions}:accuracy")
    register_metric("balanced_accuracy", f"{functions}:balanced_accuracy", labels="single")
    register_metric("macro_f1", f"{functions}:macro_f1")
    register_metric("micro_f1", f"{functions}:micro_f1")
    register_metric("macro_f1_tuned", f"{functions}:macro_f1_tuned", labels="multiple")
    register_metric("micro_f1_tuned", f"{functions}:micro_f1_tuned", labels="multiple")
    register_metric("mean_average_precision", f"{functions}:mean_average_precision")
    register_metric("cross_entropy", f"{functions}:negative_log_likelihood", higher_is_better=False, role="proxy")
    retrieval = "nas.training.retrieval"
    register_metric("mean_recall", f"{retrieval}:mean_recall", labels="pairs")
    for count in (1, 5, 10):
        for direction in ("image_to_text", "text_to_image"):
            name = f"{direction}_recall_at_{count}"
            register_metric(name, f"{retrieval}:{name}", labels="pairs")
    register_metric("mean_reciprocal_rank", f"{retrieval}:mean_reciprocal_rank", labels="pairs", role="proxy")


def register_costs() -> None:
    """Register all built-in costs, in the order in which messages list them."""
    counts, seconds = number_parser({"": 1.0, "k": 1e3, "M": 1e6}), number_parser({"ms": 1e-3, "s": 1.0})
    register_cost("peak_memory", unit="B", parse_bound=parse_bytes, predict=costs.peak_memory, limits_memory=True)
    register_cost("trainable_parameters", unit="", parse_bound=counts, predict=costs.trainable_parameters)
    register_cost("latency", unit="s", parse_bound=seconds, measure=costs.latency)


def register_strategies() -> None:
    """Register all built-in strategies, in the order in which tables and messages list them."""
    strategies = "nas.search.strategies"
    register_strategy("evolution", f"{strategies}.evolution:Evolution")
    register_strategy("regularized_evolution", f"{strategies}.regularized_evolution:RegularizedEvolution")
    register_strategy("nsga2", f"{strategies}.nsga2:NSGA2")
    register_strategy("tpe", f"{strategies}.optuna_samplers:TreeParzen")
    register_strategy("gp", f"{strategies}.optuna_samplers:GaussianProcess")
    register_strategy("random", f"{strategies}.random:RandomSearch")
    register_strategy("grid", f"{strategies}.grid:Grid")
