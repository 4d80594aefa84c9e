"""The phases of a search, run without training: what a deterministic search guarantees, and what every search does."""

import io
import random
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.common.errors import TrainingError
from nas.common.progress import LineReporter
from nas.config.schema import Config
from nas.models.fusion.pmf.architecture import GENES
from nas.run.phases.candidates import CandidatePhase
from nas.run.phases.finalists import VARIANT, FinalistPhase, FirstTrainings
from nas.run.reruns import RERUNS, RerunStore, read_simple_result
from nas.run.roles import DEFAULT
from nas.run.speed import TrainingSpeed
from nas.search.keys import CandidateKey, DefaultKey, ModelKey
from nas.search.space import Architecture
from nas.search.strategies.registry import STRATEGIES
from nas.search.trial import STAGES, Failure, Job, Result
from nas.storage.study import Study
from tests.support.real_driver import finished_models
from tests.support.search_loop import Killed, SimulatedExecutor, build_context, config_with, peak_bytes, search


def deterministic(**changes: object) -> Config:
    return config_with(**{"deterministic": True, "budget__trials": 14, **changes})


def undisturbed(config: Config, budget_bytes: int = 1000) -> str:
    with tempfile.TemporaryDirectory() as directory:
        return search(Path(directory), config, SimulatedExecutor([1], random.Random(0)), budget_bytes)


def interrupted(config: Config, directory: Path, chance: random.Random, budget_bytes: int = 1000) -> str:
    """Run a search whose driver is killed repeatedly, and resume it with other workers each time."""
    while True:
        ends = iter(range(chance.randint(0, 6), -1, -1))

        def kill(ends: object = ends) -> None:
            if next(ends) == 0:  # type: ignore[call-overload]
                raise Killed

        slots = [chance.randint(1, 4) for _ in range(chance.randint(1, 2))]
        executor = SimulatedExecutor(slots, chance, on_end=kill if chance.random() < 0.9 else lambda: None)
        try:
            return search(directory, config, executor, budget_bytes)
        except Killed:
            continue


FREE: dict[str, object] = {
    "space__num_layers": 3,
    "space__query_prompts": {"choices": [1, 2], "per": "layer_and_direction"},
    "space__query_context_prompts": {"choices": [0, 2], "per": "layer"},
    "space__mapping_width": {"choices": [4, 8], "per": "direction"},
    "search__objective": ["accuracy", "trainable_parameters", "peak_memory"],
}


LONG_CASES = {(strategy, "one objective") for strategy in STRATEGIES if strategy not in ("evolution", "random")} | {
    (strategy, "free genes, three objectives") for strategy in STRATEGIES if strategy != "evolution"
}
"""Cases of a search that is the same in all circumstances; what differs is tested for each strategy alone."""


@pytest.mark.parametrize(
    ("strategy", "changes", "budget_bytes"),
    [
        pytest.param(
            strategy,
            changes,
            budget_bytes,
            id=f"{strategy}-{name}",
            marks=[pytest.mark.long] if (strategy, name) in LONG_CASES else [],
        )
        for strategy in STRATEGIES
        for changes, budget_bytes, name in (({}, 40, "one objective"), (FREE, 80, "free genes, three objectives"))
    ],
)
def test_deterministic_search_is_the_same_for_any_workers_kills_and_order(
    strategy: str, changes: dict[str, object], budget_bytes: int
) -> None:
    config = deterministic(search__strategy=strategy, **changes)
    expected = undisturbed(config, budget_bytes)
    assert expected.count("infeasible")

    @settings(max_examples=2 if strategy == "gp" else 8, deadline=None)  # its proposals take long
    @given(st.integers(0, 10**6))
    def same(seed: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            assert interrupted(config, Path(directory), random.Random(seed), budget_bytes) == expected

    same()


def test_lost_device_and_killed_workers_change_nothing_in_a_deterministic_search(tmp_path: Path) -> None:
    config = deterministic()
    ends = Counter[str]()

    def fate(job: Job, grant: int) -> Failure | None:
        ends["all"] += 1
        if ends["all"] == 6:
            executor.lose("device 1")
        if ends["all"] % 3 == 0:
            return Failure(job, "killed_externally", "killed", "its worker was killed from outside")
        return None

    executor = SimulatedExecutor([2, 2], random.Random(5), fate=fate)
    assert search(tmp_path, config, executor) == undisturbed(config)


def test_larger_budget_continues_as_if_given_at_once_up_to_the_last_promotions(tmp_path: Path) -> None:
    small, large = deterministic(budget__trials=6), deterministic()
    search(tmp_path, small, SimulatedExecutor([2], random.Random(0)))
    resumed = search(tmp_path, large, SimulatedExecutor([3], random.Random(0)))
    scored = [line for line in undisturbed(large).splitlines() if "one_shot" in line]
    assert [line for line in resumed.splitlines() if "one_shot" in line] == scored and len(scored) >= 14


@pytest.mark.parametrize("seed", range(5))
def test_candidates_that_fit_a_larger_budget_are_scored_once_despite_kills(tmp_path: Path, seed: int) -> None:
    config = config_with(budget__trials=30)
    too_large = [architecture.values() for architecture in config.space if peak_bytes(architecture) > 40][:4]
    config = config_with(budget__trials=30, search__initial_architectures=too_large)
    small = config_with(budget__trials=6, search__initial_architectures=too_large)
    search(tmp_path, small, SimulatedExecutor([1], random.Random(0)), budget_bytes=40)
    with Study(tmp_path, config.space, name="run", config=config.as_dict()) as study:
        assert any(entry.status == "infeasible" for entry in study.rejections)
    interrupted(config, tmp_path, random.Random(seed))
    with Study(tmp_path, config.space, name="run", config=config.as_dict()) as study:
        scored = [result.architecture for result in study.results("one_shot")]
    assert len(set(scored)) == len(scored) == 30


@pytest.mark.parametrize("is_deterministic", [False, True])
def test_every_trial_is_accounted_for(tmp_path: Path, is_deterministic: bool) -> None:
    config = config_with(deterministic=is_deterministic, budget__trials=14)
    search(tmp_path, config, SimulatedExecutor([2, 1], random.Random(3)))
    with Study(tmp_path, config.space, name="run", config=config.as_dict()) as study:
        assert (study.count("one_shot"), study.count("short"), study.count("full")) == (14, 7, 2)
        assert study.running == {}


def test_running_jobs_never_exceed_the_budget_of_their_device(tmp_path: Path) -> None:
    executor = SimulatedExecutor([4, 4], random.Random(3))
    search(tmp_path, config_with(budget__trials=20), executor, budget_bytes=120)
    assert 60 < executor.most_granted <= 120


@pytest.mark.parametrize("seed", range(6))
def test_running_jobs_that_keep_freed_memory_never_exceed_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("nas.execution.scheduler.bytes_with_fragmentation", lambda peak: round(1.6 * peak))
    wide = Counter[bool]()

    class GrantRecorder(SimulatedExecutor):
        def submit(self, job: Job, device: str, grant_bytes: int) -> None:
            assert grant_bytes in (job.reserved_bytes, round(1.6 * job.reserved_bytes))
            wide[grant_bytes > job.reserved_bytes] += 1
            super().submit(job, device, grant_bytes)

    def lose() -> None:
        if sum(wide.values()) == 12 and len(executor.devices) == 2:
            executor.lose("device 0")

    executor = GrantRecorder([4, 2], random.Random(seed), on_end=lose)
    search(tmp_path, config_with(budget__trials=30, search__eval_batch=1), executor, budget_bytes=110)
    assert 60 < executor.most_granted <= 110
    assert wide[True] and wide[False]


def test_candidate_that_runs_out_of_memory_is_tried_alone_and_then_infeasible(tmp_path: Path) -> None:
    config, tries = config_with(budget__trials=8), list[tuple[int, int]]()

    def fate(job: Job, grant: int) -> Failure | None:
        if any(peak_bytes(member.architecture) > 40 for member in job.members):
            tries.append((job.trial, grant))
            return Failure(job, "memory", "out of memory", "its worker held too much", 500)
        return None

    search(tmp_path, config, SimulatedExecutor([2], random.Random(3), fate=fate), budget_bytes=300)
    with Study(tmp_path, config.space, name="run") as study:
        infeasible = {entry.trial for entry in study.rejections if entry.status == "infeasible"}
        assert infeasible and study.count("one_shot") == 8  # they cost no trial
        for trial in infeasible:
            assert [grant for number, grant in tries if number == trial][-1] == 300


def test_candidate_that_crashes_its_worker_three_times_is_recorded_as_failed(tmp_path: Path) -> None:
    config, crashes = config_with(budget__trials=8, search__eval_batch=1), Counter[int]()

    def fate(job: Job, grant: int) -> Failure | None:
        if job.key == CandidateKey(3):
            crashes[job.trial] += 1
            return Failure(job, "crash", "Fatal Python error", "its worker crashed")
        return None

    search(tmp_path, config, SimulatedExecutor([2], random.Random(3), fate=fate))
    with Study(tmp_path, config.space, name="run") as study:
        assert [(entry.trial, entry.status, entry.reason) for entry in study.rejections] == [
            (3, "failed", "its worker crashed")
        ]
        assert crashes == {3: 3} and study.count("one_shot") == 7  # it is a trial of the budget


def test_workers_killed_externally_never_count_as_failures(tmp_path: Path) -> None:
    config, deaths = config_with(budget__trials=8), Counter[ModelKey]()

    def fate(job: Job, grant: int) -> Failure | None:
        deaths[job.key] += 1
        return Failure(job, "killed_externally", "killed", "killed") if deaths[job.key] <= 5 else None

    search(tmp_path, config, SimulatedExecutor([2], random.Random(3), fate=fate))
    with Study(tmp_path, config.space, name="run") as study:
        assert study.rejections == [] and study.count("one_shot") == 8


def test_common_cause_of_failures_stops_the_search_and_blames_no_candidate(tmp_path: Path) -> None:
    config = config_with(budget__trials=8, search__eval_batch=1)

    def fate(job: Job, grant: int) -> Failure | None:
        return Failure(job, "error", "TrainingError", "TrainingError: the loss is nan")

    with pytest.raises(
        TrainingError, match="3 consecutive candidates failed with the same cause: TrainingError: the loss"
    ):
        search(tmp_path, config, SimulatedExecutor([2], random.Random(3), fate=fate))
    with Study(tmp_path, config.space, name="run") as study:
        assert study.rejections == [] and len(study.running) >= 3
    search(tmp_path, config, SimulatedExecutor([2], random.Random(3)))
    with Study(tmp_path, config.space, name="run") as study:
        assert study.rejections == [] and study.count("one_shot") == 8


def test_failed_candidate_costs_a_trial_and_the_search_continues(tmp_path: Path) -> None:
    config = config_with(budget__trials=8, search__eval_batch=1)

    def fate(job: Job, grant: int) -> Failure | None:
        return Failure(job, "error", "TrainingError", "TrainingError: always") if job.key == CandidateKey(3) else None

    output = io.StringIO()
    search(tmp_path, config, SimulatedExecutor([2], random.Random(3), fate=fate), output=output)
    with Study(tmp_path, config.space, name="run") as study:
        rejected = [(entry.trial, entry.status, entry.reason) for entry in study.rejections]
        assert rejected == [(3, "failed", "TrainingError: always")] and study.count("one_shot") == 7
    assert "#3 screening failed: TrainingError: always\n" in output.getvalue()


def test_infeasible_candidates_are_recorded_once_and_never_run(tmp_path: Path) -> None:
    config = config_with(budget__trials=12)
    search(tmp_path, config, SimulatedExecutor([2], random.Random(3)), budget_bytes=40)
    with Study(tmp_path, config.space, name="run") as study:
        infeasible = [entry.architecture for entry in study.rejections]
        assert {entry.status for entry in study.rejections} == {"infeasible"}
        assert infeasible and len(infeasible) == len(set(infeasible))
        run = [result for stage in STAGES for result in study.results(stage)]
        assert not {result.architecture for result in run} & set(infeasible)
        assert study.count("one_shot") == 12 and all(result.predicted_peak_bytes <= 40 for result in run)


def test_smaller_memory_budget_excludes_candidates_and_a_larger_one_readmits_them(tmp_path: Path) -> None:
    for trials, budget_bytes in ((5, 1000), (10, 40), (1000, 1000)):
        config = config_with(budget__trials=trials)
        search(tmp_path, config, SimulatedExecutor([2], random.Random(trials)), budget_bytes)
        with Study(tmp_path, config.space, name="run") as study:
            results = study.results("one_shot")
        if budget_bytes == 40:
            assert len(results) == 10 and all(peak_bytes(result.architecture) <= 40 for result in results[5:])
    assert len({result.architecture for result in results}) == len(results) == config.space.size


def test_exhausted_space_ends_the_search(tmp_path: Path) -> None:
    one_value = {f"space__{gene}": [1] for gene in GENES if gene != "fusion_layer"}
    config, output = config_with(budget__trials=50, **one_value), io.StringIO()
    search(tmp_path, config, SimulatedExecutor([2], random.Random(3)), output=output)
    assert "The search space is exhausted" in output.getvalue()
    with Study(tmp_path, config.space, name="run") as study:
        assert study.count("one_shot") == config.space.size == 3


def test_initial_architectures_are_scored_first(tmp_path: Path) -> None:
    given = list(config_with().space)[10:14]
    config = config_with(
        budget__trials=8,
        search__strategy="random",
        search__initial_architectures=[architecture.values() for architecture in given],
    )
    search(tmp_path, config, SimulatedExecutor([1], random.Random(3)))
    with Study(tmp_path, config.space, name="run") as study:
        assert [result.architecture for result in study.results("one_shot")[:4]] == given


def test_output_names_every_phase_and_every_finished_job(tmp_path: Path) -> None:
    output = io.StringIO()
    search(tmp_path, config_with(budget__trials=8), SimulatedExecutor([2], random.Random(3)), output=output)
    lines = output.getvalue().splitlines()
    assert [line for line in lines if line.startswith("Phase: ")] == ["Phase: screening", "Phase: full training"]
    stages = Counter(stage for _, stage, _ in finished_models(output.getvalue()))
    assert stages == {"one_shot": 8, "short": 4, "full": 2 + 1}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_default_is_the_first_finalist_of_every_strategy(tmp_path: Path, strategy: str) -> None:
    default = list(config_with().space)[7]
    given = [default.values()]
    config = config_with(budget__trials=10, search__strategy=strategy, search__initial_architectures=given)
    output, executor = io.StringIO(), SimulatedExecutor([1], random.Random(3))
    search(tmp_path, config, executor, output=output, default=default)
    with Study(tmp_path, config.space, name="run") as study:
        full = study.results("full")
        ranked = sorted(study.results("short"), key=lambda result: (-result.score, result.trial))
    best = [result.trial for result in ranked[: config.search.finalists]]
    assert full[0].architecture == default and full[0].trial == 0
    assert {result.trial for result in full} == {0, *best}
    assert not (tmp_path / "default.json").exists()


def test_default_outside_the_space_is_a_finalist_once_despite_kills(tmp_path: Path) -> None:
    config = deterministic()
    default = Architecture.from_dict({**config.space.largest.as_dict(), "mapping_width": 9})
    assert default not in config.space

    def kill() -> None:
        if (tmp_path / "default.json").exists():
            raise Killed

    output = io.StringIO()
    with pytest.raises(Killed):
        search(tmp_path, config, SimulatedExecutor([1], random.Random(1), on_end=kill), output=output, default=default)
    search(tmp_path, config, SimulatedExecutor([1], random.Random(2)), output=output, default=default)
    models = [(model, stage) for model, stage, _ in finished_models(output.getvalue()) if stage == "full"]
    assert len(models) == 1 + config.search.finalists and models[0] == ("default", "full")
    stored = read_simple_result(tmp_path, DEFAULT)
    assert stored is not None and stored.architecture == default and stored.key == DefaultKey()


def test_variant_of_the_default_is_trained_once_after_it_despite_kills(tmp_path: Path) -> None:
    config, default = deterministic(), config_with().space.smallest
    variant = Architecture.from_dict({**default.as_dict(), "image_readout": "mean"})

    def trained() -> list[Result]:
        return RerunStore(tmp_path / RERUNS).results()

    def kill() -> None:
        if trained():
            raise Killed

    with pytest.raises(Killed):
        search(
            tmp_path, config, SimulatedExecutor([1], random.Random(1), on_end=kill), default=default, variant=variant
        )
    (first,) = trained()
    output = io.StringIO()
    search(tmp_path, config, SimulatedExecutor([1], random.Random(2)), output=output, default=default, variant=variant)
    assert trained() == [first]
    assert (first.key, first.architecture, first.stage) == (VARIANT, variant, "full")
    assert "default with other readouts" not in output.getvalue()
    with Study(tmp_path, config.space, name="run", config=config.as_dict()) as study:
        assert variant not in {result.architecture for result in study.results("full")}, "it is no candidate"
        assert study.count("full") >= config.search.finalists


def test_variant_that_fails_leaves_default_and_finalists(tmp_path: Path) -> None:
    config, output = config_with(budget__trials=8), io.StringIO()
    default = config.space.smallest
    variant = Architecture.from_dict({**default.as_dict(), "image_readout": "mean"})

    def fate(job: Job, grant: int) -> Failure | None:
        return Failure(job, "error", "TrainingError", "diverged") if job.key == VARIANT else None

    executor = SimulatedExecutor([2], random.Random(3), fate=fate)
    search(tmp_path, config, executor, output=output, default=default, variant=variant)
    assert "default with other readouts full training failed: diverged\n" in output.getvalue()
    assert not RerunStore(tmp_path / RERUNS).results()


def test_default_that_does_not_fit_is_left_out_with_a_note(tmp_path: Path) -> None:
    config, output = config_with(budget__trials=8), io.StringIO()
    executor = SimulatedExecutor([2], random.Random(3))
    search(tmp_path, config, executor, budget_bytes=40, output=output, default=config.space.largest)
    assert "default exceeds the memory budget or a constraint and is not trained\n" in output.getvalue()
    with Study(tmp_path, config.space, name="run") as study:
        assert study.count("full") == config.search.finalists


def test_default_that_fails_leaves_the_other_finalists(tmp_path: Path) -> None:
    config, output = config_with(budget__trials=8), io.StringIO()
    default = Architecture.from_dict({**config.space.largest.as_dict(), "mapping_width": 9})

    def fate(job: Job, grant: int) -> Failure | None:
        return Failure(job, "error", "TrainingError", "diverged") if isinstance(job.key, DefaultKey) else None

    executor = SimulatedExecutor([2], random.Random(3), fate=fate)
    search(tmp_path, config, executor, output=output, default=default)
    assert "default full training failed: diverged\n" in output.getvalue()
    with Study(tmp_path, config.space, name="run") as study:
        assert study.count("full") == config.search.finalists and study.rejections == []


def test_without_short_training_the_best_screened_candidates_are_the_finalists(tmp_path: Path) -> None:
    config = config_with(budget__trials=12)
    executor = SimulatedExecutor([2], random.Random(0))
    search(tmp_path, config, executor, default=config.space.largest, left_out=["short"])
    with Study(tmp_path, config.space, name="run", config=config.as_dict()) as study:
        assert not study.count("short")
        ranked = sorted(study.results("one_shot"), key=lambda result: -result.score)
        finalists = {result.architecture for result in study.results("full")} - {config.space.largest}
        best = [result.architecture for result in ranked if result.architecture != config.space.largest]
        assert finalists and finalists == set(best[: len(finalists)])


def trains_default_and_candidate(directory: Path, speed: TrainingSpeed, workers: int) -> tuple[bool, bool]:
    """Run the full trainings of a search of 60 s with one candidate; return whether default and candidate finished."""
    config = config_with(budget__time="60s", budget__trials=None)
    default = Architecture.from_dict({**config.space.largest.as_dict(), "mapping_width": 9})
    with Study(directory, config.space, name="run", config=config.as_dict()) as study:
        executor = SimulatedExecutor([workers], random.Random(0))
        context = build_context(directory, config, study, executor, 1000, LineReporter(io.StringIO()))
        context.clock.deadlines = replace(context.clock.deadlines, candidates_seconds=0.0)
        queue = CandidatePhase([config.space.smallest]).run(context)
        first = FirstTrainings(default)
        FinalistPhase(queue, first, directory, full_steps=10, validation_count=10, speed=speed).run(context)
        return read_simple_result(directory, DEFAULT) is not None, bool(study.count("full"))


def test_default_is_trained_first_even_if_its_time_is_too_short(tmp_path: Path) -> None:
    slow = TrainingSpeed(step_seconds=50.0, evaluation_seconds=1.0, process_count=1)
    assert trains_default_and_candidate(tmp_path, slow, workers=1) == (True, False)


@pytest.mark.parametrize(("step_seconds", "is_trained"), [(6.5, True), (7.5, False)])
def test_training_starts_although_its_estimate_is_slightly_too_long(
    tmp_path: Path, step_seconds: float, is_trained: bool
) -> None:
    speed = TrainingSpeed(step_seconds, evaluation_seconds=1.0, process_count=2)
    assert trains_default_and_candidate(tmp_path, speed, workers=2) == (True, is_trained)


def test_time_of_screening_does_not_end_before_the_first_score(tmp_path: Path) -> None:
    config = config_with(budget__time="60s", budget__trials=None)
    with Study(tmp_path, config.space, name="run", config=config.as_dict()) as study:
        executor = SimulatedExecutor([1], random.Random(0))
        context = build_context(tmp_path, config, study, executor, 1000, LineReporter(io.StringIO()))
        context.clock.deadlines = replace(context.clock.deadlines, candidates_seconds=0.0)
        CandidatePhase([config.space.smallest]).run(context)
        assert 1 <= study.count("one_shot") <= config.search.eval_batch
        assert study.results("one_shot")[0].architecture == config.space.smallest
