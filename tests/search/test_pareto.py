import math

from hypothesis import given
from hypothesis import strategies as st

from nas.search.pareto import crowding, dominates, fronts, ranks

POINTS = st.integers(1, 3).flatmap(
    lambda count: st.lists(st.tuples(*[st.integers(0, 4).map(float)] * count), min_size=1, max_size=12)
)


@given(POINTS)
def test_fronts_match_their_definition(points: list[tuple[float, ...]]) -> None:
    found = fronts(points)
    assert sorted(point_index for front in found for point_index in front) == list(range(len(points)))
    for index, front in enumerate(found):
        for point_index in front:
            assert not any(dominates(points[other], points[point_index]) for other in front)
            if index:
                assert any(dominates(points[other], points[point_index]) for other in found[index - 1])


def test_crowding_distance_is_the_normalised_gap_between_neighbours() -> None:
    points = [(0.0, 4.0), (1.0, 3.0), (3.0, 1.0), (4.0, 0.0)]
    assert crowding(points) == [math.inf, 3 / 4 + 3 / 4, 3 / 4 + 3 / 4, math.inf]
    assert crowding([(1.0, 1.0)] * 3)[1] == 0.0 and crowding([]) == []


@given(st.lists(st.integers(0, 5).map(float), max_size=20))
def test_a_single_objective_is_ranked_by_its_value(values: list[float]) -> None:
    order = ranks([(value,) for value in values])
    for first, one in zip(order, values, strict=True):
        for second, other in zip(order, values, strict=True):
            assert (first < second) == (one > other)
