import itertools
import json
import pickle
import random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.models.fusion.pmf.architecture import GENES, DirectionSizes, PMFArchitecture
from nas.search.space import GRANULARITIES, Architecture, Granularity, SearchSpace, format_gene
from nas.search.space.operators import cross, mutate, neighbour, shrink
from nas.search.trial import job_seed

CHOICES = dict.fromkeys(GENES, (1, 2, 3))


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    choices: dict[str, tuple[int, ...]] = {}
    for gene in PMFArchitecture.genes:
        values = st.integers(min_value=gene.smallest, max_value=6 if gene.is_layer else min(gene.largest, 20))
        choices[gene.name] = tuple(sorted(draw(st.sets(values, min_size=1, max_size=4))))
    per = {gene: draw(st.sampled_from(GRANULARITIES)) for gene in GENES[1:]}
    return SearchSpace(PMFArchitecture, choices, per, num_layers=choices["fusion_layer"][-1] + draw(st.integers(1, 2)))


@st.composite
def small_spaces(draw: st.DrawFn) -> SearchSpace:
    """Draw spaces that are small enough to enumerate."""
    few = st.sets(st.integers(1, 9), min_size=1, max_size=2)
    choices = {gene: tuple(sorted(draw(few))) for gene in GENES}
    choices["fusion_layer"] = draw(st.sampled_from([(0,), (1,), (0, 1)]))
    free = draw(st.permutations(GENES[1:]))[:2]
    return SearchSpace(
        PMFArchitecture, choices, {gene: draw(st.sampled_from(GRANULARITIES)) for gene in free}, num_layers=2
    )


@given(spaces(), st.integers(0, 1000))
def test_sampling_mutation_and_crossover_stay_in_the_space(space: SearchSpace, seed: int) -> None:
    rng = random.Random(seed)
    first, second = space.sample(rng), space.sample(rng)
    for child in (first, second, mutate(space, first, rng, 0.5), cross(space, first, second, rng)):
        assert child in space


@given(spaces(), st.integers(0, 1000))
def test_every_variable_of_a_child_comes_from_a_parent_that_has_it(space: SearchSpace, seed: int) -> None:
    rng = random.Random(seed)
    first, second = space.sample(rng), space.sample(rng)
    child = cross(space, first, second, rng)
    encoded = [space.encode(first), space.encode(second)]
    for name, value in space.encode(child).items():
        assert value in [parent[name] for parent in encoded if name in parent]


@given(spaces(), st.integers(0, 1000))
def test_shrinking_stops_at_the_first_feasible_architecture(space: SearchSpace, seed: int) -> None:
    def size(architecture: Architecture) -> int:
        return len([name for name in space.encode(architecture) if name != "fusion_layer"]) + sum(
            value for name, value in space.encode(architecture).items() if name != "fusion_layer"
        )

    rng = random.Random(seed)
    architecture = space.sample(rng)
    allowed = rng.randint(size(space.smallest), size(architecture))
    found = shrink(space, architecture, rng, lambda entry: size(entry) <= allowed)
    assert found in space and size(found) <= allowed
    assert shrink(space, architecture, rng, lambda entry: True) == architecture
    assert shrink(space, architecture, rng, lambda entry: False) == space.smallest


@given(small_spaces())
def test_size_counts_the_architectures_of_a_space(space: SearchSpace) -> None:
    everything = list(space)
    assert len(everything) == len(set(everything)) == space.size
    assert space.largest in everything and space.smallest in everything


@given(spaces(), st.integers(0, 1000))
def test_decoding_inverts_encoding(space: SearchSpace, seed: int) -> None:
    architecture = space.sample(random.Random(seed))
    values = space.encode(architecture)
    first = architecture.first_layer
    assert set(values) == {variable.name for variable in space.variables if variable.is_active(first)}
    assert space.decode(values) == architecture
    # Values of inactive variables have no effect.
    for filler in range(2):
        others = {variable.name: variable.choices[-filler] for variable in space.variables}
        assert space.decode(others | values) == architecture
    assert space.num_layers is not None
    for index in range(space.num_layers - first):
        for direction, variable in itertools.product(range(2), space.variables[1:]):
            if variable.layer in (None, first + index) and variable.direction in (None, direction):
                assert architecture.value_at(variable.gene, index)[direction] == values[variable.name]


@given(spaces(), st.integers(0, 1000))
def test_the_largest_contains_every_architecture(space: SearchSpace, seed: int) -> None:
    architecture = space.sample(random.Random(seed))
    assert space.largest.first_layer <= architecture.first_layer
    assert space.num_layers is not None
    for index, gene in itertools.product(range(space.num_layers - architecture.first_layer), GENES[1:]):
        (least, _), (most, _) = space.smallest.value_at(gene, 0), space.largest.value_at(gene, 0)
        for value in architecture.value_at(gene, index):
            assert least <= value <= most


@given(spaces(), st.integers(0, 1000))
def test_architectures_survive_json_and_pickle_and_spaces_pickle(space: SearchSpace, seed: int) -> None:
    architecture = space.sample(random.Random(seed))
    assert Architecture.from_dict(json.loads(json.dumps(architecture.as_dict()))) == architecture
    assert pickle.loads(pickle.dumps(architecture)) == architecture
    assert pickle.loads(pickle.dumps(space)) == space


def test_equal_values_per_layer_equal_one_value_per_model() -> None:
    free = PMFArchitecture(1, ((4, 4), (4, 4)), 2, ((0, 3), (0, 3)), 8)
    plain = PMFArchitecture(1, 4, 2, ((0, 3), (0, 3)), ((8, 8), (8, 8)))
    assert free == plain and hash(free) == hash(plain)
    assert free.query_prompts == 4 and free.layer_count == 2 and PMFArchitecture(1, 4, 2, 0, 8).layer_count is None
    assert free.at(1) == (DirectionSizes(4, 2, 0, 8), DirectionSizes(4, 2, 3, 8))


def test_genes_are_formatted_as_briefly_as_possible() -> None:
    assert str(PMFArchitecture(1, 4, ((1, 1), (2, 2)), ((0, 3), (0, 3)), ((8, 8), (8, 9)))) == (
        "L_f=1 M_qp=4 M_qcp=1,2 M_fcp=0/3 h=8/8,8/9"
    )
    assert format_gene(7) == "7"


def test_architectures_are_sorted_by_layer_gene_then_by_the_other_genes() -> None:
    chosen = [
        PMFArchitecture(1, 4, ((1, 1), (2, 2)), 0, 8),
        PMFArchitecture(1, 4, 1, 0, 8),
        PMFArchitecture(0, 9, 9, 9, 9),
    ]
    assert sorted(chosen) == [chosen[2], chosen[1], chosen[0]]


def test_genes_with_different_numbers_of_layers_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"different numbers of layers; expected one number, got \[1, 2\]"):
        PMFArchitecture(0, ((1, 2), (1, 3)), ((1, 2),), 0, 8)


@pytest.mark.parametrize(
    "outsider",
    [
        PMFArchitecture(4, 1, 1, 1, 1),
        PMFArchitecture(1, 4, 1, 1, 1),
        PMFArchitecture(1, ((1, 2),) * 3, 1, 1, 1),  # directions share query prompts
        PMFArchitecture(1, 1, 1, ((1, 2), (1, 2), (1, 3)), 1),  # layers share fusion context prompts
        PMFArchitecture(1, ((1, 1), (2, 2)), 1, 1, 1),  # another number of layers
    ],
    ids=str,
)
def test_architectures_outside_the_space_are_rejected(outsider: Architecture) -> None:
    space = SearchSpace(
        PMFArchitecture,
        {**CHOICES, "fusion_layer": (1, 2)},
        {"query_prompts": "layer", "fusion_context_prompts": "direction"},
        num_layers=4,
    )
    assert PMFArchitecture(1, ((1, 1), (2, 2), (3, 3)), 1, ((1, 2),) * 3, 1) in space
    assert outsider not in space and "a text" not in space
    with pytest.raises(ValueError, match="is not in the search space"):
        space.encode(outsider)


def test_variables_are_named_by_gene_layer_and_direction() -> None:
    per: dict[str, Granularity] = {"query_prompts": "layer", "mapping_width": "layer_and_direction"}
    space = SearchSpace(PMFArchitecture, {**CHOICES, "fusion_layer": (1, 2)}, per, num_layers=3)
    assert [variable.name for variable in space.variables] == [
        "fusion_layer",
        *("query_prompts.layer_1", "query_prompts.layer_2"),
        "query_context_prompts",
        "fusion_context_prompts",
        *("mapping_width.layer_1.image_to_text", "mapping_width.layer_1.text_to_image"),
        *("mapping_width.layer_2.image_to_text", "mapping_width.layer_2.text_to_image"),
    ]
    assert space.size == 3 * 3 * (3**2 * 3**4 + 3 * 3**2)


def test_mutation_with_probability_zero_changes_nothing() -> None:
    for per in get_args(Granularity):
        space = SearchSpace(PMFArchitecture, CHOICES, dict.fromkeys(GENES[1:], per), num_layers=4)
        architecture = space.sample(random.Random(0))
        assert mutate(space, architecture, random.Random(0), 0.0) == architecture


@pytest.mark.parametrize("values", [(), (2, 1), (1, 1), (-1, 1)])
def test_invalid_choices_are_rejected(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="query_prompts: expected ascending, distinct values of at least 0"):
        SearchSpace(PMFArchitecture, {**dict.fromkeys(GENES, (1, 2)), "query_prompts": values})


@given(spaces(), st.randoms(use_true_random=False))
def test_a_space_around_an_architecture_contains_it(space: SearchSpace, rng: random.Random) -> None:
    architecture = space.sample(rng)
    around = SearchSpace.around(architecture, space.num_layers or architecture.first_layer + 1)
    assert architecture in around
    if architecture.layer_count is None:
        assert list(around) == [architecture]


def test_values_per_layer_require_the_number_of_layers() -> None:
    with pytest.raises(ValueError, match="mapping_width: several values per model require num_layers above 3"):
        SearchSpace(PMFArchitecture, CHOICES, {"mapping_width": "layer"})
    with pytest.raises(ValueError, match="got 3"):
        SearchSpace(PMFArchitecture, CHOICES, {"mapping_width": "direction"}, num_layers=3)
    with pytest.raises(ValueError, match="unsupported granularity; expected any of"):
        SearchSpace(PMFArchitecture, CHOICES, {"fusion_layer": "layer"}, num_layers=4)


@pytest.mark.parametrize("granularity", get_args(Granularity))
def test_a_neighbour_differs_in_exactly_one_variable(granularity: Granularity) -> None:
    rng = random.Random(0)
    space = SearchSpace(PMFArchitecture, {**CHOICES, "fusion_layer": (0, 1)}, {"query_prompts": granularity}, 2)
    for _ in range(50):
        parent = space.sample(rng)
        before, after = space.encode(parent), space.encode(neighbour(space, parent, rng))
        changed = [name for name in before if name in after and before[name] != after[name]]
        assert len(changed) == 1
        assert set(before) == set(after) or changed == ["fusion_layer"]


READOUTS = {"image_readout": (0, 1), "text_readout": (0, 1)}
PAPERS = PMFArchitecture(1, 1, 1, 1, 1)
PAIRS = list(itertools.product((0, 1), (0, 1)))


def test_alternatives_have_names_in_files_and_messages() -> None:
    architecture = PMFArchitecture(1, 2, 3, 2, 1, text_readout=1)
    assert str(architecture) == "L_f=1 M_qp=2 M_qcp=3 M_fcp=2 h=1 R_txt=mean"
    assert architecture.summary() == "fusion from layer 1, prompts 2/3/2, width 1, text mean"
    values = architecture.as_dict()
    assert (values["image_readout"], values["text_readout"]) == ("pooled", "mean")
    assert Architecture.from_dict(values) == architecture
    for wrong in ("cls", 1, None, ["mean"]):
        with pytest.raises(ValueError, match="text_readout: expected one of pooled, mean, got"):
            Architecture.from_dict(values | {"text_readout": wrong})


def test_the_papers_alternatives_are_those_of_files_and_spaces_that_name_none() -> None:
    values = {name: value for name, value in PAPERS.as_dict().items() if name not in READOUTS}
    assert Architecture.from_dict(values) == PAPERS == PMFArchitecture(1, 1, 1, 1, 1, 0, 0)
    assert str(PAPERS) == "L_f=1 M_qp=1 M_qcp=1 M_fcp=1 h=1" and PAPERS.stated() == values
    space = SearchSpace(PMFArchitecture, CHOICES)
    assert PAPERS in space and PMFArchitecture(1, 1, 1, 1, 1, 1, 0) not in space
    assert {variable.gene for variable in space.variables} == set(GENES) and space.supernet == space.largest
    others = [PMFArchitecture(1, 1, 1, 1, 1, *pair) for pair in PAIRS]
    assert len({job_seed(0, "full", entry) for entry in others}) == 4


def test_alternatives_are_chosen_like_sizes_and_the_supernet_has_all_of_them() -> None:
    space = SearchSpace(PMFArchitecture, {**dict.fromkeys(GENES, (1, 2)), **READOUTS})
    assert space.size == 2**7 and [variable.name for variable in space.variables[-2:]] == list(READOUTS)
    assert space.supernet == PMFArchitecture(1, 2, 2, 2, 2, 2, 2) and space.supernet not in space
    assert str(space.supernet).endswith("R_img=pooled+mean R_txt=pooled+mean")
    assert space.largest_of_each_kind == [PMFArchitecture(1, 2, 2, 2, 2, *pair) for pair in PAIRS]
    fixed = SearchSpace(PMFArchitecture, {**CHOICES, "text_readout": (1,)})
    assert fixed.supernet == fixed.largest == PMFArchitecture(1, 3, 3, 3, 3, 0, 1)
    assert fixed.decode(fixed.encode(fixed.smallest)) == fixed.smallest and PAPERS not in fixed


def test_narrowed_space_has_one_value_of_a_gene_where_it_allows_it() -> None:
    space = SearchSpace(PMFArchitecture, {**CHOICES, **READOUTS})
    narrowed = space.narrowed({"text_readout": 1, "mapping_width": 999, "another_family": 1})
    assert narrowed.choices == {**space.choices, "text_readout": (1,)}
    assert narrowed.size == space.size // 2
    assert set(narrowed) == {entry for entry in space if entry.values()["text_readout"] == "mean"}
