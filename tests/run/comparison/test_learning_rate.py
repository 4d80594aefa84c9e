"""The choice of a learning rate from a grid."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.run.comparison.learning_rate import RateChoice, choose_rate


def chosen(scores: Sequence[float | None]) -> tuple[RateChoice, set[int]]:
    """The choice for a grid with these scores, where None fails, and the learning rates that were tried."""
    tried: set[int] = set()

    def train(indices: Sequence[int]) -> Mapping[int, float]:
        tried.update(indices)
        return {index: score for index in indices if (score := scores[index]) is not None}

    return choose_rate(len(scores), train), tried


@pytest.mark.parametrize(
    ("scores", "tried"),
    [
        ([1, 2, 3, 4, 2, 1], {2, 3, 4, 5}),
        ([1, 5, 4, 3, 2, 1], {0, 1, 2, 3}),
        ([1, 2, 3, 4, 5, 6, 7], {2, 3, 4, 5, 6}),
        ([1, 2, 5, 4, 3], {1, 2, 3, 4}),
        ([4, 3, 3, None, None], {0, 1, 2}),
        ([3, 3, 3, 3], {0, 1, 2}),
        ([3, None, None], {0, 1}),
        ([None, None, None, 1], {0, 1, 2}),
        ([1, 2], {0, 1}),
        ([1], {0}),
    ],
)
def test_learning_rates_are_tried_from_the_middle_towards_better_scores(
    scores: list[float | None], tried: set[int]
) -> None:
    choice, seen = chosen(scores)
    known = {index: score for index in tried if (score := scores[index]) is not None}
    best = max(known, key=lambda index: (known[index], -index), default=None)
    assert seen == tried and choice == RateChoice(best, len(tried))


@given(st.lists(st.integers(1, 9), max_size=5), st.lists(st.integers(1, 9), max_size=5))
def test_best_of_a_grid_whose_scores_rise_and_fall_is_found(below: list[int], above: list[int]) -> None:
    scores: list[float | None] = [*sorted(set(below)), 10, *sorted(set(above), reverse=True)]
    choice, _ = chosen(scores)
    assert choice.best == scores.index(10)
