import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nas.config.diff import differences

OLD: dict[str, Any] = {
    "seed": 0,
    "search": {"round_size": 10, "evolution": {"parents": 5}},
    "space": {"query_prompts": (1, 2, 4)},
    "budget": {"time": "240.000000s", "trials": None, "memory": "100B", "oversized": "reject"},
}

VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab", max_size=3)
KEYS = st.sampled_from(["a", "b", "budget"])
CONFIGS = st.dictionaries(KEYS, VALUES | st.lists(VALUES, max_size=2) | st.dictionaries(KEYS, VALUES, max_size=3))


def changed(**changes: Any) -> dict[str, Any]:
    new = copy.deepcopy(OLD)
    for path, value in changes.items():
        *sections, key = path.split("__")
        section = new
        for name in sections:
            section = section[name]
        section[key] = value
    return new


def test_every_key_that_differs_is_named_with_both_values() -> None:
    new = changed(seed=1, search__round_size=20, search__evolution__parents=6)
    del new["space"]
    new["extra"] = {"key": "new"}
    assert differences(OLD, new) == [
        'extra.key: (missing) → "new"',
        "search.evolution.parents: 5 → 6",
        "search.round_size: 10 → 20",
        "seed: 0 → 1",
        "space.query_prompts: [1, 2, 4] → (missing)",
    ]


def test_budgets_may_change_but_not_what_is_done_with_a_candidate_that_does_not_fit() -> None:
    assert differences(OLD, changed(budget__time=None, budget__trials=7, budget__memory="5B")) == []
    features = [OLD | {"features": {"disk": disk}} for disk in ("1B", "2B")]
    assert differences(*features) == []
    # Whether features are stored as float16 or computed from such ones decides the last digits of scores.
    assert differences(*({**entry, "deterministic": True} for entry in features)) == ['features.disk: "1B" → "2B"']
    assert differences(OLD, changed(budget__oversized="accumulate", budget__trials=7)) == [
        'budget.oversized: "reject" → "accumulate"'
    ]


def test_distillation_may_be_turned_on_later_since_nothing_that_was_done_depends_on_it() -> None:
    for deterministic in (False, True):
        before = OLD | {"deterministic": deterministic}
        on, off = ({**before, "search": before["search"] | {"distill": value}} for value in (True, False))
        assert differences(before, on) == differences(off, on) == differences(on, off) == []
    assert differences(off, {**on, "search": on["search"] | {"answer": "single"}}) == [
        'search.answer: (missing) → "single"'
    ]


@given(CONFIGS)
def test_a_configuration_does_not_differ_from_what_storing_it_makes_of_it(config: dict[str, Any]) -> None:
    assert differences(json.loads(json.dumps(config)), config) == []


@given(CONFIGS, CONFIGS)
def test_there_are_differences_exactly_where_more_than_the_budget_changed(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    def fixed(config: dict[str, Any]) -> str:
        return json.dumps({key: value for key, value in config.items() if key != "budget"}, sort_keys=True)

    assert bool(differences(old, new)) == (fixed(old) != fixed(new))


def test_run_from_before_there_was_a_precision_has_float32() -> None:
    before, after = {"recipe": {"epochs": 5}}, {"recipe": {"epochs": 5, "precision": "float32"}}
    assert differences(before, after) == differences(after, before) == []
    assert differences(before, {"recipe": {"epochs": 5, "precision": "bfloat16"}}) == [
        'recipe.precision: "float32" → "bfloat16"'
    ]
