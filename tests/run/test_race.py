"""Races on a simulated executor, and what follows from kills, failures and lack of time."""

import io
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from nas.common.errors import StudyError
from nas.common.interrupt import Interruption
from nas.common.progress import LineReporter
from nas.config.schema import Config
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.phases.context import SearchClock
from nas.run.phases.race import Outcome, RacePhase
from nas.run.phases.race_plan import preferred
from nas.run.reruns import read_simple_result, write_simple_result
from nas.run.time_budget import Deadlines, TimeAccount
from nas.search.keys import CandidateKey, DefaultKey, LinearKey, RerunKey
from nas.search.racing import SeedScores, scores_of_samples
from nas.search.trial import Failure, Job, Result
from nas.storage.study import Study
from tests.support.factories import make_result
from tests.support.search_loop import FULL_STEPS, Killed, SimulatedExecutor, build_context, config_with, search

SAMPLES = 300

DEFAULT = PMFArchitecture(0, 1, 0, 0, 5)
"""A default outside the search space."""


def scores_with(quality: Callable[[Result], float]) -> Callable[[Result], SeedScores]:
    """Return a reader of predictions that are right on about a part of the samples, the easy ones."""

    def read(result: Result) -> SeedScores:
        rng = np.random.default_rng(result.seed % 2**32)
        difficulty = np.random.default_rng(0).random(SAMPLES)
        right = difficulty + rng.normal(0, 0.05, SAMPLES) < quality(result)
        return scores_of_samples(right.astype(np.float64)[None], has_luck=not isinstance(result.key, LinearKey))

    return read


def origin(result: Result) -> object:
    return result.key.origin if isinstance(result.key, RerunKey) else result.key


def race(
    directory: Path,
    executor: SimulatedExecutor,
    *,
    quality: Callable[[Result], float] = lambda result: 0.7,
    solved: Mapping[str, Result] = MappingProxyType({}),
    clock: SearchClock | None = None,
    **changes: object,
) -> Outcome:
    """Run the finalists of a small search, or resume it, and race them."""
    config: Config = config_with(**{"search__rerun_seeds": 3, "deterministic": clock is None, **changes})
    search(directory, config, SimulatedExecutor([1], random.Random(0)), default=DEFAULT)
    with Study(directory, config.space, name="run", config=config.as_dict()) as study:
        context = build_context(directory, config, study, executor, 1000, LineReporter(io.StringIO()))
        finalists = study.results("full")
        phase = RacePhase(directory, DEFAULT, full_steps=FULL_STEPS, read_scores=scores_with(quality))
        return phase.run(context if clock is None else replace(context, clock=clock), finalists[0], solved)


def test_equal_models_get_all_seeds(tmp_path: Path) -> None:
    found = race(tmp_path, SimulatedExecutor([2], random.Random(0)))
    assert found.race is not None and found.best is not None
    assert {len(scores) for scores in found.race.field.values()} == {4}
    assert set(found.race.field) == {origin(found.best), DefaultKey(), *found.race.standing.racing}
    assert len({result.seed for result in (*found.seeds["best"], *found.seeds["default"])}) == 8
    assert found.best.score == max(result.score for result in found.seeds["best"])
    best_mean = found.race.field[found.race.best].mean
    assert best_mean == max(scores.mean for key, scores in found.race.field.items() if isinstance(key, CandidateKey))


def test_model_that_is_clearly_worse_gets_no_further_seeds(tmp_path: Path) -> None:
    found = race(
        tmp_path,
        SimulatedExecutor([2], random.Random(0)),
        quality=lambda result: 0.3 if origin(result) == DefaultKey() else 0.7,
    )
    assert found.race is not None
    counts = {key: len(scores) for key, scores in found.race.field.items()}
    assert counts[DefaultKey()] < 4 and set(counts.values()) == {counts[DefaultKey()], 4}
    assert found.race.standing.lower_ends[found.race.best, DefaultKey()] > 0


def test_linear_classifier_takes_part_without_further_seeds(tmp_path: Path) -> None:
    linear = make_result(key=LinearKey(), stage="full", seed=3)
    found = race(tmp_path, SimulatedExecutor([2], random.Random(0)), solved={"linear": linear})
    assert found.race is not None and found.simple["linear"] == linear
    assert len(found.race.field[LinearKey()]) == 1
    assert list(found.race.simple) == ["linear", "default"], "the simplest first"


@pytest.mark.parametrize("seed", range(3))
def test_killed_race_ends_as_an_undisturbed_one(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected = race(tmp_path / "a", SimulatedExecutor([1], random.Random(5)))

    def die() -> None:
        if chance.random() < 0.3:
            raise Killed

    while True:
        try:
            found = race(tmp_path / "b", SimulatedExecutor([chance.randint(1, 4)], chance, on_end=die))
            break
        except Killed:
            continue
    assert found.race is not None and expected.race is not None
    assert found.race.standing == expected.race.standing
    assert [result.seed for result in found.seeds["best"]] == [result.seed for result in expected.seeds["best"]]


def test_model_whose_training_fails_races_with_the_seeds_that_it_has(tmp_path: Path) -> None:
    def fate(job: Job, grant: int) -> Failure | None:
        fails = isinstance(job.key, RerunKey) and job.key.origin == DefaultKey() and job.key.number == 2
        return Failure(job, "error", "ValueError", "ValueError: no") if fails else None

    found = race(tmp_path, SimulatedExecutor([2], random.Random(0), fate=fate))
    assert found.race is not None
    counts = {key: len(scores) for key, scores in found.race.field.items()}
    assert counts.pop(DefaultKey()) == 2 and set(counts.values()) == {4}


def test_race_ends_in_time(tmp_path: Path) -> None:
    config = config_with(budget__time="35s")
    seconds = 0.0

    def pass_time() -> None:
        nonlocal seconds
        seconds += 10.0

    account = TimeAccount(tmp_path / "raced.json", now=lambda: seconds)
    account.start("race")
    clock = SearchClock(account, Deadlines.of_fractions(config.budget), Interruption())
    executor = SimulatedExecutor([1], random.Random(0), on_end=pass_time)
    found = race(tmp_path, executor, clock=clock)
    assert found.race is not None and "default" in found.simple
    # Each training takes 10 s; the last one starts before the end.
    assert sum(len(scores) - 1 for scores in found.race.field.values()) == 4
    assert found.race.standing.wanted == ()
    assert found.race.standing.looks == 2, "what is known is compared at the end"


def test_no_time_leaves_the_first_seed_of_each(tmp_path: Path) -> None:
    found = race(tmp_path, SimulatedExecutor([1], random.Random(0)), search__rerun_seeds=0)
    assert found.race is not None and found.race.standing.looks == 0
    assert [len(scores) for scores in found.race.field.values()] == [1, 1, 1]


def test_race_that_is_left_out_has_the_seeds_that_there_are(tmp_path: Path) -> None:
    config = config_with(budget__time="60s")
    account = TimeAccount(tmp_path / "raced.json", now=lambda: 0.0)
    deadlines = replace(Deadlines.of_fractions(config.budget), left_out=frozenset(["race"]))
    clock = SearchClock(account, deadlines, Interruption())
    found = race(tmp_path, SimulatedExecutor([1], random.Random(0)), clock=clock)
    assert found.race is not None and found.best is not None
    assert [len(scores) for scores in found.race.field.values()] == [1, 1, 1]


def test_training_of_another_search_is_refused(tmp_path: Path) -> None:
    race(tmp_path, SimulatedExecutor([1], random.Random(0)), search__rerun_seeds=0)
    stored = read_simple_result(tmp_path, DefaultKey().name)
    assert stored is not None
    write_simple_result(tmp_path, replace(stored, seed=stored.seed + 1))
    with pytest.raises(StudyError, match=r"default\.json: holds a training of another search"):
        race(tmp_path, SimulatedExecutor([1], random.Random(0)), search__rerun_seeds=0)


def test_validation_prefers_the_higher_score_then_the_lower_cross_entropy() -> None:
    results = [
        make_result(trial=place, score=score, metrics={"accuracy": score, "cross_entropy": loss})
        for place, (score, loss) in enumerate([(0.7, 0.1), (0.8, 0.9), (0.8, 0.5), (0.8, 0.5)])
    ]
    assert preferred(results) == results[2]
