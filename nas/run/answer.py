"""Decide which single model is the answer of a search: the best architecture, or a simpler model as good as it."""

from collections.abc import Mapping, Sequence

from nas.search.costs import CostModel
from nas.search.objectives import Constraint
from nas.search.trial import Result


def highest(scores: Mapping[str, float]) -> str:
    """Return the role with the highest score: the answer where nothing is known about the luck of seeds.

    Args:
        scores: The scores by role, the simplest model first; of equal ones, the first is taken.
    """
    return max(scores, key=lambda role: scores[role])


def excluded_models(
    simple: Mapping[str, Result], constraints: Sequence[Constraint], costs: CostModel
) -> dict[str, str]:
    """Return the simpler models that cannot be the answer, by their roles, each with a constraint that it violates.

    Args:
        simple: The simpler models by their roles.
        constraints: The constraints of the search.
        costs: The model that predicts costs.
    """
    violated = {
        role: next((str(bound) for bound in constraints if not _is_met(bound, costs, result)), None)
        for role, result in simple.items()
    }
    return {role: bound for role, bound in violated.items() if bound is not None}


def _is_met(constraint: Constraint, costs: CostModel, result: Result) -> bool:
    """Return whether a full training is known to meet a constraint."""
    cost = constraint.cost
    value: float | None
    if cost is None:
        value = result.metrics[constraint.quantity]
    elif cost.limits_memory:
        value = result.predicted_peak_bytes
    elif cost.predict is not None:
        value = cost.predicted(costs, result.architecture)
    else:
        value = None if cost.measure is None else cost.measure(result)
    return value is not None and constraint.is_met(value)
