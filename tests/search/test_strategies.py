"""The contract that every strategy keeps."""

from collections.abc import Callable

import pytest

from nas.config import STRATEGIES, EvolutionConfig
from nas.search import Strategy, build_strategy
from nas.space import GENES, Architecture, SearchSpace

SPACE = SearchSpace({**dict.fromkeys(GENES, (1, 2, 3, 4)), "fusion_layer": (0, 1)})
SMALL = SearchSpace({**dict.fromkeys(GENES, (1, 2)), "fusion_layer": (0,)})
FREE = SearchSpace(
    {**dict.fromkeys(GENES, (1, 2)), "fusion_layer": (0, 1), "mapping_width": (4,)},
    {"query_prompts": "layer_and_direction"},
    depth=2,
)


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
        evolution=EvolutionConfig(8, 3, 0.5, 0.4, 0.3),
        first=first,
    )


def score(architecture: Architecture) -> float:
    return architecture.query_prompts + architecture.mapping_width - architecture.fusion_layer


def ask(strategy: Strategy) -> Architecture:
    architecture = strategy.ask()
    assert architecture is not None
    return architecture


@pytest.mark.parametrize("space", [SMALL, FREE], ids=["shared", "free"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_no_architecture_is_proposed_twice_and_the_end_of_the_space_is_said(name: str, space: SearchSpace) -> None:
    strategy = build(name, space)
    seen = []
    while (architecture := strategy.ask()) is not None:
        assert architecture in space
        seen.append(architecture)
        strategy.tell(architecture, len(seen) % 7)
    assert len(seen) == len(set(seen)) == space.size


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_feasible_architectures_are_proposed_even_where_they_are_rare(name: str) -> None:
    allowed = Architecture(1, 1, 2, 3, 4)
    strategy = build(name, is_feasible=lambda architecture: architecture == allowed)
    assert strategy.ask() == allowed
    assert strategy.ask() is None


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_seed_and_scores_give_the_same_sequence(name: str) -> None:
    def sequence(seed: int) -> list[Architecture]:
        strategy, asked = build(name, seed=seed), []
        for _ in range(30):
            asked.append(ask(strategy))
            strategy.tell(asked[-1], score(asked[-1]))
        return asked

    assert sequence(1) == sequence(1)
    assert sequence(1) != sequence(2)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("cut", [1, 8, 15, 16, 21])
def test_a_resumed_strategy_goes_on_as_if_it_had_never_stopped(name: str, cut: int) -> None:
    def fits(architecture: Architecture) -> bool:
        return architecture.mapping_width + architecture.query_prompts < 7

    whole, asked = build(name, is_feasible=fits), []
    for _ in range(26):
        asked.append(ask(whole))
        whole.tell(asked[-1], score(asked[-1]))
    resumed = build(name, is_feasible=fits)
    for architecture in asked[:cut]:
        resumed.tell(architecture, score(architecture))
    for architecture in asked[cut:]:
        assert ask(resumed) == architecture
        resumed.tell(architecture, score(architecture))


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_given_first_ones_come_first_where_they_fit(name: str) -> None:
    first = (Architecture(1, 1, 1, 1, 1), Architecture(0, 4, 4, 4, 4), Architecture(9, 1, 1, 1, 1))
    strategy = build(name, first=first, is_feasible=lambda architecture: architecture != first[1])
    assert ask(strategy) == first[0]
    assert ask(strategy) not in first


@pytest.mark.parametrize("name", ["evolution", "tpe"])
def test_learning_strategies_find_better_ones_than_chance(name: str) -> None:
    def mean_of_last(name: str, seed: int) -> float:
        strategy, scores = build(name, seed=seed), []
        for _ in range(60):
            architecture = ask(strategy)
            scores.append(score(architecture))
            strategy.tell(architecture, scores[-1])
        return sum(scores[-20:]) / 20

    learned = [mean_of_last(name, seed) for seed in range(5)]
    chance = [mean_of_last("random", seed) for seed in range(5)]
    assert sum(learned) / 5 > sum(chance) / 5 + 0.5


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="there are evolution, tpe and random"):
        build("annealing")
