"""PMF-Bench: which architectures are in the table, and what strategies are compared on."""

import math
import random
from pathlib import Path

import pytest

from benchmarks.pmf_bench.landscapes import Function, cross_validated, functions, surrogate, tabular
from benchmarks.pmf_bench.make import architectures
from benchmarks.pmf_bench.table import Row, Table, read_table
from nas.config.load import load_config
from nas.models.fusion.pmf.architecture import GENES, PMFArchitecture
from nas.search.space import Architecture
from tests.support.paths import REPOSITORY

SPACE = load_config(REPOSITORY / "search_spaces" / "demo.yaml").space
DEFAULT = PMFArchitecture(4, 4, 4, 4, 192)
NOISE = 0.008


def truth(architecture: Architecture) -> float:
    layer, *sizes = (math.log2(1 + value) for value in architecture.values().values() if isinstance(value, int))
    return 0.5 - 0.1 * abs(layer - 2.1) + 0.01 * sizes[0] + 0.005 * sizes[3] - 0.002 * sizes[0] * sizes[1]


@pytest.fixture(scope="module")
def table() -> Table:
    """As the real one, of a function with noise."""
    rng = random.Random(0)
    rows = []
    for architecture in architectures(SPACE, DEFAULT, lambda entry: hash(entry) % 97):
        for seed in (0, 1):
            value = truth(architecture) + rng.gauss(0, NOISE)
            rows.append(Row(architecture, seed, {"accuracy": value}, {"accuracy": value}, 1, 1, 1, 1.0))
    return Table({"recipe": "none"}, rows)


def test_corners_and_default_are_in_it_and_the_rest_is_spread_over_layers_and_sizes() -> None:
    def size(entry: Architecture) -> int:
        (sizes, _) = entry.at(0)
        return 100 * sizes.mapping_width + sizes.query_prompts

    chosen = architectures(SPACE, DEFAULT, size)
    assert len(chosen) == len(set(chosen)) == 160 and DEFAULT in chosen
    ends = {gene: (values[0], values[-1]) for gene, values in SPACE.choices.items()}
    corners = [entry for entry in SPACE if all(getattr(entry, gene) in ends[gene] for gene in GENES)]
    assert len(corners) == 32 and set(corners) <= set(chosen)
    for layer in (3, 4, 5):
        of_layer = [entry for entry in chosen if entry.fusion_layer == layer]
        assert len(of_layer) in (53, 54)
        widths = [sum(size(entry) // 100 == width for entry in of_layer) for width in SPACE.choices["mapping_width"]]
        assert min(widths) >= 9


def test_a_table_survives_its_file_and_knows_its_noise(table: Table, tmp_path: Path) -> None:
    table.write(tmp_path / "table.json")
    again = read_table(tmp_path / "table.json")
    assert again.rows == table.rows and again.made_with == table.made_with
    assert again.seed_deviation("accuracy") == pytest.approx(NOISE, rel=0.15)
    means = again.means("accuracy")
    assert len(means) == 160 and again.means("accuracy", seeds=(0, 2)) == {}
    first = again.by_architecture[DEFAULT]
    assert means[DEFAULT] == pytest.approx((first[0].validation["accuracy"] + first[1].validation["accuracy"]) / 2)


def test_the_surrogate_answers_for_the_whole_space_with_the_noise_of_the_table(table: Table) -> None:
    landscape = surrogate(table)
    everyone = list(SPACE)
    errors = [landscape.mean(entry) - truth(entry) for entry in everyone]
    assert max(map(abs, errors)) < 3 * NOISE and sum(map(abs, errors)) / len(errors) < NOISE / 2
    assert landscape.noise == pytest.approx(NOISE, rel=0.2)
    assert sum(landscape.mean(entry) >= landscape.top for entry in everyone) == 7
    assert landscape.best == max(landscape.mean(entry) for entry in everyone)
    assert cross_validated(table, folds=4)["kendall_tau"] > 0.6


def test_an_evaluation_is_noisy_and_the_same_twice(table: Table) -> None:
    landscape = tabular(table)
    assert landscape.evaluate(DEFAULT, 3) == landscape.evaluate(DEFAULT, 3) != landscape.evaluate(DEFAULT, 4)
    values = [landscape.evaluate(DEFAULT, seed) for seed in range(300)]
    mean = sum(values) / 300
    assert mean == pytest.approx(landscape.mean(DEFAULT), abs=4 * landscape.noise / math.sqrt(300))
    outsider = next(entry for entry in SPACE if entry not in table.by_architecture)
    assert landscape.knows(DEFAULT) and not landscape.knows(outsider)


@pytest.mark.parametrize("landscape", functions(), ids=lambda landscape: landscape.name)
def test_a_functions_best_is_where_everything_is_as_wanted(landscape: Function) -> None:
    rng = random.Random(0)
    sample = [landscape.mean(landscape.space.sample(rng)) for _ in range(2000)]
    assert max(sample) <= landscape.best
    wanted = {
        name: next(value for value, place in places.items() if place == landscape._wanted[name])
        for name, places in landscape._places.items()
    }
    fixed = {variable.name: variable.choices[0] for variable in landscape.space.variables}
    assert landscape.mean(landscape.space.decode(fixed | wanted)) == pytest.approx(1.0)
    assert 0.003 < sum(value >= landscape.top for value in sample) / len(sample) < 0.12
