import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search.keys import (
    CandidateKey,
    ComparisonKey,
    DefaultKey,
    DistilledKey,
    ModelKey,
    RerunKey,
    key_from_json,
    key_to_json,
)
from tests.support.factories import make_job, make_result

NUMBERS = st.integers(min_value=0, max_value=10**9)
KEYS: st.SearchStrategy[ModelKey] = st.one_of(
    st.builds(CandidateKey, NUMBERS),
    st.just(DefaultKey()),
    st.builds(RerunKey, st.one_of(st.builds(CandidateKey, NUMBERS), st.just(DefaultKey())), NUMBERS),
    st.builds(ComparisonKey, NUMBERS, NUMBERS),
    st.builds(DistilledKey, st.from_regex(r"[0-9a-f]{8}", fullmatch=True), NUMBERS),
)


@given(KEYS)
def test_stored_key_is_read_back(key: ModelKey) -> None:
    assert key_from_json(key_to_json(key)) == key
    assert type(make_result(key=key)).from_dict(make_result(key=key).as_dict()) == make_result(key=key)


@given(KEYS, KEYS)
def test_names_of_keys_differ_and_can_be_file_names(first: ModelKey, second: ModelKey) -> None:
    assert (first.name == second.name) is (first == second)
    assert re.fullmatch(r"[a-z0-9_]+", first.name)


@pytest.mark.parametrize("value", ["", "trial_3", "rerun_best_1", "rate_1", "default ", "distilled_1_0"])
def test_anything_else_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="not the key of a model"):
        key_from_json(value)


def test_only_candidates_have_a_trial_number() -> None:
    assert make_job(trial=3).trial == make_result(trial=3).trial == 3
    assert make_result(trial=3).as_dict()["trial"] == 3
    with pytest.raises(ValueError, match="default: has no trial number"):
        _ = make_job(key=DefaultKey()).trial
