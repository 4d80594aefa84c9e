"""The contract that every search strategy keeps."""

import random
import subprocess
import sys
from collections.abc import Callable

import pytest

from nas.models.fusion.pmf.architecture import GENES, PMFArchitecture
from nas.search.pareto import fronts
from nas.search.space import Architecture, SearchSpace
from nas.search.strategies.base import EvolutionSettings, Strategy
from nas.search.strategies.registry import STRATEGIES, build_strategy

SPACE = SearchSpace(PMFArchitecture, {**dict.fromkeys(GENES, (1, 2, 3, 4)), "fusion_layer": (0, 1)})
SMALL = SearchSpace(PMFArchitecture, {**dict.fromkeys(GENES, (1, 2)), "fusion_layer": (0,)})
PER_LAYER = SearchSpace(
    PMFArchitecture,
    {**dict.fromkeys(GENES, (1, 2)), "fusion_layer": (0, 1), "mapping_width": (4,)},
    {"query_prompts": "layer_and_direction"},
    num_layers=2,
)
TINY = SearchSpace(
    PMFArchitecture,
    {**dict.fromkeys(GENES, (1,)), "mapping_width": (4, 5, 6), "query_prompts": (1, 2, 3, 4)},
)
LARGE = SearchSpace(
    PMFArchitecture,
    {**dict.fromkeys(GENES, (1, 2, 3, 4)), "fusion_layer": (0,), "mapping_width": (1, 2)},
    {"query_prompts": "layer_and_direction", "query_context_prompts": "layer_and_direction"},
    num_layers=4,
)
SETTINGS = EvolutionSettings(
    population=8,
    parents=3,
    crossover_fraction=0.5,
    mutation_fraction=0.4,
    mutation_probability=0.3,
    proposal_pool=8,
)
COUNTS = {"gp": 14}
"""Proposals of slow strategies; the first 8 of `gp` are random."""


def build(
    name: str,
    space: SearchSpace = SPACE,
    *,
    seed: int = 0,
    is_feasible: Callable[[Architecture], bool] = lambda architecture: True,
    initial_architectures: tuple[Architecture, ...] = (),
) -> Strategy:
    return build_strategy(
        name,
        space=space,
        seed=seed,
        is_feasible=is_feasible,
        settings=SETTINGS,
        initial_architectures=initial_architectures,
    )


def score(architecture: Architecture) -> float:
    assert isinstance(architecture, PMFArchitecture)
    sizes, _ = architecture.at(0)
    return sizes.query_prompts + sizes.mapping_width - architecture.fusion_layer


def ask(strategy: Strategy) -> Architecture:
    architecture = strategy.ask()
    assert architecture is not None
    return architecture


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_architecture_is_proposed_once_and_then_none(name: str) -> None:
    for space in [TINY] if name == "gp" else [SMALL, PER_LAYER]:
        strategy = build(name, space)
        proposed = []
        while (architecture := strategy.ask()) is not None:
            assert architecture in space
            proposed.append(architecture)
            strategy.tell(architecture, len(proposed) % 7)
        assert len(proposed) == len(set(proposed)) == space.size


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_feasible_architectures_are_proposed_even_if_rare(name: str) -> None:
    allowed = PMFArchitecture(1, 1, 2, 3, 4)
    strategy = build(name, is_feasible=lambda architecture: architecture == allowed)
    assert strategy.ask() == allowed
    assert strategy.ask() is None


@pytest.mark.parametrize("name", STRATEGIES)
def test_rare_feasible_architectures_of_a_large_space_are_found_in_few_checks(name: str) -> None:
    """A few hundred of 3e10 architectures are feasible."""
    checked: list[Architecture] = []

    def is_feasible(architecture: Architecture) -> bool:
        checked.append(architecture)
        return sum(LARGE.encode(architecture).values()) <= len(LARGE.encode(architecture)) + 2

    strategy = build(name, LARGE, is_feasible=is_feasible)
    assert not strategy.is_exhaustive
    assert build(name).is_exhaustive
    found = []
    for _ in range(3):
        checked.clear()
        found.append(ask(strategy))
        strategy.tell(found[-1], 1.0)
        assert len(checked) < 1500
    assert len(set(found)) == 3
    assert all(map(is_feasible, found))


@pytest.mark.parametrize("name", STRATEGIES)
def test_same_seed_and_scores_give_the_same_sequence(name: str) -> None:
    def sequence(seed: int) -> list[Architecture]:
        strategy, proposed = build(name, seed=seed), []
        for _ in range(COUNTS.get(name, 30)):
            proposed.append(ask(strategy))
            strategy.tell(proposed[-1], score(proposed[-1]))
        return proposed

    assert sequence(1) == sequence(1)
    assert (sequence(1) == sequence(2)) == (name == "grid")  # the grid draws nothing


def fits(architecture: Architecture) -> bool:
    assert isinstance(architecture, PMFArchitecture)
    (sizes, _) = architecture.at(0)
    return sizes.mapping_width + sizes.query_prompts < 7


@pytest.mark.parametrize(
    ("name", "objectives"),
    [
        pytest.param(name, count, marks=[pytest.mark.long] if name == "gp" and count > 1 else [])
        for name in STRATEGIES
        for count in (1, 2)
    ],
)
@pytest.mark.parametrize("space", [SPACE, PER_LAYER], ids=["shared", "per-layer"])
def test_replayed_values_resume_a_strategy(name: str, space: SearchSpace, objectives: int) -> None:
    """Resumed in the middle of a generation, while the last proposal is still being scored."""

    def tell(strategy: Strategy, architecture: Architecture) -> None:
        values = score(architecture), -float(architecture.first_layer)
        strategy.tell(architecture, *values[:objectives])

    uninterrupted = build(name, space, is_feasible=fits)
    count = COUNTS.get(name, 26)
    proposed: list[Architecture] = []
    for _ in range(count):
        proposed.append(ask(uninterrupted))
        tell(uninterrupted, proposed[-1])
    for running in (1, 8, count // 2, count - 5):
        resumed = build(name, space, is_feasible=fits)
        for architecture in proposed[:running]:
            tell(resumed, architecture)
        resumed.mark_proposed(proposed[running])
        tell(resumed, proposed[running])
        for architecture in proposed[running + 1 :]:
            assert ask(resumed) == architecture
            tell(resumed, architecture)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_running_candidate_is_not_proposed_again_after_resume(name: str) -> None:
    first = ask(build(name))
    resumed = build(name)
    resumed.mark_proposed(first)
    assert resumed.was_proposed(first)
    assert ask(resumed) != first


@pytest.mark.parametrize("name", STRATEGIES)
def test_late_and_reordered_values_cause_no_duplicates(name: str) -> None:
    strategy, pending, proposed = build(name), [], []
    rng = random.Random(0)
    for _ in range(COUNTS.get(name, 40)):
        architecture = ask(strategy)
        proposed.append(architecture)
        pending.append(architecture)
        if len(pending) == 5:
            finished = pending.pop(rng.randrange(5))
            strategy.tell(finished, score(finished))
    assert len(set(proposed)) == len(proposed)


@pytest.mark.parametrize("name", STRATEGIES)
def test_initial_architectures_are_proposed_first_if_feasible(name: str) -> None:
    initial = (PMFArchitecture(1, 1, 1, 1, 1), PMFArchitecture(0, 4, 4, 4, 4), PMFArchitecture(9, 1, 1, 1, 1))
    strategy = build(name, initial_architectures=initial, is_feasible=lambda architecture: architecture != initial[1])
    assert ask(strategy) == initial[0]
    assert ask(strategy) not in initial


@pytest.mark.parametrize("name", ["evolution", "regularized_evolution", "nsga2", "tpe", "gp"])
def test_learning_strategies_beat_random_search(name: str) -> None:
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
    by_chance = [mean_of_last("random", seed) for seed in seeds]
    assert sum(learned) / len(seeds) > sum(by_chance) / len(seeds) + 0.5


@pytest.mark.parametrize("name", ["evolution", "nsga2", "tpe"])
def test_multi_objective_strategies_find_more_of_the_front_than_random_search(name: str) -> None:
    def values(architecture: Architecture) -> tuple[float, float]:
        genes = list(SPACE.encode(architecture).values())
        return float(genes[1] + genes[2] * genes[4]), float(-genes[2] - genes[3] - genes[4])

    everything = list(SPACE)
    front = {everything[index] for index in fronts([values(entry) for entry in everything])[0]}

    def found(name: str, seed: int) -> int:
        strategy, proposed = build(name, seed=seed), set()
        for _ in range(80):
            architecture = ask(strategy)
            proposed.add(architecture)
            strategy.tell(architecture, *values(architecture))
        return len(front & proposed)

    assert sum(found(name, seed) for seed in range(3)) > 1.5 * sum(found("random", seed) for seed in range(3))


def test_grid_refines_from_coarse_to_fine() -> None:
    line = SearchSpace(PMFArchitecture, {**dict.fromkeys(GENES, (1,)), "mapping_width": (1, 2, 3, 4, 5)})
    strategy = build("grid", line)
    assert [line.encode(ask(strategy))["mapping_width"] for _ in range(5)] == [1, 5, 3, 2, 4]
    strategy = build("grid", SPACE)
    corners = {ask(strategy) for _ in range(32)}
    assert corners == {entry for entry in SPACE if all(value in (0, 1, 4) for value in SPACE.encode(entry).values())}


def test_unknown_strategy_names_the_registered_ones() -> None:
    with pytest.raises(
        KeyError, match=r"no search strategy 'annealing'; registered: evolution, .*, nsga2, tpe, gp, random, grid"
    ):
        build("annealing")


def test_listing_and_importing_strategies_does_not_import_optuna() -> None:
    code = (
        "import sys, nas.search.strategies.registry as registry\n"
        "assert 'tpe' in registry.STRATEGIES.names()\n"
        "assert not {'optuna', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
