import itertools

import pytest

from nas.common.countdown import counted_down


def test_estimate_is_counted_down_and_then_ever_more_slowly() -> None:
    assert [counted_down(10.0, waited) for waited in (0.0, 4.0, 9.0)] == pytest.approx([10.0, 6.0, 1.0])
    late = [counted_down(10.0, float(waited)) for waited in range(9, 100)]
    assert all(0 < later < earlier for earlier, later in itertools.pairwise(late))


def test_nothing_is_left_of_nothing() -> None:
    assert counted_down(0.0, 5.0) == counted_down(-1.0, 0.0) == 0.0
