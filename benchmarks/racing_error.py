"""Measure the error and the power of the race that decides a search's answer (`nas.search.racing`).

Simulated models: a prediction is correct where the sum of the model's quality, its seed, the difficulty of the sample,
that of the sample for this model, and noise is positive; all but the first are normal. An accuracy of 0.85 has a
standard deviation of about 0.016 over seeds, as the demo has.

- false_separation: the fraction of races that separate at least one pair of equal models, in any round; at most 0.05
  is promised.
- separated: the fraction of races that separate the truly best model from all others.
- best: the fraction of races whose first is the truly best model; best_of_one_seed: the same with one seed each.
- trainings: the mean number of trainings.

Run: python -m benchmarks.racing_error [--races 4000] [--json FILE] [--quick]
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from benchmarks.models import write_figures
from nas.run.tables import text_table
from nas.search.racing import Floats, Race, SeedScores, scores_of_draws, scores_of_samples

ACCURACY = 0.85
SEED_DEVIATION = 0.07
"""The standard deviation of a seed on the latent scale; 0.016 in accuracy."""

_SAMPLE, _MODEL_SAMPLE = 0.6, 0.1
"""The parts of the latent variance from the sample, and from the sample for one model; the rest is noise."""

_DRAWS = 200


@dataclass(frozen=True)
class Scenario:
    """A population of models.

    Args:
        name: The name in the table.
        gaps: How much lower the accuracy of each model is than that of the best.
        samples: The number of validation samples.
        deviations: The standard deviation of seeds of each model, as a multiple of the usual one; 0 for a model without
            luck. The last one counts for all further models.
        seeds: The largest number of seeds.
        is_drawn: Whether the covariances come from bootstrap draws, as for metrics that are no means over samples.
    """

    name: str
    gaps: tuple[float, ...]
    samples: int = 306
    deviations: tuple[float, ...] = (1.0,)
    seeds: int = 4
    is_drawn: bool = False


SCENARIOS = (
    Scenario("2 equal", (0.0,) * 2),
    Scenario("6 equal", (0.0,) * 6),
    Scenario("12 equal", (0.0,) * 12),
    Scenario("6 equal, 100 samples", (0.0,) * 6, samples=100),
    Scenario("6 equal, 1,000 samples", (0.0,) * 6, samples=1000),
    Scenario("6 equal, 8 seeds", (0.0,) * 6, seeds=8),
    Scenario("6 equal, one without luck", (0.0,) * 6, deviations=(0.0, 1.0)),
    Scenario("6 equal, one varies three times as much", (0.0,) * 6, samples=1000, deviations=(3.0, 1.0)),
    Scenario("6 equal, one varies twice as much", (0.0,) * 6, deviations=(2.0, 1.0)),
    Scenario("6 equal, a third of the usual variation", (0.0,) * 6, deviations=(1 / 3,)),
    Scenario("6 equal, bootstrap draws", (0.0,) * 6, is_drawn=True),
    Scenario("1 better by 0.05, 5 equal", (0.0, *(0.05,) * 5), samples=1000),
    Scenario("1 better by 0.02", (0.0, *(0.02,) * 5)),
    Scenario("1 better by 0.05", (0.0, *(0.05,) * 5)),
    Scenario("1 better by 0.02, 1,000 samples", (0.0, *(0.02,) * 5), samples=1000),
    Scenario("1 better by 0.03, 1,000 samples", (0.0, *(0.03,) * 5), samples=1000),
    Scenario("steps of 0.01, 1,000 samples", tuple(0.01 * place for place in range(6)), samples=1000),
    Scenario("2, better by 0.03, 1,000 samples", (0.0, 0.03), samples=1000),
)


@dataclass(frozen=True)
class Outcome:
    """The outcome of the races of a scenario; see the module."""

    false_separation: float | None
    separated: float | None
    best: float | None
    best_of_one_seed: float | None
    trainings: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=4000, help="races per scenario (default: 4000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="trial run: 100 races per scenario")
    options = parser.parse_args()
    races = 100 if options.quick else options.races
    outcomes = {scenario.name: simulate(scenario, races) for scenario in SCENARIOS}
    header = ("models", "false separation", "separated", "best", "best of one seed", "trainings")
    rows = [(name, *map(_text, asdict(outcome).values())) for name, outcome in outcomes.items()]
    print(text_table(header, rows))
    if options.json is not None:
        figures = {name: asdict(outcome) for name, outcome in outcomes.items()}
        write_figures(options.json, {"races": races, "scenarios": figures})


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 1.5 else f"{value:.1f}"


def simulate(scenario: Scenario, races: int) -> Outcome:
    """Run the races of a scenario, each with its own seeds and samples.

    Args:
        scenario: The population of models.
        races: The number of races.
    """
    false, separated, best, best_of_one, trainings = 0, 0, 0, 0, 0
    gaps = np.array(scenario.gaps)
    has_best = int((gaps == 0).sum()) == 1
    for seed in range(races):
        field = draw_field(scenario, np.random.default_rng([seed, len(gaps), scenario.samples]))
        standing, used = run_race(field, scenario.seeds)
        wins = [pair for pair, low in standing.items() if low > 0]
        false += any(gaps[first] >= gaps[second] for first, second in wins)
        separated += all((0, other) in wins for other in range(1, len(gaps)))
        trainings += sum(used)
        ranked = max(range(len(gaps)), key=lambda name: field[name].first(used[name]).mean)
        best += ranked == 0
        best_of_one += max(range(len(gaps)), key=lambda name: float(field[name].values[0])) == 0
    has_equals = len(set(scenario.gaps)) < len(gaps)
    return Outcome(
        false_separation=false / races if has_equals else None,
        separated=separated / races if has_best else None,
        best=best / races if has_best else None,
        best_of_one_seed=best_of_one / races if has_best else None,
        trainings=trainings / races,
    )


def run_race(field: dict[int, SeedScores], seeds: int) -> tuple[dict[tuple[int, int], float], list[int]]:
    """Run a race to its end.

    Args:
        field: The scores of each model with all seeds that it could have.
        seeds: The largest number of seeds.

    Returns:
        The lower end of each ordered pair, and the number of seeds that each model has used.
    """
    race: Race[int] = Race(seeds)
    used = [1] * len(field)
    while True:
        standing = race.standing({name: scores.first(used[name]) for name, scores in field.items()})
        if not standing.wanted:
            return dict(standing.lower_ends), used
        for name in standing.wanted:
            used[name] += 1


def draw_field(scenario: Scenario, rng: np.random.Generator) -> dict[int, SeedScores]:
    """Draw samples, and the predictions of every model with every seed.

    Args:
        scenario: The population of models.
        rng: The random numbers.
    """
    count = scenario.samples
    difficulty = rng.normal(0, np.sqrt(_SAMPLE), count)
    draws = rng.multinomial(count, np.full(count, 1 / count), _DRAWS) if scenario.is_drawn else None
    field = {}
    for name, gap in enumerate(scenario.gaps):
        deviation = SEED_DEVIATION * scenario.deviations[min(name, len(scenario.deviations) - 1)]
        has_luck = deviation > 0
        seeds = scenario.seeds if has_luck else 1
        own = rng.normal(0, np.sqrt(_MODEL_SAMPLE), count)
        noise = rng.normal(0, np.sqrt(1 - _SAMPLE - _MODEL_SAMPLE), (seeds, count))
        # The mean accuracy over seeds and samples is the same, however much seeds vary.
        quality = ndtri(ACCURACY - gap) * np.sqrt(1 + deviation**2) + rng.normal(0, deviation, (seeds, 1))
        correct: Floats = (quality + difficulty + own + noise > 0).astype(np.float64)
        if draws is None:
            field[name] = scores_of_samples(correct, has_luck=has_luck)
        else:
            field[name] = scores_of_draws(correct.mean(axis=1), correct @ draws.T / count, has_luck=has_luck)
    return field


if __name__ == "__main__":
    main()
