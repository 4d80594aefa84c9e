"""Successive halving over the arms of a search."""

import math
import random
from statistics import mean

from hypothesis import given
from hypothesis import strategies as st

from nas.search.arm_halving import MAX_SEEDS, ArmScores, better_half, rung_count, rung_end, seeds_of

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=4)


def test_rungs_halve_the_arms_until_one_is_left() -> None:
    for count in range(1, 65):
        arms, rungs = count, 0
        while arms > 1:
            arms, rungs = math.ceil(arms / 2), rungs + 1
        assert rung_count(count) == rungs


def test_every_rung_doubles_the_seeds_up_to_a_limit() -> None:
    assert [seeds_of(rung) for rung in range(5)] == [1, 2, 4, 4, 4] and MAX_SEEDS == 4


def test_every_rung_and_the_search_of_the_last_arm_have_equal_parts_of_the_time() -> None:
    assert [rung_end(rung, 3, 80.0) for rung in range(4)] == [20.0, 40.0, 60.0, 80.0]
    assert rung_end(0, 1, math.inf) == math.inf


@given(st.lists(st.tuples(SCORES, st.none() | st.floats(0, 1)), min_size=1, max_size=8), st.integers(1, 4))
def test_better_half_is_no_worse_than_the_rest_by_the_seeds_that_all_have(
    arms: list[tuple[list[float], float | None]], seeds: int
) -> None:
    scores = {f"arm{index}": ArmScores(default, linear) for index, (default, linear) in enumerate(arms)}
    kept = better_half(scores, seeds)
    assert len(kept) == math.ceil(len(arms) / 2) and len(set(kept)) == len(kept)
    count = min(seeds, *(len(default) for default, _ in arms))

    def answer(name: str) -> float:
        default, linear = arms[int(name.removeprefix("arm"))]
        return max(mean(default[:count]), -math.inf if linear is None else linear)

    assert all(answer(name) >= answer(other) for name in kept for other in scores.keys() - set(kept))
    assert [answer(name) for name in kept] == sorted(map(answer, kept), reverse=True)


def test_families_on_the_same_encoders_are_told_apart_by_their_defaults() -> None:
    scores = {"pmf": ArmScores([0.7], 0.9), "vpt": ArmScores([0.8], 0.9), "others": ArmScores([0.85], 0.84)}
    assert better_half(scores, 1) == ["vpt", "pmf"]


def test_failed_training_loses_and_equal_arms_keep_their_order() -> None:
    scores = {"failed": ArmScores([-math.inf, 0.9]), "first": ArmScores([0.5, 0.5]), "second": ArmScores([0.4, 0.6])}
    assert better_half(scores, 2) == ["first", "second"]


def test_best_arm_is_mostly_kept_where_seeds_differ_less_than_arms() -> None:
    chance, kept = random.Random(0), 0
    for _ in range(400):
        truths = {f"arm{index}": 0.7 + 0.02 * index for index in range(8)}
        members = list(truths)
        for rung in range(rung_count(8)):
            seeds = seeds_of(rung)
            scores = {name: ArmScores([chance.gauss(truths[name], 0.016) for _ in range(seeds)]) for name in members}
            members = better_half(scores, seeds)
        kept += members == ["arm7"]
    assert kept > 0.6 * 400
