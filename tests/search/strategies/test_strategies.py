"""The contract that every strategy keeps."""

import json
import random
from collections.abc import Callable

import pytest

from nas.config.schema import STRATEGIES
from nas.models.fusion.pmf.architecture import GENES, PMFArchitecture
from nas.search.pareto import fronts
from nas.search.space import Architecture, SearchSpace
from nas.search.strategies.base import EvolutionConfig, Strategy
from nas.search.strategies.registry import build_strategy

SPACE = SearchSpace(PMFArchitecture, {**dict.fromkeys(GENES, (1, 2, 3, 4)), "fusion_layer": (0, 1)})
SMALL = SearchSpace(PMFArchitecture, {**dict.fromkeys(GENES, (1, 2)), "fusion_layer": (0,)})
FREE = SearchSpace(
    PMFArchitecture,
    {**dict.fromkeys(GENES, (1, 2)), "fusion_layer": (0, 1), "mapping_width": (4,)},
    {"query_prompts": "layer_and_direction"},
    num_layers=2,
)


FEW = SearchSpace(
    PMFArchitecture,
    {**dict.fromkeys(GENES, (1,)), "mapping_width": (4, 5, 6), "query_prompts": (1, 2, 3, 4)},
)
LARGE = SearchSpace(
    PMFArchitecture,
    {**dict.fromkeys(GENES, (1, 2, 3, 4)), "fusion_layer": (0,), "mapping_width": (1, 2)},
    {"query_prompts": "layer_and_direction", "query_context_prompts": "layer_and_direction"},
    num_layers=4,
)
COUNTS = {"gp": 14}
"""Proposals of the slow ones; it draws its first 8 at random."""


def build(
    name: str,
    space: SearchSpace = SPACE,
    seed: int = 0,
    is_feasible: Callable[[Architecture], bool] = lambda architecture: True,
    first: tuple[Architecture, ...] = (),
) -> Strategy:
    return build_strategy(
        name,
        space=space,
        seed=seed,
        is_feasible=is_feasible,
        evolution=EvolutionConfig(8, 3, 0.5, 0.4, 0.3, 8),
        first=first,
    )


def score(architecture: Architecture) -> float:
    sizes, _ = architecture.at(0)
    return sizes.query_prompts + sizes.mapping_width - architecture.fusion_layer


def ask(strategy: Strategy) -> Architecture:
    architecture = strategy.ask()
    assert architecture is not None
    return architecture


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_architecture_is_proposed_twice_and_the_end_of_the_space_is_said(name: str) -> None:
    for space in [FEW] if name == "gp" else [SMALL, FREE]:
        strategy = build(name, space)
        seen = []
        while (architecture := strategy.ask()) is not None:
            assert architecture in space
            seen.append(architecture)
            strategy.tell(architecture, len(seen) % 7)
        assert len(seen) == len(set(seen)) == space.size


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_feasible_architectures_are_proposed_even_where_they_are_rare(name: str) -> None:
    allowed = PMFArchitecture(1, 1, 2, 3, 4)
    strategy = build(name, is_feasible=lambda architecture: architecture == allowed)
    assert strategy.ask() == allowed
    assert strategy.ask() is None


@pytest.mark.parametrize("name", STRATEGIES)
def test_in_a_large_space_rare_feasible_ones_are_found_by_asking_of_few(name: str) -> None:
    """3e10 architectures, of which a few hundred are feasible."""
    asked: list[Architecture] = []

    def is_feasible(architecture: Architecture) -> bool:
        asked.append(architecture)
        return sum(LARGE.encode(architecture).values()) <= len(LARGE.encode(architecture)) + 2

    strategy = build(name, LARGE, is_feasible=is_feasible)
    assert not strategy.looks_at_all and build(name).looks_at_all
    found = []
    for _ in range(3):
        asked.clear()
        found.append(ask(strategy))
        strategy.tell(found[-1], 1.0)
        assert len(asked) < 1500
    assert len(set(found)) == 3 and all(map(is_feasible, found))


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_seed_and_scores_give_the_same_sequence(name: str) -> None:
    def sequence(seed: int) -> list[Architecture]:
        strategy, asked = build(name, seed=seed), []
        for _ in range(COUNTS.get(name, 30)):
            asked.append(ask(strategy))
            strategy.tell(asked[-1], score(asked[-1]))
        return asked

    assert sequence(1) == sequence(1)
    assert (sequence(1) == sequence(2)) == (name == "grid")  # which draws nothing


def fits(architecture: Architecture) -> bool:
    (sizes, _) = architecture.at(0)
    return sizes.mapping_width + sizes.query_prompts < 7


@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("space", [SPACE, FREE], ids=["shared", "free"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_with_the_state_of_another_goes_on_as_that_one(
    name: str, space: SearchSpace, objectives: int
) -> None:
    """In the middle of a generation, with one proposal that was not told yet."""

    def tell(strategy: Strategy, architecture: Architecture) -> None:
        strategy.tell(architecture, *(score(architecture), -architecture.fusion_layer)[:objectives])

    whole = build(name, space, is_feasible=fits)
    count = COUNTS.get(name, 26)
    cuts = {1, 8, count // 2, count - 5}
    states = {}
    asked: list[Architecture] = []
    for place in range(count):
        asked.append(ask(whole))
        if place in cuts:
            states[place] = json.dumps(whole.state())
        tell(whole, asked[-1])
    for cut, state in states.items():
        resumed = build(name, space, is_feasible=fits)
        resumed.restore(json.loads(state))
        for place in range(cut, count):
            if place > cut:
                assert ask(resumed) == asked[place]
            tell(resumed, asked[place])


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_parallel_workers_tell_late_and_in_another_order_does_no_harm(name: str) -> None:
    strategy, waiting, seen = build(name), [], []
    rng = random.Random(0)
    for _ in range(COUNTS.get(name, 40)):
        architecture = ask(strategy)
        seen.append(architecture)
        waiting.append(architecture)
        if len(waiting) == 5:
            strategy.tell(told := waiting.pop(rng.randrange(5)), score(told))
    assert len(set(seen)) == len(seen)


def test_a_used_strategy_takes_no_other_state() -> None:
    strategy = build("random")
    strategy.ask()
    with pytest.raises(ValueError, match="cannot take the state"):
        strategy.restore(build("random").state())


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_given_first_ones_come_first_where_they_fit(name: str) -> None:
    first = (PMFArchitecture(1, 1, 1, 1, 1), PMFArchitecture(0, 4, 4, 4, 4), PMFArchitecture(9, 1, 1, 1, 1))
    strategy = build(name, first=first, is_feasible=lambda architecture: architecture != first[1])
    assert ask(strategy) == first[0]
    assert ask(strategy) not in first


@pytest.mark.parametrize("name", ["evolution", "regularized_evolution", "nsga2", "tpe", "gp"])
def test_learning_strategies_find_better_ones_than_chance(name: str) -> None:
    count = COUNTS.get(name, 60)

    def mean_of_last(name: str, seed: int) -> float:
        strategy, scores = build(name, seed=seed), []
        for _ in range(count):
            architecture = ask(strategy)
            scores.append(score(architecture))
            strategy.tell(architecture, scores[-1])
        return sum(scores[-count // 3 :]) / (count // 3)

    seeds = range(2 if name == "gp" else 5)
    learned = [mean_of_last(name, seed) for seed in seeds]
    chance = [mean_of_last("random", seed) for seed in seeds]
    assert sum(learned) / len(seeds) > sum(chance) / len(seeds) + 0.5


@pytest.mark.parametrize("name", ["evolution", "nsga2", "tpe"])
def test_with_two_objectives_more_of_the_front_is_found_than_by_chance(name: str) -> None:
    def values(architecture: Architecture) -> tuple[float, float]:
        genes = list(architecture.values().values())
        return float(genes[1] + genes[2] * genes[4]), float(-genes[2] - genes[3] - genes[4])

    everyone = list(SPACE)
    best = {everyone[place] for place in fronts([values(entry) for entry in everyone])[0]}

    def found(name: str, seed: int) -> int:
        strategy = build(name, seed=seed)
        for _ in range(80):
            architecture = ask(strategy)
            strategy.tell(architecture, *values(architecture))
        return len(best & {Architecture.from_dict(entry) for entry in strategy.state()["proposed"]})

    assert sum(found(name, seed) for seed in range(3)) > 1.5 * sum(found("random", seed) for seed in range(3))


def test_a_grid_goes_from_coarse_to_fine() -> None:
    strategy = build(
        "grid",
        SearchSpace(PMFArchitecture, {**dict.fromkeys(GENES, (1,)), "mapping_width": (1, 2, 3, 4, 5)}),
    )
    assert [ask(strategy).mapping_width for _ in range(5)] == [1, 5, 3, 2, 4]
    strategy = build("grid", SPACE)
    corners = {ask(strategy) for _ in range(32)}
    assert corners == {entry for entry in SPACE if all(value in (0, 1, 4) for value in entry.values().values())}


def test_a_child_of_regularized_evolution_differs_from_its_parent_in_one_variable() -> None:
    rng = random.Random(0)
    for space in (SPACE, FREE):
        for _ in range(50):
            parent = space.sample(rng)
            first, second = space.encode(parent), space.encode(space.neighbour(parent, rng))
            changed = [name for name in first if name in second and first[name] != second[name]]
            assert len(changed) == 1
            assert set(first) == set(second) or changed == ["fusion_layer"]


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="there are evolution, regularized_evolution, nsga2, tpe, gp, random, grid"):
        build("annealing")
