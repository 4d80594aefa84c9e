"""Samplers of the architectures of a supernet step."""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from nas.common.errors import BudgetError
from nas.config.choices import SAMPLINGS
from nas.models.fusion.pmf.architecture import GENES, PMFArchitecture
from nas.search.space import Architecture, SearchSpace
from nas.training.supernet_sampling import Sampler, balanced_shares, build_sampler, sample_feasible

CHOICES = {
    "fusion_layer": (3, 4, 5),
    "query_prompts": (1, 2, 4, 8),
    "query_context_prompts": (0, 2, 4, 8),
    "fusion_context_prompts": (0, 2, 4, 8),
    "mapping_width": (48, 96, 192, 384),
}
SPACE = SearchSpace(PMFArchitecture, CHOICES)
FREE = SearchSpace(PMFArchitecture, CHOICES, dict.fromkeys(GENES[1:], "layer"), num_layers=6)


def build(
    name: str,
    space: SearchSpace = SPACE,
    seed: int = 0,
    is_feasible: Callable[[Architecture], bool] = lambda architecture: True,
) -> Sampler:
    return build_sampler(name, space=space, count=4, seed=seed, is_feasible=is_feasible)


@pytest.mark.parametrize("space", [SPACE, FREE], ids=["shared", "free"])
@pytest.mark.parametrize("name", SAMPLINGS)
def test_step_depends_on_its_number_and_the_seed_only(name: str, space: SearchSpace) -> None:
    forwards = [build(name, space).step(number) for number in range(30)]
    sampler = build(name, space)
    backwards = [sampler.step(number) for number in range(29, -1, -1)]
    assert forwards == backwards[::-1]
    assert forwards != [build(name, space, seed=1).step(number) for number in range(30)]
    assert all(entry in space for step in forwards for entry in step) and {len(step) for step in forwards} == {4}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_only_feasible_architectures_are_drawn(name: str) -> None:
    def is_feasible(architecture: Architecture) -> bool:
        return architecture.first_layer > 3 and architecture.values()["mapping_width"] != 384

    sampler = build(name, is_feasible=is_feasible)
    assert all(is_feasible(entry) for number in range(50) for entry in sampler.step(number))
    with pytest.raises(BudgetError, match=r"not even the smallest \("):
        build(name, is_feasible=lambda architecture: False).step(0)


def test_smallest_architecture_is_drawn_if_no_other_is_feasible() -> None:
    assert sample_feasible(SPACE, random.Random(0), lambda entry: entry == SPACE.smallest) == SPACE.smallest


def test_few_feasibility_checks_find_varied_architectures_in_a_nearly_infeasible_space() -> None:
    checks = 0

    def is_feasible(architecture: Architecture) -> bool:
        nonlocal checks
        checks += 1
        values = FREE.encode(architecture)
        return sum(values[name] > FREE.encode(FREE.smallest).get(name, 0) for name in values) <= 2

    drawn = [sample_feasible(FREE, random.Random(seed), is_feasible) for seed in range(20)]
    assert all(is_feasible(entry) for entry in drawn) and len(set(drawn)) > 10
    assert checks < 20 * 120


def test_sandwich_starts_with_the_largest_and_smallest_feasible_architectures() -> None:
    first, second, *_ = build("sandwich").step(7)
    assert (first, second) == (SPACE.largest, SPACE.smallest)
    (largest, *_) = build("sandwich", is_feasible=lambda entry: entry.values()["query_prompts"] != 8).step(7)
    assert largest == PMFArchitecture(3, 4, 4, 4, 192)
    (_, least, *_) = build("sandwich", is_feasible=lambda entry: entry != SPACE.smallest).step(7)
    assert least != SPACE.smallest and least in SPACE


def test_every_balanced_block_contains_each_value_by_its_share() -> None:
    sampler = build("balanced", FREE)
    variable = next(entry for entry in FREE.variables if entry.name == "query_prompts.layer_5")
    shares = balanced_shares(variable)
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([1 / 8 + 1 / 16, 1 / 8 + 1 / 16, 1 / 8 + 2 / 16, 1 / 8 + 4 / 16])
    for block in range(5):
        draws = [sampler.draw(32 * block + place) for place in range(32)]
        counts = Counter(FREE.encode(entry)[variable.name] for entry in draws)
        for value, share in zip(variable.choices, shares, strict=True):
            assert abs(counts[value] - 32 * share) <= 1
        assert len(set(draws)) > 16


def test_balanced_draws_over_many_blocks_match_the_shares() -> None:
    sampler = build("balanced")
    counts = Counter(sampler.draw(number).first_layer for number in range(32 * 60))
    assert all(count / (32 * 60) == pytest.approx(1 / 3, abs=0.01) for count in counts.values())
