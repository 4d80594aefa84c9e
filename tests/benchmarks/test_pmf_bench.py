"""PMF-Bench: the selection of architectures, the table, and the landscapes for comparing strategies."""

import hashlib
import json
import math
import random
import statistics
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from benchmarks.models import decisive_recipe, papers_space, plain_space
from benchmarks.pmf_bench.landscapes import METRIC, Function, cross_validated, functions, surrogate, tabular
from benchmarks.pmf_bench.noise import spread
from benchmarks.pmf_bench.selection import all_seeds, architectures
from benchmarks.pmf_bench.table import TABLE, Row, Table, pack, read_table
from benchmarks.selection_coverage import Predictions
from benchmarks.supernet_fidelity import settings_of
from nas.config.load import load_config
from nas.models.fusion.pmf.architecture import GENES, PMFArchitecture
from nas.search.space import Architecture
from tests.support.paths import REPOSITORY

SPACE = papers_space(load_config(REPOSITORY / "search_spaces" / "demo.yaml").space)
DEFAULT = PMFArchitecture(4, 4, 4, 4, 192)
NOISE = 0.008


def truth(architecture: Architecture) -> float:
    layer, *sizes = (math.log2(1 + value) for value in architecture.values().values() if isinstance(value, int))
    return 0.5 - 0.1 * abs(layer - 2.1) + 0.01 * sizes[0] + 0.005 * sizes[3] - 0.002 * sizes[0] * sizes[1]


@pytest.fixture(scope="module")
def table() -> Table:
    """A table with the architectures of the real one, and values of a noisy function."""
    rng = random.Random(0)
    rows = []
    for architecture in architectures(SPACE, DEFAULT, lambda entry: hash(entry) % 97):
        for seed in (0, 1):
            value = truth(architecture) + rng.gauss(0, NOISE)
            rows.append(Row(architecture, seed, {"accuracy": value}, {"accuracy": value}, 1, 1, 1, 1.0))
    return Table({"recipe": "none"}, rows)


def test_table_has_corners_and_default_and_spreads_the_rest_over_layers_and_sizes() -> None:
    def size(entry: Architecture) -> int:
        return 100 * entry.value_at("mapping_width", 0)[0] + entry.value_at("query_prompts", 0)[0]

    chosen = architectures(SPACE, DEFAULT, size)
    assert len(chosen) == len(set(chosen)) == 160 and DEFAULT in chosen
    ends = {gene: (values[0], values[-1]) for gene, values in SPACE.choices.items()}
    corners = [entry for entry in SPACE if all(getattr(entry, gene) in ends[gene] for gene in GENES)]
    assert len(corners) == 32 and set(corners) <= set(chosen)
    for layer in (3, 4, 5):
        of_layer = [entry for entry in chosen if entry.first_layer == layer]
        assert len(of_layer) in (53, 54)
        widths = [sum(size(entry) // 100 == width for entry in of_layer) for width in SPACE.choices["mapping_width"]]
        assert min(widths) >= 9


def test_table_is_equal_after_writing_and_reading(table: Table, tmp_path: Path) -> None:
    table.write(tmp_path / "table.json")
    again = read_table(tmp_path / "table.json")
    assert again.rows == table.rows and again.made_with == table.made_with


def test_stored_predictions_are_those_of_the_trainings(table: Table, tmp_path: Path) -> None:
    """Coverage is simulated with architectures that have all seeds; a table of metrics alone has no predictions."""
    assert Predictions.of(table) is None
    rng = np.random.default_rng(0)
    first, second, third = list(table.by_architecture)[:3]
    right = {split: rng.random((3, 2, count)) > 0.4 for split, count in (("validation", 611), ("test", 610))}
    rows = [
        replace(row, right={split: pack(bits[place, row.seed]) for split, bits in right.items()})
        for place, architecture in enumerate((first, second, third))
        for row in table.by_architecture[architecture].values()
    ]
    Table({}, rows[:-1]).write(tmp_path / "table.json")
    found = Predictions.of(read_table(tmp_path / "table.json"))
    assert found is not None
    assert np.array_equal(found.validation, right["validation"][:2])
    assert np.array_equal(found.test, right["test"][:2])


def test_table_with_the_automatic_recipe_has_all_seeds_of_every_architecture() -> None:
    prepared: Any = SimpleNamespace(default=DEFAULT, memory=SimpleNamespace(parameter_count=lambda entry: 1))
    wanted = all_seeds(SPACE, prepared)
    assert len(set(wanted)) == len(wanted) == 400
    assert all(len({architecture for architecture, _ in wanted[place : place + 4]}) == 1 for place in range(0, 400, 4))
    assert {seed for _, seed in wanted} == {0, 1, 2, 3}


def test_table_estimates_noise_and_means(table: Table) -> None:
    assert table.seed_deviation("accuracy") == pytest.approx(NOISE, rel=0.15)
    means = table.means("accuracy")
    assert len(means) == 160 and table.means("accuracy", seeds=(0, 2)) == {}
    first = table.by_architecture[DEFAULT]
    assert means[DEFAULT] == pytest.approx((first[0].validation["accuracy"] + first[1].validation["accuracy"]) / 2)


@pytest.mark.long
def test_surrogate_covers_the_whole_space_with_the_noise_of_the_table(table: Table) -> None:
    landscape = surrogate(table)
    everything = list(SPACE)
    errors = [landscape.mean(entry) - truth(entry) for entry in everything]
    assert max(map(abs, errors)) < 3 * NOISE and sum(map(abs, errors)) / len(errors) < NOISE / 2
    assert landscape.noise == pytest.approx(NOISE, rel=0.2)
    assert sum(landscape.mean(entry) >= landscape.top for entry in everything) == 7
    assert landscape.best == max(landscape.mean(entry) for entry in everything)
    assert cross_validated(table, folds=4)["kendall_tau"] > 0.6


def test_evaluation_is_noisy_but_reproducible(table: Table) -> None:
    landscape = tabular(table)
    assert landscape.evaluate(DEFAULT, 3) == landscape.evaluate(DEFAULT, 3) != landscape.evaluate(DEFAULT, 4)
    values = [landscape.evaluate(DEFAULT, seed) for seed in range(300)]
    mean = sum(values) / 300
    assert mean == pytest.approx(landscape.mean(DEFAULT), abs=4 * landscape.noise / math.sqrt(300))
    outsider = next(entry for entry in SPACE if entry not in table.by_architecture)
    assert landscape.knows(DEFAULT) and not landscape.knows(outsider)


@pytest.mark.parametrize("landscape", functions(), ids=lambda landscape: landscape.name)
@pytest.mark.long
def test_synthetic_function_is_best_at_its_optimum(landscape: Function) -> None:
    rng = random.Random(0)
    sample = [landscape.mean(landscape.space.sample(rng)) for _ in range(2000)]
    assert max(sample) <= landscape.best
    assert landscape.mean(landscape.optimum) == pytest.approx(1.0)
    assert 0.003 < sum(value >= landscape.top for value in sample) / len(sample) < 0.12


def test_committed_table_and_figures_match_the_demo() -> None:
    config = load_config(REPOSITORY / "search_spaces" / "demo.yaml")
    table = read_table()
    assert table.made_with["space"] == plain_space(config.space)
    assert table.made_with["recipe"] == decisive_recipe(config)
    results = REPOSITORY / "benchmarks" / "results"
    digest = hashlib.sha256(TABLE.read_bytes()).hexdigest()
    assert json.loads((results / "strategies.json").read_text())["table"] == digest[:16]
    truth = [(str(architecture), mean) for architecture, mean in table.means(METRIC).items()]
    assert json.loads((results / "supernet_fidelity.json").read_text())["settings"] == settings_of(config, truth)


def test_best_possible_tau_is_that_of_the_true_means_against_two_seeds() -> None:
    rng = random.Random(1)
    truths = [rng.gauss(0.6, 0.010) for _ in range(4_000)]
    pairs = [(rng.gauss(truth, 0.015), rng.gauss(truth, 0.015)) for truth in truths]
    found = spread(pairs)
    assert found.architectures == 4_000
    assert found.architecture_deviation == pytest.approx(0.010, rel=0.05)
    assert found.seed_deviation == pytest.approx(0.015, rel=0.05)
    tau = kendalltau(truths, [statistics.fmean(pair) for pair in pairs]).statistic
    assert found.best_tau == pytest.approx(tau, abs=0.02)


def test_architectures_that_differ_by_nothing_but_seeds_cannot_be_ordered() -> None:
    assert spread([(0.5, 0.6), (0.6, 0.5)]).best_tau == 0.0
    assert spread([(0.5, 0.5), (0.6, 0.6)]).best_tau == pytest.approx(1.0)
