import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search.recipe_tuning import (
    AS_CONFIGURED,
    RUNGS,
    SETTINGS,
    TRAININGS,
    RecipeSetting,
    choose_setting,
    next_trainings,
)

SMALL = ((4, 1), (2, 3))


def climbed(values: dict[tuple[int, int], float], rungs: tuple[tuple[int, int], ...] = SMALL) -> list[tuple[int, int]]:
    """Return all trainings of a halving whose scores are known, in the order in which they are planned."""
    scores: dict[tuple[int, int], float | None] = {}
    while planned := next_trainings(scores, rungs):
        scores[planned[0]] = values[planned[0]]
    return list(scores)


def test_every_setting_gets_one_seed_and_the_better_half_gets_more() -> None:
    values = {(setting, seed): [0.1, 0.4, 0.2, 0.3][setting] for setting in range(4) for seed in range(3)}
    assert climbed(values) == [(0, 0), (1, 0), (2, 0), (3, 0), (1, 1), (3, 1), (1, 2), (3, 2)]
    assert choose_setting(values, SMALL) == 1


def test_number_of_trainings_is_that_of_all_rungs() -> None:
    chance = random.Random(3)
    values = {(setting, seed): chance.random() for setting in range(len(SETTINGS)) for seed in range(4)}
    assert len(climbed(values, tuple(RUNGS))) == TRAININGS == 9 + 4 + 2 * 2


def test_rungs_have_fewer_settings_and_more_seeds_each_time() -> None:
    assert RUNGS[0][0] == len(SETTINGS)
    for (size, count), (next_size, next_count) in pairwise(RUNGS):
        assert next_size < size and next_count > count
    assert SETTINGS[0] == AS_CONFIGURED and len(set(SETTINGS)) == len(SETTINGS)


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({}, 0),
        ({(0, 0): 0.5}, 0),
        ({(0, 0): 0.5, (1, 0): 0.6}, 1),
        ({(0, 0): None, (1, 0): None, (2, 0): None, (3, 0): None}, 0),
        ({(0, 0): None, (1, 0): 0.1, (2, 0): None, (3, 0): None}, 1),
        # The second rung is not complete: only the first seeds are comparable.
        ({(0, 0): 0.5, (1, 0): 0.6, (2, 0): 0.1, (3, 0): 0.2, (0, 1): 0.9}, 1),
    ],
)
def test_choice_before_the_last_rung_is_complete(scores: dict[tuple[int, int], float | None], chosen: int) -> None:
    assert choose_setting(scores, SMALL) == chosen


def test_among_equals_the_setting_whose_seeds_differ_least_is_chosen() -> None:
    first = {(0, 0): 0.5, (1, 0): 0.5, (2, 0): 0.1, (3, 0): 0.1}
    spread, steady = {(0, 1): 0.3, (0, 2): 0.74}, {(1, 1): 0.51, (1, 2): 0.5}
    assert choose_setting(first | spread | steady, SMALL) == 1  # 0.513 ± 0.22 against 0.503 ± 0.006
    clear = {(0, 1): 0.56, (0, 2): 0.62}
    assert choose_setting(first | clear | steady, SMALL) == 0  # 0.56 ± 0.06, more than its standard error ahead


def test_failed_seed_puts_a_setting_behind_all_others() -> None:
    scores = {(0, 0): 0.9, (1, 0): 0.5, (2, 0): 0.1, (3, 0): 0.1, (0, 1): None, (0, 2): 0.9, (1, 1): 0.5, (1, 2): 0.5}
    assert choose_setting(scores, SMALL) == 1


@given(st.integers(0, 10**6))
def test_choice_does_not_depend_on_the_order_in_which_a_rung_ends(seed: int) -> None:
    chance = random.Random(seed)
    values = {(setting, number): chance.random() for setting in range(4) for number in range(3)}
    scores: dict[tuple[int, int], float | None] = {}
    while planned := next_trainings(scores, SMALL):
        key = chance.choice(planned)
        scores[key] = values[key]
    assert set(scores) == set(climbed(values))
    assert choose_setting(scores, SMALL) == choose_setting({key: values[key] for key in climbed(values)}, SMALL)


def test_setting_says_what_it_changes() -> None:
    assert str(AS_CONFIGURED) == "as configured"
    assert str(RecipeSetting(rate=3, classifier_rate=3, steps=2)) == "learning rates × 3, steps × 2"
    assert str(RecipeSetting(rate=3)) == "learning rates of prompts and mappings × 3"
    assert str(RecipeSetting(rate=10, classifier_rate=3, weight_decay=0.5)) == (
        "learning rates of prompts and mappings × 10, learning rate of classifiers × 3, weight decay × 0.5"
    )
    assert RecipeSetting(steps=0.1).full_steps(3) == 1
