import inspect

import pytest

from nas.common.errors import ExtensionError
from nas.common.registry import load_object
from nas.search.costs import COSTS, Cost, register_cost
from nas.search.metric_registry import METRICS, metric_names, register_metric


def test_metrics_of_each_role_are_listed_in_order() -> None:
    tuned = ("macro_f1_tuned", "micro_f1_tuned")
    objectives = ("accuracy", "balanced_accuracy", "macro_f1", "micro_f1", *tuned, "mean_average_precision")
    recalls = tuple(
        f"{direction}_recall_at_{count}" for count in (1, 5, 10) for direction in ("image_to_text", "text_to_image")
    )
    assert metric_names() == (*objectives, "mean_recall", *recalls)
    assert metric_names(kind="single") == tuple(name for name in objectives if name not in tuned)
    assert metric_names(kind="multiple") == tuple(name for name in objectives if name != "balanced_accuracy")
    assert metric_names(kind="pairs") == ("mean_recall", *recalls)
    assert metric_names(role="proxy") == ("cross_entropy", "mean_reciprocal_rank")
    assert metric_names(role="report", kind="single") == ()


def test_scores_are_better_when_higher() -> None:
    assert METRICS["accuracy"].score(0.25) == 0.25
    assert METRICS["cross_entropy"].score(0.25) == -0.25


@pytest.mark.parametrize("name", METRICS)
def test_the_function_of_every_metric_exists(name: str) -> None:
    assert inspect.isfunction(load_object(METRICS[name].function))


def test_names_of_metrics_and_costs_are_distinct() -> None:
    assert not set(METRICS) & set(COSTS)


def test_taken_names_are_rejected() -> None:
    with pytest.raises(ExtensionError, match="metric 'accuracy': the name is taken"):
        register_metric("accuracy", "nas.training.metrics:accuracy")
    with pytest.raises(ExtensionError, match="cost 'latency': the name is taken"):
        register_cost("latency", unit="s", parse_bound=float, measure=lambda result: result.latency_seconds)


def test_a_cost_is_either_predicted_or_measured() -> None:
    assert [COSTS[name].is_measured for name in COSTS] == [False, False, True]
    with pytest.raises(ValueError, match="expected one of predict and measure"):
        Cost("energy", "J", float)
