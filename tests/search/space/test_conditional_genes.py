"""Genes that have a meaning only beside some values of another gene (`Gene.only_with`)."""

import itertools
import random
from collections import Counter
from dataclasses import dataclass

import pytest

from nas.search.space import Architecture, EncoderSizes, Gene, SearchSpace
from nas.search.space.operators import cross, mutate, neighbour, shrink
from nas.search.strategies.base import EvolutionSettings
from nas.search.strategies.registry import STRATEGIES, build_strategy

SETTINGS = EvolutionSettings(
    population=4,
    parents=2,
    crossover_fraction=0.5,
    mutation_fraction=0.4,
    mutation_probability=0.3,
    proposal_pool=4,
)


@dataclass(frozen=True)
class PlacedArchitecture(Architecture):
    """A family in which a width has a meaning in two of three places, and a kind in one."""

    family = "placed"
    genes = (
        Gene("length", "b", 1),
        Gene("width", "w", 2, only_with=("place", ("both", "left"))),
        Gene("place", "P", 0, names=("both", "left", "right")),
        Gene("kind", "K", 0, names=("plain", "shared"), only_with=("place", ("both",))),
    )

    length: int
    width: int
    place: int = 0
    kind: int = 0

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "PlacedArchitecture":
        del sizes
        return cls(1, 2)


def built(length: int, place: int, kind: int, width: int) -> PlacedArchitecture:
    return PlacedArchitecture(length, width, place, kind)


SPACE = SearchSpace(PlacedArchitecture, {"length": (1, 3), "place": (0, 1, 2), "kind": (0, 1), "width": (4, 5, 6)})
DISTINCT = {built(*values) for values in itertools.product((1, 3), (0, 1, 2), (0, 1), (4, 5, 6))}


def test_values_without_a_meaning_make_no_other_architecture() -> None:
    assert built(1, 2, 1, 6) == built(1, 2, 0, 4) and built(1, 1, 1, 4) == built(1, 1, 0, 4) != built(1, 1, 0, 5)
    assert built(1, 2, 1, 6).width == 2 and not built(1, 2, 0, 4).has_meaning("width")
    # 2 lengths; 2 kinds and 3 widths in both places, 3 widths on the left, nothing on the right
    assert SPACE.size == len(DISTINCT) == 2 * (2 * 3 + 3 + 1)
    assert Counter(SPACE) == Counter(DISTINCT)
    assert {SPACE.smallest, SPACE.largest} <= DISTINCT


def test_only_variables_with_a_meaning_are_encoded_and_needed() -> None:
    assert SPACE.encode(built(3, 2, 0, 2)) == {"length": 3, "place": 2}
    assert SPACE.encode(built(3, 1, 0, 5)) == {"length": 3, "place": 1, "width": 5}
    for architecture in SPACE:
        values = SPACE.encode(architecture)
        assert SPACE.decode(values) == architecture
        for filler in range(2):
            others = {variable.name: variable.choices[-filler] for variable in SPACE.variables}
            assert SPACE.decode(others | values) == architecture


def test_supernet_and_largest_of_each_kind_cover_every_alternative_once() -> None:
    assert SPACE.supernet == built(3, 3, 2, 6) and SPACE.supernet not in SPACE
    assert SPACE.largest_of_each_kind == [built(3, 0, 0, 6), built(3, 0, 1, 6), built(3, 1, 0, 6), built(3, 2, 0, 2)]
    fixed = SearchSpace(PlacedArchitecture, {"length": (1, 3), "place": (1,), "kind": (0, 1), "width": (4,)})
    assert (
        fixed.size == 2 and fixed.supernet == built(3, 1, 0, 4) and set(fixed) == {built(1, 1, 0, 4), built(3, 1, 0, 4)}
    )


def test_operators_stay_in_the_space_and_reach_all_of_it() -> None:
    rng = random.Random(0)
    found: set[Architecture] = set()
    for _ in range(300):
        first, second = SPACE.sample(rng), SPACE.sample(rng)
        children = mutate(SPACE, first, rng, 0.5), cross(SPACE, first, second, rng), neighbour(SPACE, first, rng)
        assert all(child in SPACE for child in children)
        assert neighbour(SPACE, first, rng) != first
        found.update(children)
        assert shrink(SPACE, first, rng, lambda entry: False) == SPACE.smallest
    assert found == DISTINCT


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_propose_every_architecture_once(name: str) -> None:
    strategy = build_strategy(
        name, space=SPACE, seed=0, is_feasible=lambda architecture: True, settings=SETTINGS, initial_architectures=()
    )
    proposed: set[Architecture] = set()
    for number in range(8 if name == "gp" else SPACE.size):  # the first 8 proposals of `gp` are random
        architecture = strategy.ask()
        assert architecture in DISTINCT and architecture not in proposed
        proposed.add(architecture)
        strategy.tell(architecture, float(number % 5))
    assert name == "gp" or (proposed == DISTINCT and strategy.ask() is None)


def test_values_with_a_meaning_must_not_be_missing() -> None:
    with pytest.raises(KeyError, match="width"):
        SPACE.decode({"length": 1, "place": 1})
