"""The contract of every executor, and what only Ray workers can suffer."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nas.execution.base import Executor
from nas.execution.placement import Placement
from nas.execution.ray.executor import RayExecutor
from nas.execution.serial import SerialExecutor
from nas.execution.worker_setup import WorkerSetup
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.keys import CandidateKey
from nas.search.space import Architecture
from nas.search.trial import Failure, Job, Result
from tests.support.factories import ARCHITECTURE
from tests.support.jobs import job, outcomes, slot_count, submit


@pytest.fixture(scope="module")
def serial(setup: WorkerSetup) -> Executor:
    return SerialExecutor(setup)


@pytest.fixture(scope="module")
def ray_workers(setup: WorkerSetup) -> Iterator[Executor]:
    executor = RayExecutor(setup, placement=Placement(worker_count=2, most_by_memory=2, threads=1))
    yield executor
    executor.close()


@pytest.fixture(params=["serial", "ray_workers"])
def executor(request: pytest.FixtureRequest) -> Executor:
    found: Executor = request.getfixturevalue(request.param)
    return found


def test_jobs_come_back_with_what_was_asked(executor: Executor) -> None:
    results = []
    for trial, (stage, steps) in enumerate([("one_shot", 0), ("short", 3), ("full", 4)]):
        submit(executor, job(trial, stage, steps))  # type: ignore[arg-type]
        results.extend(outcomes(executor, 1))
    for result, (stage, steps) in zip(results, [("one_shot", 0), ("short", 3), ("full", 4)], strict=True):
        assert isinstance(result, Result)
        assert (result.stage, result.step_count) == (stage, steps)
        assert result.supernet_steps == (0 if stage == "full" else 5)
        assert 0 <= result.score <= 1 and result.score == result.metrics["accuracy"]
    assert executor.running == []


def test_a_result_does_not_depend_on_who_ran_it_or_what_ran_before(executor: Executor, setup: WorkerSetup) -> None:
    scores = []
    for trial in range(3):
        submit(executor, job(trial, "full", 3))
        (result,) = outcomes(executor, 1)
        assert isinstance(result, Result)
        scores.append((result.metrics, setup.weights_path(CandidateKey(trial)).read_bytes()))
    assert scores[0] == scores[1] == scores[2]


def test_no_more_jobs_than_slots_are_taken(executor: Executor) -> None:
    for trial in range(slot_count(executor)):
        submit(executor, job(trial))
    assert len(executor.running) == slot_count(executor)
    with pytest.raises(RuntimeError, match="taken"):
        submit(executor, job(99))
    assert len(outcomes(executor, slot_count(executor))) == slot_count(executor)


def test_a_candidate_that_cannot_run_is_a_failure_with_its_reason(setup: WorkerSetup, tmp_path: Path) -> None:
    for path in setup.frozen_paths:  # and no supernet
        shutil.copy(path, tmp_path)
    executor = SerialExecutor(replace(setup, run_directory=tmp_path))
    submit(executor, job(0))
    (failure,) = outcomes(executor, 1)
    assert isinstance(failure, Failure) and "supernet.safetensors: cannot load the weights" in failure.reason


def together(*architectures: Architecture) -> Job:
    members = [job(trial, architecture=architecture) for trial, architecture in enumerate(architectures)]
    return replace(members[0], companions=tuple(members[1:]))


def test_candidates_scored_together_get_the_scores_that_each_gets_alone(executor: Executor) -> None:
    group = together(ARCHITECTURE, PMFArchitecture(0, 1, 0, 1, 4), PMFArchitecture(1, 1, 2, 0, 4))
    submit(executor, group)
    assert [len(entry.members) for entry in executor.running] == [3]
    grouped = outcomes(executor, 3)
    for member, result in zip(group.members, grouped, strict=True):
        submit(executor, member)
        (alone,) = outcomes(executor, 1)
        assert isinstance(result, Result) and isinstance(alone, Result)
        assert (result.trial, result.architecture, result.metrics) == (alone.trial, alone.architecture, alone.metrics)


def test_of_candidates_scored_together_only_the_one_that_fails_is_a_failure(setup: WorkerSetup) -> None:
    executor = SerialExecutor(setup)
    submit(executor, together(ARCHITECTURE, PMFArchitecture(7, 1, 0, 1, 4)))  # there is no layer 7
    first, second = outcomes(executor, 2)
    assert isinstance(first, Result) and first.trial == 0
    assert isinstance(second, Failure) and second.job.trial == 1 and not second.job.companions


def test_running_jobs_can_be_stopped(executor: Executor) -> None:
    submit(executor, job(0, "full", 1_000_000))
    if slot_count(executor) > 1:
        time.sleep(1.0)
    (ended,) = executor.stop_running()
    assert ended.job.trial == 0 and ended.outcomes == ()
    assert executor.running == []
    submit(executor, job(1))
    assert isinstance(outcomes(executor, 1)[0], Result)


def test_a_worker_that_holds_more_than_it_was_granted_is_stopped_and_measured(ray_workers: Executor) -> None:
    submit(ray_workers, job(0, "full", 1_000_000), grant_bytes=64 * 2**20)
    (failure,) = outcomes(ray_workers, 1)
    assert isinstance(failure, Failure) and failure.kind == "memory"
    assert failure.measured_peak_bytes is not None and failure.measured_peak_bytes > 64 * 2**20


def test_idle_workers_end_and_start_again_when_they_are_needed(ray_workers: Executor) -> None:
    (device,) = ray_workers.devices
    ray_workers.stop_idle_workers(device.name, 1)
    assert ray_workers.devices[0].process_count == device.process_count - 1
    for trial in range(2):
        submit(ray_workers, job(trial))
    assert all(isinstance(outcome, Result) for outcome in outcomes(ray_workers, 2))
    assert ray_workers.devices[0].process_count == 2


def worker_process_ids() -> list[int]:
    """Processes that are actors of the Ray that this process has started, and of no other one."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(entry.name)] = (entry / "cmdline").read_bytes()
            except OSError:
                continue
    return [
        process
        for process, command in commands.items()
        if command.startswith(b"ray::WorkerActor.run") and parents.get(parents[process]) == os.getpid()
    ]


def test_a_killed_worker_is_replaced_and_its_job_comes_back(ray_workers: Executor) -> None:
    executor = ray_workers
    submit(executor, job(0, "full", 1_000_000))
    deadline = time.monotonic() + 60
    while not (victims := worker_process_ids()) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(victims[0], signal.SIGKILL)
    (failure,) = outcomes(executor, 1)
    assert (
        isinstance(failure, Failure)
        and failure.kind == "killed_externally"
        and failure.job == job(0, "full", 1_000_000)
    )
    for trial in range(slot_count(executor)):
        submit(executor, job(trial))
    assert all(isinstance(outcome, Result) for outcome in outcomes(executor, slot_count(executor)))
