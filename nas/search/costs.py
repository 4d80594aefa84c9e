"""Cost objectives: what a candidate costs, as objects in one registry. Lower is better for every cost.

To add a cost, write the function that obtains it and register it with one line, as in `nas.search.register`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from nas.common.registry import Registry
from nas.search.space import Architecture
from nas.search.trial import Result

_MAX_BOUND = 1e18


class CostModel(Protocol):
    """Predicts costs of an architecture before it is run."""

    def parameter_count(self, architecture: Architecture) -> int:
        """Return the number of trainable parameters."""

    def architecture_bytes(self, architecture: Architecture) -> int:
        """Return the predicted peak memory of training, without the memory that every architecture needs."""


@dataclass(frozen=True)
class Cost:
    """A cost that a search can minimize or bound. Exactly one of `predict` and `measure` is set.

    Args:
        name: The name in search files.
        unit: The unit that formatted bounds end with; empty for a count.
        parse_bound: Function that converts the text of a bound, such as `5ms`; raises a ValueError that names the
            allowed form.
        predict: Function that returns the cost of an architecture before it is run; None for a measured cost.
        measure: Function that returns the cost of a finished candidate, or None if it was not measured; a search with a
            measured cost lets workers time a forward pass of every candidate.
        limits_memory: Whether a bound lowers the memory budget of each candidate, so that a batch may be divided into
            micro-batches to meet it. Bounds on other predicted costs only accept or reject.
    """

    name: str
    unit: str
    parse_bound: Callable[[str], float]
    predict: Callable[[CostModel, Architecture], float] | None = None
    measure: Callable[[Result], float | None] | None = None
    limits_memory: bool = False

    def __post_init__(self) -> None:
        if (self.predict is None) == (self.measure is None):
            raise ValueError(f"cost {self.name!r}: expected one of predict and measure")

    @property
    def is_measured(self) -> bool:
        """Whether the cost is known only after a run."""
        return self.measure is not None

    def predicted(self, model: CostModel, architecture: Architecture) -> float | None:
        """Return the predicted cost; None if it follows from genes that the architecture does not have.

        Models that are compared with those of a search, such as the linear classifier, have other genes.

        Args:
            model: The model that predicts costs.
            architecture: An architecture of any family.

        Raises:
            ValueError: If the cost is a measured one.
        """
        if self.predict is None:
            raise ValueError(f"cost {self.name!r}: is measured, not predicted")
        try:
            return self.predict(model, architecture)
        except AttributeError as error:
            if error.obj is not architecture:
                raise
            return None

    def format_bound(self, bound: float) -> str:
        """Format a bound so that `parse_bound` returns it exactly."""
        number = str(int(bound)) if float(bound).is_integer() else f"{bound:.17g}"
        return f"{number}{self.unit}"


COSTS: Registry[Cost] = Registry("cost", builtins="nas.search.register:register_costs", entry_points="pmf_nas.costs")


def register_cost(
    name: str,
    *,
    unit: str,
    parse_bound: Callable[[str], float],
    predict: Callable[[CostModel, Architecture], float] | None = None,
    measure: Callable[[Result], float | None] | None = None,
    limits_memory: bool = False,
) -> None:
    """Register a cost; see `Cost` for the arguments.

    Raises:
        ExtensionError: If the name is taken.
        ValueError: If not exactly one of `predict` and `measure` is given.
    """
    COSTS.register(name, Cost(name, unit, parse_bound, predict, measure, limits_memory))


def number_parser(units: Mapping[str, float]) -> Callable[[str], float]:
    """Return a function that parses a number with a unit.

    Args:
        units: The factor of every allowed unit; the empty text allows a number without a unit.
    """

    def parse(text: str) -> float:
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)([a-zA-Z]*)", text)
        if match is None or match[2] not in units or not (number := float(match[1]) * units[match[2]]) <= _MAX_BOUND:
            allowed = " or ".join(unit or "no unit" for unit in units)
            raise ValueError(f"expected a number with {allowed}, at most {_MAX_BOUND:g}")
        return number

    return parse


def peak_memory(model: CostModel, architecture: Architecture) -> float:
    """Return the predicted peak memory of training in bytes, without the memory that every architecture needs."""
    return model.architecture_bytes(architecture)


def trainable_parameters(model: CostModel, architecture: Architecture) -> float:
    """Return the number of trainable parameters."""
    return model.parameter_count(architecture)


def latency(result: Result) -> float | None:
    """Return the measured seconds of a forward pass from the base features."""
    return result.latency_seconds
