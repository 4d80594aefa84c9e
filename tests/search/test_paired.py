"""Paired differences and Holm's procedure, against scipy and by hand."""

import pytest
from scipy import stats

from nas.search.paired import PairedDifference, holm

FIRST, SECOND = [0.61, 0.58, 0.66, 0.60], [0.55, 0.57, 0.59, 0.61]


def test_interval_and_p_value_are_those_of_the_paired_t_test() -> None:
    found = PairedDifference.of(FIRST, SECOND)
    expected = stats.ttest_rel(FIRST, SECOND)
    low, high = expected.confidence_interval(0.95)
    assert found is not None and found.half_width is not None and found.count == 4
    assert found.mean == pytest.approx(0.0325, abs=1e-12)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high), abs=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)


def test_only_seeds_of_both_count() -> None:
    missing: list[float | None] = [0.5, None, 0.66, 0.6]
    found = PairedDifference.of([*missing, 0.9], SECOND)
    assert found == PairedDifference.of([0.5, 0.66, 0.6], [0.55, 0.59, 0.61])
    assert PairedDifference.of([None, 0.5], [0.5, None]) is None and PairedDifference.of([], []) is None


@pytest.mark.parametrize("scores", [[0.6], [0.1 + 0.2, 0.6, 0.9]], ids=["one seed", "equal differences"])
def test_differences_that_say_nothing_about_luck_have_no_interval(scores: list[float]) -> None:
    found = PairedDifference.of(scores, [score - 0.1 for score in scores])
    assert found is not None and found.mean == pytest.approx(0.1)
    assert (found.half_width, found.p_value, found.count) == (None, None, len(scores))


def test_holm_goes_from_the_smallest_p_value_until_one_is_too_large() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True], "0.03 is above 0.05 / 2, so 0.04 is not tried"
    assert holm([0.04]) == [True] and holm([]) == []
    assert holm([0.04, None]) == [False, False], "an untested difference counts"
