"""The statistics of paired seeds, against scipy and closed forms."""

import random

import pytest
from scipy.stats import binomtest, ttest_rel

from benchmarks.paired import compare_paired, holm


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 6, 15])
def test_comparison_equals_the_tests_of_scipy(count: int, seed: int) -> None:
    rng = random.Random(seed)
    reference = [rng.gauss(0.6, 0.02) for _ in range(count)]
    variant = [value + rng.gauss(0.01, 0.02) for value in reference]
    found = compare_paired(reference, {"variant": variant})["variant"]
    interval = ttest_rel(variant, reference).confidence_interval(0.95)
    assert found.half_width is not None
    ends = found.mean - found.half_width, found.mean + found.half_width
    assert ends == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert found.mean == pytest.approx(sum(variant) / count - sum(reference) / count, abs=1e-12)
    assert found.wins + found.losses == found.pairs == count
    assert found.p_value == pytest.approx(binomtest(found.wins, count).pvalue, abs=1e-12)
    assert found.adjusted == found.p_value


def test_six_wins_of_six_have_a_p_value_of_one_in_32_and_ties_do_not_count() -> None:
    reference = [0.5] * 8
    found = compare_paired(reference, {"better": [0.6] * 6 + [0.5] * 2, "same": reference})
    assert found["better"].p_value == pytest.approx(1 / 32) and found["better"].wins == 6
    assert found["same"].p_value == 1.0 and found["same"].half_width is None
    assert found["better"].adjusted == pytest.approx(2 / 32)


def test_holms_correction_multiplies_by_the_number_of_those_left_and_never_falls() -> None:
    values = {"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.9}
    assert holm(values) == pytest.approx({"b": 0.04, "c": 0.09, "a": 0.09, "d": 0.9})
    assert list(holm(values)) == list(values)


def test_one_pair_has_no_interval_and_unequal_numbers_are_refused() -> None:
    found = compare_paired([0.5], {"other": [0.6]})["other"]
    assert (found.half_width, found.p_value) == (None, 1.0)
    with pytest.raises(ValueError, match="expected 2"):
        compare_paired([0.5, 0.6], {"other": [0.5]})
