"""The comparison with Ray Tune: its PMF, the answer at a time, the time to reach a value, and the interval."""

from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch

from benchmarks.peers.cells import ROLES, outcome_path, write_outcome
from benchmarks.peers.reach import Answer, Known, Pair, answers, lead, speed_up
from benchmarks.peers.time_to_tune import KEYS, compare
from benchmarks.quality.cells import Cell
from benchmarks.quality.figures import with_peers
from benchmarks.straightforward import StraightforwardPMF
from benchmarks.straightforward import base_features as plain_features
from nas.models.fusion.pmf.architecture import PMFArchitecture
from tests.support.tiny import base_features, encoders, pmf_model, raw_batch


@pytest.mark.parametrize(
    "architecture",
    [PMFArchitecture(1, 4, 2, 4, 12, image_readout=1, text_readout=1), PMFArchitecture(2, 2, 0, 3, 5)],
    ids=str,
)
def test_logits_from_raw_inputs_and_from_features_are_those_of_the_program(architecture: PMFArchitecture) -> None:
    model = pmf_model(architecture, encoders(4, 3))
    pixels, ids, mask = raw_batch()
    start = architecture.fusion_layer
    with torch.no_grad():
        expected = model(base_features(*model.encoders, start, pixels, ids, mask))
        plain = StraightforwardPMF(model)
        image = plain_features(model.encoders[0], pixels, None, {start, start + 1})[start + 1]  # one layer deeper
        text = plain_features(model.encoders[1], ids, mask, {start})[start]
        torch.testing.assert_close(plain(pixels, ids, mask), expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(plain.from_features(image, text, mask), expected, rtol=0, atol=1e-9)


def test_answer_is_the_configuration_preferred_by_what_was_known() -> None:
    """By their mean, b is overtaken by a when its second seed is poor; by their maximum it stays."""
    known = [Known(10, "a", 0.5), Known(20, "b", 0.8), Known(30, "b", 0.1), Known(40, "c", 0.9), Known(5, "d", 0.1)]
    by_mean = answers(known, mean, 35)
    assert by_mean == [Answer(5, "d"), Answer(10, "a"), Answer(20, "b"), Answer(30, "a")]
    assert [answer.configuration for answer in answers(known, max, 35)] == ["d", "a", "b"]
    assert answers(known, max, 40)[-1] == Answer(40, "c")
    assert answers(known, mean, 4) == []


def test_scores_of_one_moment_count_together() -> None:
    known = [Known(10, "a", 0.5), Known(10, "b", 0.8)]
    assert answers(known, mean, 10) == [Answer(10, "b")]


FOUND = [Answer(60, "a"), Answer(120, "b"), Answer(240, "c")]
FRESH = {"a": [0.5] * 3, "b": [0.7] * 3, "c": [0.6] * 3}


@pytest.mark.parametrize(("target", "expected"), [(0.5, 40.0), (0.55, 20.0), (0.7, 20.0), (0.71, 0.0)])
def test_time_to_reach_is_that_of_the_first_answer_that_is_worth_it(target: float, expected: float) -> None:
    """A later and poorer answer changes nothing; a value that is never reached counts as 0."""
    found = speed_up([Pair(FOUND, FRESH, [target] * 3)], 2400, seed=0)
    assert found.value == pytest.approx(expected)
    assert found.draws == pytest.approx(expected)


def test_interval_draws_pairs_of_runs() -> None:
    """Of two pairs with ratios 40 and 0, a quarter of the draws has 40, a quarter 0, the others 20."""
    pairs = [Pair(FOUND, FRESH, [target] * 3) for target in (0.5, 0.9)]
    found = speed_up(pairs, 2400, seed=0, draws=20_000)
    assert found.value == pytest.approx(20)
    parts = [np.isclose(found.draws, value).mean() for value in (0, 20, 40)]
    assert parts == pytest.approx([0.25, 0.5, 0.25], abs=0.015)


def test_interval_draws_fresh_seeds() -> None:
    """The difference of two means of three has the variance of both."""
    ours, theirs = [0.1, 0.4, 0.7], [0.2, 0.3, 0.1]
    found = lead([Pair([Answer(1, "a")], {"a": ours}, theirs)], seed=0, draws=20_000)
    assert found.value == pytest.approx(0.2)
    assert found.draws.var() == pytest.approx((np.var(ours) + np.var(theirs)) / 3, rel=0.05)


def test_figures_name_missing_cells_and_join_those_of_searches(tmp_path: Path) -> None:
    """The search needs 60 s for the value of `tune_plain`, never has that of `tune_cached`; one seed is missing."""
    cells = [Cell(role, task, seed) for seed in (0, 1) for role in ROLES for task in ("first", "second")]
    missing = Cell("tune_plain", "second", 1)
    for cell in cells:
        if cell != missing:
            target = {"tune_plain": "a", "tune_cached": "high"}.get(cell.role)
            found = FOUND if target is None else [Answer(2000, target)]
            write_outcome(outcome_path(tmp_path, cell), (found, FRESH | {"high": [0.9] * 3}))
    figures = compare(tmp_path, cells)
    means = {key: entry["mean"] for key, entry in figures["pooled"].items()}
    assert means == pytest.approx(dict(zip(KEYS, (40.0, 0.0, 0.1, -0.3), strict=True)))
    assert figures["missing"] == [str(missing)]
    plain = [key for key in KEYS if key.endswith("plain")]
    assert figures["incomplete"] == [f"{name}.{key}" for name in ("second", "pooled") for key in plain]
    others = {"pooled": {"x": 1}, "data_sets": {"first": {"x": 2}, "third": {}}, "missing": ["m"], "incomplete": []}
    joined = with_peers(others, figures)
    assert joined["pooled"] == {"x": 1, **figures["pooled"]}
    assert joined["data_sets"]["first"] == {"x": 2, **figures["data_sets"]["first"]}
    assert list(joined["data_sets"]) == ["first", "third", "second"]
    assert joined["missing"] == ["m", str(missing)]
