import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.execution import Ledger


@given(st.integers(1, 100), st.lists(st.tuples(st.booleans(), st.integers(1, 100)), max_size=60))
def test_reservations_never_pass_the_budget(budget: int, moves: list[tuple[bool, int]]) -> None:
    ledger, running = Ledger(budget), {}
    for number, (is_release, peak) in enumerate(moves):
        if is_release and running:
            key = next(iter(running))
            ledger.release(key)
            del running[key]
        elif ledger.fits_alone(peak) and ledger.admit(number, peak):
            running[number] = peak
        assert ledger.reserved_bytes == sum(running.values()) <= budget


@given(st.integers(1, 100), st.lists(st.integers(1, 100), max_size=20))
def test_everything_that_fits_alone_is_admitted_in_the_end(budget: int, peaks: list[int]) -> None:
    ledger, admitted = Ledger(budget), 0
    wanted = [peak for peak in peaks if ledger.fits_alone(peak)]
    for number, peak in enumerate(wanted):
        if not ledger.admit(number, peak):
            for other in range(number):
                if ledger.holds(other):
                    ledger.release(other)
            assert ledger.admit(number, peak)
        admitted += 1
    assert admitted == len(wanted)


def test_what_can_never_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs 11 bytes of a budget of 10"):
        Ledger(10).admit("large", 11)


def test_a_job_cannot_run_twice() -> None:
    ledger = Ledger(10)
    assert ledger.admit("job", 1)
    with pytest.raises(ValueError, match="running already"):
        ledger.admit("job", 1)
