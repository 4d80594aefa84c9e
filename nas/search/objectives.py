"""What a search wants: a metric, costs beside it, and bounds on each. No torch here."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from nas.common.units import format_bytes, parse_bytes
from nas.search.pareto import Values, fronts, ranks
from nas.search.space import Architecture
from nas.search.trial import Result

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "mean_average_precision")
"""On validation; better when higher. Where samples may have several labels, there is no balanced accuracy."""

COSTS = ("peak_memory", "trainable_parameters", "latency")
"""Of a candidate: predicted bytes of its training; their number; measured seconds of a forward pass from the base
features. Better when lower."""

Pick = Literal["best", "knee", "smallest-within"]


@dataclass(frozen=True)
class Constraint:
    """A bound: costs at most, metrics at least.

    Args:
        quantity: One of `COSTS` or `METRICS`.
        bound: In bytes, numbers, seconds or as the metric is.
    """

    quantity: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Constraint":
        """`peak_memory <= 2GiB`, `trainable_parameters <= 500k`, `latency <= 5ms`, `accuracy >= 0.6`.

        Raises:
            ValueError: If the text has another form; says which is allowed.
        """
        match = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*(\S+)\s*", text)
        if match is None or match[1] not in (*COSTS, *METRICS) or (match[2] == "<=") != (match[1] in COSTS):
            raise ValueError(
                f"expected one of {', '.join(COSTS)} with <=, or of {', '.join(METRICS)} with >=, and a bound, "
                f"got {text!r}"
            )
        quantity, _, bound = match.groups()
        if quantity == "peak_memory":
            return cls(quantity, parse_bytes(bound))
        factors = {"latency": {"ms": 1e-3, "s": 1.0}, "trainable_parameters": {"": 1.0, "k": 1e3, "M": 1e6}}
        units = factors.get(quantity, {"": 1.0})
        number = re.fullmatch(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)([a-zA-Z]*)", bound)
        if number is None or number[2] not in units:
            known = " or ".join(unit or "no unit" for unit in units)
            raise ValueError(f"expected {quantity} with a number with {known}, got {text!r}")
        return cls(quantity, float(number[1]) * units[number[2]])

    def __str__(self) -> str:
        relation = "<=" if self.quantity in COSTS else ">="
        bound = f"{self.bound:.0f}B" if self.quantity == "peak_memory" else f"{self.bound:.17g}"
        return f"{self.quantity} {relation} {bound}{'s' if self.quantity == 'latency' else ''}"

    def is_met(self, value: float) -> bool:
        return value <= self.bound if self.quantity in COSTS else value >= self.bound


def shown_cost(quantity: str, value: float) -> str:
    """For people."""
    if quantity == "peak_memory":
        return format_bytes(value)
    return f"{value * 1000:.2f} ms" if quantity == "latency" else f"{value:,.0f}"


class CostModel(Protocol):
    """What costs are known of before anything is run."""

    def parameter_count(self, architecture: Architecture) -> int:
        """Trainable parameters."""

    def architecture_bytes(self, architecture: Architecture) -> int:
        """Predicted peak of its training, without what every training needs."""


class Objectives:
    """Puts results in order.

    Args:
        metric: The first objective, the score of every result.
        costs: Further ones.
        constraints: Bounds on any of `COSTS` and `METRICS`.
        model: Knows costs; None where there are none among the objectives.
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
        self._model = model

    def values(self, result: Result) -> Values:
        """One number an objective, each better when higher; nothing in it is measured but the metric and latency."""
        return result.score, *(-self._cost(quantity, result) for quantity in self.costs)

    def _cost(self, quantity: str, result: Result) -> float:
        if quantity == "latency":
            return math.inf if result.latency_seconds is None else result.latency_seconds
        if self._model is None:
            raise ValueError(f"nobody here knows {quantity}")
        if quantity == "peak_memory":
            return self._model.architecture_bytes(result.architecture)
        return self._model.parameter_count(result.architecture)

    def is_eligible(self, result: Result) -> bool:
        """Whether it meets the bounds that only results show: on latency and, of full trainings, on metrics."""
        for constraint in self.constraints:
            if constraint.quantity == "latency":
                if result.latency_seconds is not None and not constraint.is_met(result.latency_seconds):
                    return False
            elif constraint.quantity in METRICS and result.stage == "full":
                if not constraint.is_met(result.metrics[constraint.quantity]):
                    return False
        return True

    def ranked(self, results: Sequence[Result]) -> list[Result]:
        """Best first: who meets the bounds before who does not; by front and crowding, then by trial."""
        eligible = [result for result in results if self.is_eligible(result)]
        others = [result for result in results if not self.is_eligible(result)]
        return [*self._in_order(eligible), *self._in_order(others)]

    def _in_order(self, results: Sequence[Result]) -> list[Result]:
        if not self.costs:
            return sorted(results, key=lambda result: (-result.score, result.trial))
        order = ranks([self.values(result) for result in results])
        places = sorted(range(len(results)), key=lambda place: (order[place], results[place].trial))
        return [results[place] for place in places]

    def front(self, results: Sequence[Result]) -> list[Result]:
        """Those that no other one is better than in everything, highest metric first."""
        eligible = [result for result in results if self.is_eligible(result)]
        if not eligible:
            return []
        first = fronts([self.values(result) for result in eligible])[0]
        return sorted((eligible[place] for place in first), key=lambda result: (-result.score, result.trial))


def pick(
    results: Sequence[Result],
    objectives: Objectives,
    how: Pick,
    *,
    size: Callable[[Architecture], float],
    within: float = 0.0,
) -> Result | None:
    """One of several full trainings; None if none meets the bounds.

    Args:
        results: Of one stage.
        objectives: Of the search.
        how: `best`: the highest metric. `knee`: of the front, who is nearest to having the best of everything, each
            objective taken from its worst to its best on the front. `smallest-within`: the smallest whose metric is at
            most `within` below the highest.
        size: Of an architecture; for instance its trainable parameters.
        within: For `smallest-within`.
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
        shares = [
            (high - value) / (high - low) if high > low else 0.0
            for value, high, low in zip(values, best, worst, strict=True)
        ]
        return math.hypot(*shares)

    return min(zip(front, points, strict=True), key=lambda entry: distance(entry[1]))[0]
