"""What a search file for retrieval may have."""

import re
from typing import Any

import pytest

from nas.common.errors import ConfigError
from nas.config.arms import expand
from tests.support.search_file import make_search_config, search_values

RETRIEVAL: dict[str, Any] = {
    "data.task": "retrieval",
    "family": "vse",
    "space": {"joint_width": [4, 8]},
    "search.objective": "mean_recall",
    "recipe.label_smoothing": 0.0,
}


def test_retrieval_has_its_own_metrics_and_no_column_of_labels() -> None:
    config = make_search_config(**RETRIEVAL)
    assert config.data.columns.label is None and config.data.label_kind == "pairs"
    assert config.search.score_name("one_shot") == "mean_recall"
    assert make_search_config(**{**RETRIEVAL, "search.objective": "auto"}).search.objective == "mean_recall"
    again = type(config).model_validate(config.as_dict() | {"space": config.space}, context=None)
    assert again.data == config.data


def test_a_family_that_embeds_no_pairs_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"data\.task: .*family: pmf, or a family that embeds.*vse"):
        make_search_config(**{"data.task": "retrieval"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search.objective": "accuracy"}, "search.objective: invalid value; expected one of mean_recall, "),
        ({"search.proxy_metric": "cross_entropy"}, "expected one of objective, mean_reciprocal_rank for retrieval"),
        ({"search.distill": True}, "search.distill: invalid value; expected false with data.task: retrieval"),
        ({"search.answer": "ensemble"}, "search.answer: invalid value; expected auto or single"),
        ({"recipe.label_smoothing": 0.1}, "recipe.label_smoothing: invalid value; expected 0 with data.task"),
        ({"recipe.class_weights": "inverse_frequency"}, "recipe.class_weights: invalid value; expected none"),
        ({"budget.oversized": "accumulate"}, "budget.oversized: invalid value; expected reject with data.task"),
        ({"data.labels": "several"}, "data.labels: not allowed; expected no such key with task: retrieval"),
        ({"data.columns": {"label": "kind"}}, "data.columns.label: invalid value; expected null with task: retrieval"),
    ],
)
def test_what_needs_classes_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_search_config(**{**RETRIEVAL, **changes})


def test_a_reader_whose_samples_have_labels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.task: invalid value; expected classification with reader: snli_ve"):
        make_search_config(**{**RETRIEVAL, "data": {"reader": "snli_ve", "folder": "x", "task": "retrieval"}})


def test_arms_are_refused() -> None:
    values = search_values(**{**RETRIEVAL, "family": ["vse", "pmf"], "space": "auto"})
    with pytest.raises(ValueError, match=r"family: list of arms; expected one image encoder, .* data\.task: retrieval"):
        expand(values)


def test_classification_needs_a_column_of_labels_and_its_own_metrics() -> None:
    with pytest.raises(ConfigError, match=r"data\.columns\.label: invalid value; expected a column, null only with"):
        make_search_config(**{"data.columns": {"label": None}})
    with pytest.raises(ConfigError, match=r"search\.objective: .*expected one of accuracy, .* for single-label data"):
        make_search_config(**{"search.objective": "mean_recall"})


def test_models_for_retrieval_read_the_texts_of_samples() -> None:
    zero_shot = {**RETRIEVAL, "family": "clip_zero_shot"}
    assert make_search_config(**{**zero_shot, "space": "auto"}).space.choices == {"sample_text": (1,)}
    with pytest.raises(ConfigError, match=r"space\.sample_text: invalid value; expected \[sum\] with data\.task: retr"):
        make_search_config(**{**zero_shot, "space": {"sample_text": ["none", "sum"]}})
