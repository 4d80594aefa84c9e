"""The objectives of a search: one metric, optional costs, and constraints on any of them. Imports no torch."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from nas.common.boundary import shown
from nas.search.costs import COSTS, Cost, CostModel, number_parser
from nas.search.metric_registry import METRICS, metric_names
from nas.search.pareto import Values, fronts, ranks
from nas.search.space import Architecture
from nas.search.trial import Result

Pick = Literal["best", "knee", "smallest-within"]
"""A rule that picks a candidate."""

_parse_metric = number_parser({"": 1.0})


@dataclass(frozen=True)
class Constraint:
    """A bound on one quantity: an upper bound on a cost, or a bound on a metric in the direction that is worse.

    Args:
        quantity: The name of a registered cost, or of a metric that can be an objective.
        bound: The bound, in the unit of the quantity.
    """

    quantity: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Constraint":
        """Parse a constraint of a search file.

        Examples: `peak_memory <= 2GiB`, `trainable_parameters <= 500k`, `latency <= 5ms`, `accuracy >= 0.6`.

        Raises:
            ValueError: If the text has another form; the message names the allowed forms.
        """
        relations = {name: _relation(name) for name in (*COSTS, *metric_names())}
        match = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*(\S+)\s*", text, re.ASCII)
        if match is None or relations.get(match[1]) != match[2]:
            upper, lower = (
                " or ".join(name for name, found in relations.items() if found == sign) for sign in ("<=", ">=")
            )
            raise ValueError(f"expected {upper} with <= and a bound, or {lower} with >= and a bound, got {shown(text)}")
        quantity, _, bound = match.groups()
        try:
            return cls(quantity, (COSTS[quantity].parse_bound if quantity in COSTS else _parse_metric)(bound))
        except ValueError as error:
            raise ValueError(f"{quantity}: {error}, got {shown(bound)}") from error

    @property
    def cost(self) -> Cost | None:
        """The bounded cost; None if a metric is bounded."""
        return COSTS.get(self.quantity)

    def __str__(self) -> str:
        bound = f"{self.bound:.17g}" if self.cost is None else self.cost.format_bound(self.bound)
        return f"{self.quantity} {_relation(self.quantity)} {bound}"

    def is_met(self, value: float) -> bool:
        """Return whether a value of the quantity meets the bound."""
        return self.excess(value) <= 0

    def excess(self, value: float) -> float:
        """Return how far a value of the quantity is beyond the bound, in the unit of the quantity; 0 or less if met."""
        return value - self.bound if _relation(self.quantity) == "<=" else self.bound - value


def _relation(quantity: str) -> str:
    """Return how the values of a quantity that meet a bound compare with it: lower is better for every cost."""
    return ">=" if quantity not in COSTS and METRICS[quantity].higher_is_better else "<="


def memory_constraint(constraints: Sequence[Constraint]) -> Constraint | None:
    """Return the constraint that lowers the memory budget of each candidate, or None."""
    return next((entry for entry in constraints if entry.cost is not None and entry.cost.limits_memory), None)


def broken_prediction(
    constraints: Sequence[Constraint], model: CostModel, architecture: Architecture
) -> tuple[Constraint, float] | None:
    """Return the first constraint that an architecture breaks before it is run, and its predicted cost, or None.

    Constraints on memory are left to the memory budget, which can divide batches to meet them.

    Args:
        constraints: The constraints of the search.
        model: The model that predicts costs.
        architecture: The architecture to check.
    """
    for constraint in constraints:
        cost = constraint.cost
        if cost is not None and cost.predict is not None and not cost.limits_memory:
            value = cost.predict(model, architecture)
            if not constraint.is_met(value):
                return constraint, value
    return None


class Objectives:
    """Orders results by the objectives and constraints of a search.

    Args:
        metric: The name of the first objective, the score of every result.
        costs: The names of further objectives.
        constraints: Bounds on costs and metrics.
        model: The model that predicts costs; required if a predicted cost is an objective.
    """

    def __init__(
        self,
        metric: str,
        costs: Sequence[str] = (),
        constraints: Sequence[Constraint] = (),
        model: CostModel | None = None,
    ) -> None:
        self.metric = metric
        self.costs = tuple(costs)
        self.constraints = tuple(constraints)
        self._costs = [COSTS[name] for name in costs]
        self._model = model

    def values(self, result: Result) -> Values:
        """Return one value per objective, higher is better."""
        return result.score, *(-self._cost(cost, result) for cost in self._costs)

    def _cost(self, cost: Cost, result: Result) -> float:
        if cost.measure is not None:
            measured = cost.measure(result)
            return math.inf if measured is None else measured
        if cost.predict is None or self._model is None:
            raise ValueError(f"cost {cost.name!r} requires a cost model")
        return cost.predict(self._model, result.architecture)

    def is_eligible(self, result: Result) -> bool:
        """Return whether a result meets all constraints that only results can show.

        These are constraints on measured costs and, for full training, on metrics.
        """
        for constraint in self.constraints:
            cost = constraint.cost
            value: float | None = None
            if cost is not None and cost.measure is not None:
                value = cost.measure(result)
            elif cost is None and result.stage == "full":
                value = result.metrics[constraint.quantity]
            if value is not None and not constraint.is_met(value):
                return False
        return True

    def excesses(self, result: Result) -> list[float]:
        """Return how far a result is beyond each constraint, as known or predicted; 0 or less where one is met.

        A cost that was not measured counts as met.
        """
        values = []
        for constraint in self.constraints:
            cost = constraint.cost
            if cost is None:
                value: float | None = result.metrics[constraint.quantity]
            elif cost.measure is not None:
                value = cost.measure(result)
            else:
                value = None if self._model is None else cost.predicted(self._model, result.architecture)
            values.append(0.0 if value is None else constraint.excess(value))
        return values

    def ranked(self, results: Sequence[Result]) -> list[Result]:
        """Return the results, best first: the eligible ones, then the others, each by front, crowding and trial."""
        eligible = [result for result in results if self.is_eligible(result)]
        others = [result for result in results if not self.is_eligible(result)]
        return [*self._in_order(eligible), *self._in_order(others)]

    def _in_order(self, results: Sequence[Result]) -> list[Result]:
        if not self.costs:
            return sorted(results, key=lambda result: (-result.score, result.trial))
        order = ranks([self.values(result) for result in results])
        indices = sorted(range(len(results)), key=lambda index: (order[index], results[index].trial))
        return [results[index] for index in indices]

    def front(self, results: Sequence[Result]) -> list[Result]:
        """Return the Pareto front of the eligible results, highest score first."""
        eligible = [result for result in results if self.is_eligible(result)]
        if not eligible:
            return []
        first = fronts([self.values(result) for result in eligible])[0]
        return sorted((eligible[index] for index in first), key=lambda result: (-result.score, result.trial))


def pick(
    results: Sequence[Result],
    objectives: Objectives,
    how: Pick,
    *,
    size: Callable[[Architecture], float],
    within: float = 0.0,
) -> Result | None:
    """Return one of several results, or None if none meets the constraints.

    Args:
        results: The results of one stage.
        objectives: The objectives of the search.
        how: The rule. `best`: the highest score. `knee`: the point of the front nearest to the best value of every
            objective, each objective scaled to its range on the front. `smallest-within`: the smallest architecture
            whose score is at most `within` below the highest.
        size: Function that returns the size of an architecture, for instance its trainable parameters.
        within: The tolerance of `smallest-within`.
    """
    eligible = [result for result in results if objectives.is_eligible(result)]
    eligible.sort(key=lambda result: (-result.score, result.trial))
    if not eligible:
        return None
    if how == "best":
        return eligible[0]
    if how == "smallest-within":
        near = [result for result in eligible if result.score >= eligible[0].score - within]
        return min(near, key=lambda result: (size(result.architecture), -result.score, result.trial))
    front = objectives.front(eligible)
    points = [objectives.values(result) for result in front]
    best = [max(values) for values in zip(*points, strict=True)]
    worst = [min(values) for values in zip(*points, strict=True)]

    def distance(values: Values) -> float:
        gaps = [
            (high - value) / (high - low) if high > low else 0.0
            for value, high, low in zip(values, best, worst, strict=True)
        ]
        return math.hypot(*gaps)

    return min(zip(front, points, strict=True), key=lambda entry: distance(entry[1]))[0]
