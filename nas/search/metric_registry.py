"""Metrics of a trained candidate, as objects in one registry. Imports no torch.

To add a metric, write the function that computes it, as in `nas.training.metrics`, and register it with one line, as in
`nas.search.register`.
"""

from dataclasses import dataclass
from typing import Literal

from nas.common.registry import Registry

LabelKind = Literal["single", "multiple", "pairs"]
"""What samples are evaluated by: one class each, any number of classes, or, for retrieval, pairs of items."""
Labels = Literal["any", "single", "multiple", "pairs"]
Role = Literal["objective", "proxy", "report"]


@dataclass(frozen=True)
class Metric:
    """A metric on the validation split.

    Args:
        name: The name in search files, results and reports.
        function: The function that computes it, as `package.module:function`: from `nas.training.metrics.Predictions`,
            for pairs from `nas.training.retrieval.Ranks`.
        higher_is_better: Whether a higher value is better.
        labels: The data it applies to: `single`-label, `multiple`-label, `any` of both, or `pairs` of retrieval.
        role: `objective`: may be the objective of a search, and be bounded; `proxy`: may only rank candidates before
            full training; `report`: is only reported.
    """

    name: str
    function: str
    higher_is_better: bool = True
    labels: Labels = "any"
    role: Role = "objective"

    def applies_to(self, kind: LabelKind) -> bool:
        """Return whether the metric is defined for data with such labels."""
        return self.labels == kind or (self.labels == "any" and kind != "pairs")

    def score(self, value: float) -> float:
        """Return a value of the metric as a score, for which higher is better; and a score as a value."""
        return value if self.higher_is_better else -value


METRICS: Registry[Metric] = Registry(
    "metric", builtins="nas.search.register:register_metrics", entry_points="pmf_nas.metrics"
)


def register_metric(
    name: str,
    function: str,
    *,
    higher_is_better: bool = True,
    labels: Labels = "any",
    role: Role = "objective",
) -> None:
    """Register a metric; see `Metric` for the arguments.

    Raises:
        ExtensionError: If the name is taken.
    """
    METRICS.register(name, Metric(name, function, higher_is_better, labels, role))


def metric_names(*, role: Role = "objective", kind: LabelKind | None = None) -> tuple[str, ...]:
    """Return the names of the metrics with a role, in the order of their registration.

    Args:
        role: The role of the metrics.
        kind: The labels of the data; None includes metrics for any data.
    """
    metrics = (METRICS[name] for name in METRICS)
    return tuple(metric.name for metric in metrics if metric.role == role and (kind is None or metric.applies_to(kind)))
