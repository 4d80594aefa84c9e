import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.space import GENES, SMALLEST_LEGAL, Architecture, SearchSpace


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    choices = {}
    for gene in GENES:
        values = st.integers(min_value=SMALLEST_LEGAL[gene], max_value=20)
        choices[gene] = tuple(sorted(draw(st.sets(values, min_size=1, max_size=4))))
    return SearchSpace(choices)


@given(spaces(), st.integers(0, 1000))
def test_sampling_mutation_and_crossover_stay_in_the_space(space: SearchSpace, seed: int) -> None:
    rng = random.Random(seed)
    first, second = space.sample(rng), space.sample(rng)
    for child in (first, second, space.mutate(first, rng, 0.5), space.cross(first, second, rng)):
        assert child in space


@given(spaces())
def test_a_space_holds_as_many_architectures_as_it_says(space: SearchSpace) -> None:
    everyone = list(space)
    assert len(everyone) == len(set(everyone)) == space.size
    assert space.largest in space and space.smallest in space


@given(spaces(), st.integers(0, 1000))
def test_the_largest_contains_every_architecture(space: SearchSpace, seed: int) -> None:
    architecture = space.sample(random.Random(seed))
    assert space.largest.fusion_layer <= architecture.fusion_layer
    for gene in GENES[1:]:
        assert getattr(space.smallest, gene) <= getattr(architecture, gene) <= getattr(space.largest, gene)


def test_mutation_with_probability_zero_changes_nothing() -> None:
    space = SearchSpace(dict.fromkeys(GENES, (1, 2, 3)))
    architecture = Architecture(1, 2, 3, 1, 2)
    assert space.mutate(architecture, random.Random(0), 0.0) == architecture


@pytest.mark.parametrize("values", [(), (2, 1), (1, 1), (0, 1)])
def test_unusable_values_are_refused(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="query_prompts: values must be ascending"):
        SearchSpace({**dict.fromkeys(GENES, (1, 2)), "query_prompts": values})
