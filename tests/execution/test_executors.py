"""The contract of every executor, and what only Ray workers can suffer."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nas.config import load_config
from nas.execution import Executor, WorkerSetup
from nas.fusion import build_supernet
from nas.preparation import prepare
from nas.progress import build_reporter
from nas.results import Failure, Job, Result, Stage
from nas.runs import build_executor, hand_over
from nas.space import Architecture
from nas.weights import save_weights
from tests.conftest import Project

ARCHITECTURE = Architecture(1, 2, 2, 1, 8)


@pytest.fixture(scope="module")
def setup(project: Project, tmp_path_factory: pytest.TempPathFactory) -> WorkerSetup:
    config = load_config(project.root / "search.yaml")
    with build_reporter() as reporter:
        prepared = prepare(config, source="", cache_directory=tmp_path_factory.mktemp("cache"), reporter=reporter)
    setup = hand_over(config, prepared, tmp_path_factory.mktemp("run"), thread_count=1)
    supernet = build_supernet(
        image_encoder=prepared.image_encoder,
        text_encoder=prepared.text_encoder,
        space=config.space,
        class_count=3,
        seed=0,
    )
    save_weights(setup.supernet_path, supernet, steps="5")
    return setup


@pytest.fixture(scope="module")
def serial(setup: WorkerSetup) -> Executor:
    return build_executor(setup, 0)


@pytest.fixture(scope="module")
def ray_workers(setup: WorkerSetup) -> Iterator[Executor]:
    executor = build_executor(setup, 2)
    yield executor
    executor.close()


@pytest.fixture(params=["serial", "ray_workers"])
def executor(request: pytest.FixtureRequest) -> Executor:
    found: Executor = request.getfixturevalue(request.param)
    return found


def job(trial: int, stage: Stage = "inherited", steps: int = 0, architecture: Architecture = ARCHITECTURE) -> Job:
    return Job(trial, architecture, stage, steps, 7, 1000)


def outcomes(executor: Executor, count: int) -> list[Result | Failure]:
    found: list[Result | Failure] = []
    deadline = time.monotonic() + 120
    while len(found) < count and time.monotonic() < deadline:
        found.extend(executor.wait(1.0))
    return found


def test_jobs_come_back_with_what_was_asked(executor: Executor) -> None:
    results = []
    for trial, (stage, steps) in enumerate([("inherited", 0), ("trained", 3), ("full", 4)]):
        executor.submit(job(trial, stage, steps))  # type: ignore[arg-type]
        results.extend(outcomes(executor, 1))
    for result, (stage, steps) in zip(results, [("inherited", 0), ("trained", 3), ("full", 4)], strict=True):
        assert isinstance(result, Result)
        assert (result.stage, result.step_count) == (stage, steps)
        assert result.supernet_steps == (0 if stage == "full" else 5)
        assert 0 <= result.score <= 1 and result.score == result.metrics["accuracy"]
    assert executor.running == []


def test_a_result_does_not_depend_on_who_ran_it_or_what_ran_before(executor: Executor, setup: WorkerSetup) -> None:
    scores = []
    for trial in range(3):
        executor.submit(job(trial, "full", 3))
        (result,) = outcomes(executor, 1)
        assert isinstance(result, Result)
        scores.append((result.metrics, setup.weights_path(trial).read_bytes()))
    assert scores[0] == scores[1] == scores[2]


def test_no_more_jobs_than_slots_are_taken(executor: Executor) -> None:
    for trial in range(executor.slot_count):
        executor.submit(job(trial))
    assert len(executor.running) == executor.slot_count
    with pytest.raises(RuntimeError, match="taken"):
        executor.submit(job(99))
    assert len(outcomes(executor, executor.slot_count)) == executor.slot_count


def test_a_candidate_that_cannot_run_is_a_failure_with_its_reason(setup: WorkerSetup, tmp_path: Path) -> None:
    for path in setup.frozen_paths:  # and no supernet
        shutil.copy(path, tmp_path)
    executor = build_executor(replace(setup, run_directory=tmp_path), 0)
    executor.submit(job(0))
    (failure,) = executor.wait(1.0)
    assert isinstance(failure, Failure) and "supernet.safetensors: these weights cannot be loaded" in failure.reason


def together(*architectures: Architecture) -> Job:
    members = [job(trial, architecture=architecture) for trial, architecture in enumerate(architectures)]
    return replace(members[0], companions=tuple(members[1:]))


def test_candidates_scored_together_get_the_scores_that_each_gets_alone(executor: Executor) -> None:
    group = together(ARCHITECTURE, Architecture(0, 1, 0, 1, 4), Architecture(1, 1, 2, 0, 4))
    executor.submit(group)
    assert [len(entry.members) for entry in executor.running] == [3]
    grouped = outcomes(executor, 3)
    for member, result in zip(group.members, grouped, strict=True):
        executor.submit(member)
        (alone,) = outcomes(executor, 1)
        assert isinstance(result, Result) and isinstance(alone, Result)
        assert (result.trial, result.architecture, result.metrics) == (alone.trial, alone.architecture, alone.metrics)


def test_of_candidates_scored_together_only_the_one_that_fails_is_a_failure(setup: WorkerSetup) -> None:
    executor = build_executor(setup, 0)
    executor.submit(together(ARCHITECTURE, Architecture(7, 1, 0, 1, 4)))  # there is no layer 7
    first, second = executor.wait(1.0)
    assert isinstance(first, Result) and first.trial == 0
    assert isinstance(second, Failure) and second.job.trial == 1 and not second.job.companions


def test_running_jobs_can_be_stopped(executor: Executor) -> None:
    executor.submit(job(0, "full", 1_000_000))
    if executor.slot_count > 1:
        time.sleep(1.0)
    assert executor.stop_running() == []
    assert executor.running == []
    executor.submit(job(1))
    assert isinstance(outcomes(executor, 1)[0], Result)


def worker_process_ids() -> list[int]:
    """Processes of this user that are Ray's actors of this test."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith(b"ray::_Actor.run"):
                found.append(int(entry.name))
    return found


def test_a_killed_worker_is_replaced_and_its_job_comes_back(ray_workers: Executor) -> None:
    executor = ray_workers
    executor.submit(job(0, "full", 1_000_000))
    deadline = time.monotonic() + 60
    while not (victims := worker_process_ids()) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(victims[0], signal.SIGKILL)
    (failure,) = outcomes(executor, 1)
    assert isinstance(failure, Failure) and failure.worker_died and failure.job == job(0, "full", 1_000_000)
    for trial in range(executor.slot_count):
        executor.submit(job(trial))
    assert all(isinstance(outcome, Result) for outcome in outcomes(executor, executor.slot_count))
