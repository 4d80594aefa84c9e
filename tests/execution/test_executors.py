"""The contract of all executors, then what only Ray workers do."""

import math
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from nas.common.interrupt import SAVING_SIGNALS
from nas.execution.base import Executor
from nas.execution.placement import Placement
from nas.execution.ray.executor import RayExecutor
from nas.execution.serial import SerialExecutor
from nas.execution.worker_setup import WorkerSetup
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.keys import CandidateKey
from nas.search.space import Architecture
from nas.search.trial import Failure, Job, Result, Stage
from nas.training.loss_curve import LossPoint
from nas.training.trainer import train_steps
from tests.support.factories import ARCHITECTURE, make_job
from tests.support.jobs import slot_count, submit, wait_for_outcomes, wait_until
from tests.support.processes import descendants, listening_addresses


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


def test_jobs_of_all_stages_return_their_results(executor: Executor) -> None:
    results = []
    stages: list[tuple[Stage, int]] = [("one_shot", 0), ("short", 3), ("full", 4)]
    for trial, (stage, steps) in enumerate(stages):
        submit(executor, make_job(trial=trial, stage=stage, step_count=steps))
        results.extend(wait_for_outcomes(executor, 1))
    for result, (stage, steps) in zip(results, stages, strict=True):
        assert isinstance(result, Result)
        assert (result.stage, result.step_count) == (stage, steps)
        assert result.supernet_steps == (0 if stage == "full" else 5)
        assert 0 <= result.score <= 1 and result.score == result.metrics["accuracy"]
    assert executor.running == []


def test_result_does_not_depend_on_the_worker_or_its_earlier_jobs(executor: Executor, setup: WorkerSetup) -> None:
    scores = []
    for trial in range(3):
        submit(executor, make_job(trial=trial, stage="full", step_count=3))
        (result,) = wait_for_outcomes(executor, 1)
        assert isinstance(result, Result)
        weights = load_file(setup.weights_path(CandidateKey(trial)))  # the rest of the file names the trial
        scores.append((result.metrics, {name: values.numpy().tobytes() for name, values in weights.items()}))
    assert scores[0] == scores[1] == scores[2]


def test_learning_curve_of_a_training_arrives_before_its_outcome(executor: Executor, setup: WorkerSetup) -> None:
    received: list[tuple[Job, tuple[LossPoint, ...]]] = []
    executor.follow_losses(lambda job, points: received.append((job, tuple(points))))
    try:
        submit(executor, make_job(trial=70))  # a candidate that is scored has none
        wait_for_outcomes(executor, 1)
        assert not received
        curves = []
        for trial in (71, 72):
            job = make_job(trial=trial, stage="full", step_count=45)
            submit(executor, job)
            wait_for_outcomes(executor, 1)
            assert {sent.identity for sent, _ in received} == {job.identity}
            curves.append(received[-1][1])
            assert all(earlier == curves[-1][: len(earlier)] for _, earlier in received)
            received.clear()
    finally:
        executor.follow_losses(lambda job, points: None)
    first, second = ([(point.step, point.epoch, point.loss) for point in curve] for curve in curves)
    assert first == second and [step for step, *_ in first] == [step for step in STEPS_WITH_POINTS if step]
    step_losses = losses_of_steps(setup, step_count=45)
    for (before, after), (step, epoch, loss) in zip(pairwise(STEPS_WITH_POINTS), first, strict=True):
        assert step == after and epoch == after * setup.config.recipe.batch_size / TRAIN_SAMPLES
        assert loss == pytest.approx(sum(step_losses[before:after]) / (after - before), rel=1e-6)


TRAIN_SAMPLES = 36  # three fifths of those of the project
STEPS_WITH_POINTS = [0, *(math.ceil(45 * point / 40) for point in range(1, 41))]


def losses_of_steps(setup: WorkerSetup, *, step_count: int) -> list[float]:
    """Return the loss of every step of the job's training, computed without a worker's curve."""
    losses: list[float] = []

    def train_and_listen(**settings: Any) -> None:
        train_steps(**{**settings, "on_step": lambda step, loss: losses.append(loss)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.execution.training_job.train_steps", train_and_listen)
        executor = SerialExecutor(setup)
        submit(executor, make_job(trial=73, stage="full", step_count=step_count))
        wait_for_outcomes(executor, 1)
    return losses


def test_no_more_jobs_than_slots_are_accepted(executor: Executor) -> None:
    for trial in range(slot_count(executor)):
        submit(executor, make_job(trial=trial))
    assert len(executor.running) == slot_count(executor)
    with pytest.raises(RuntimeError, match="taken"):
        submit(executor, make_job(trial=99))
    assert len(wait_for_outcomes(executor, slot_count(executor))) == slot_count(executor)


def test_executor_with_one_device_shares_no_training(serial: Executor) -> None:
    job = make_job(stage="full", step_count=1)
    with pytest.raises(RuntimeError, match="trial_0: cannot be shared by this process, another; expected one device"):
        serial.submit_shared(job, ["this process", "another"], 1)


def test_candidate_that_cannot_run_is_a_failure_with_its_reason(setup: WorkerSetup, tmp_path: Path) -> None:
    for path in setup.frozen_paths:  # but not the supernet
        shutil.copy(path, tmp_path)
    executor = SerialExecutor(replace(setup, run_directory=tmp_path))
    submit(executor, make_job())
    (failure,) = wait_for_outcomes(executor, 1)
    assert (
        isinstance(failure, Failure)
        and "supernet.safetensors: cannot be read: no such file or directory; expected trained weights"
        in failure.reason
    )


def make_group(*architectures: Architecture) -> Job:
    members = [make_job(trial=trial, architecture=architecture) for trial, architecture in enumerate(architectures)]
    return replace(members[0], companions=tuple(members[1:]))


def test_candidates_scored_together_get_the_same_scores_as_alone(executor: Executor) -> None:
    group = make_group(ARCHITECTURE, PMFArchitecture(0, 1, 0, 1, 4), PMFArchitecture(1, 1, 2, 0, 4))
    submit(executor, group)
    assert [len(entry.members) for entry in executor.running] == [3]
    grouped = wait_for_outcomes(executor, 3)
    for member, result in zip(group.members, grouped, strict=True):
        submit(executor, member)
        (alone,) = wait_for_outcomes(executor, 1)
        assert isinstance(result, Result) and isinstance(alone, Result)
        assert (result.trial, result.architecture, result.metrics) == (alone.trial, alone.architecture, alone.metrics)


def test_only_the_failing_member_of_a_group_is_a_failure(setup: WorkerSetup) -> None:
    executor = SerialExecutor(setup)
    submit(executor, make_group(ARCHITECTURE, PMFArchitecture(7, 1, 0, 1, 4)))  # layer 7 does not exist
    first, second = wait_for_outcomes(executor, 2)
    assert isinstance(first, Result) and first.trial == 0
    assert isinstance(second, Failure) and second.job.trial == 1 and not second.job.companions


def test_running_jobs_can_be_stopped(executor: Executor) -> None:
    submit(executor, make_job(stage="full", step_count=1_000_000))
    if isinstance(executor, RayExecutor):
        wait_until(lambda: bool(worker_process_ids()))
    (ended,) = executor.stop_running()
    assert ended.job.trial == 0 and ended.outcomes == ()
    assert executor.running == []
    submit(executor, make_job(trial=1))
    assert isinstance(wait_for_outcomes(executor, 1)[0], Result)


def test_worker_that_exceeds_its_grant_is_stopped_and_measured(ray_workers: Executor) -> None:
    submit(ray_workers, make_job(stage="full", step_count=1_000_000), grant_bytes=64 * 2**20)
    (failure,) = wait_for_outcomes(ray_workers, 1)
    assert isinstance(failure, Failure) and failure.kind == "memory"
    assert failure.measured_peak_bytes is not None and failure.measured_peak_bytes > 64 * 2**20


def test_idle_workers_end_and_start_again_when_they_are_needed(ray_workers: Executor) -> None:
    name = ray_workers.devices[0].name
    ray_workers.start_workers(name, 2)  # those that no earlier test has started
    assert ray_workers.devices[0].process_count == 2
    ray_workers.stop_idle_workers(name, 1)
    assert ray_workers.devices[0].process_count == 1
    for trial in range(2):
        submit(ray_workers, make_job(trial=trial))
    assert all(isinstance(outcome, Result) for outcome in wait_for_outcomes(ray_workers, 2))
    assert ray_workers.devices[0].process_count == 2


def worker_process_ids() -> list[int]:
    """Return the processes that run a job for the Ray that this process has started."""
    return [process for process, command in descendants().items() if command.startswith("ray::WorkerActor.run")]


def test_private_ray_listens_on_the_loopback_interface_only(ray_workers: Executor) -> None:
    submit(ray_workers, make_job())  # a worker listens as well
    wait_for_outcomes(ray_workers, 1)
    addresses = {process: listening_addresses(process) for process in [os.getpid(), *descendants()]}
    assert sum(map(len, addresses.values())) >= 5, "GCS, raylet, its object manager, agent, driver"
    assert {address for found in addresses.values() for address in found} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_signals_that_a_terminal_or_a_batch_system_sends_to_all_processes_stop_no_worker(
    ray_workers: Executor,
) -> None:
    submit(ray_workers, make_job())
    wait_for_outcomes(ray_workers, 1)
    submit(ray_workers, make_job(trial=1, stage="full", step_count=1_000_000))
    wait_until(lambda: bool(worker_process_ids()))
    workers = worker_process_ids()
    for process, command in descendants().items():
        if "raylet" in command or "gcs_server" in command or command.startswith("ray::WorkerActor"):
            for number in SAVING_SIGNALS:
                os.kill(process, number)
    assert worker_process_ids() == workers
    (ended,) = ray_workers.stop_running()
    assert ended.outcomes == ()
    submit(ray_workers, make_job(trial=2))
    assert isinstance(wait_for_outcomes(ray_workers, 1)[0], Result)


def test_killed_worker_is_replaced_and_its_job_fails_externally(ray_workers: Executor) -> None:
    executor = ray_workers
    job = make_job(stage="full", step_count=1_000_000)
    submit(executor, job)
    wait_until(lambda: bool(worker_process_ids()))
    os.kill(worker_process_ids()[0], signal.SIGKILL)
    (failure,) = wait_for_outcomes(executor, 1)
    assert isinstance(failure, Failure) and failure.kind == "killed_externally" and failure.job == job
    for trial in range(slot_count(executor)):
        submit(executor, make_job(trial=trial))
    assert all(isinstance(outcome, Result) for outcome in wait_for_outcomes(executor, slot_count(executor)))
