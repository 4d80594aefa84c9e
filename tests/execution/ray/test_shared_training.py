"""Full trainings that workers on two GPUs share, through Ray: results, lost workers, stops.

The cluster declares GPUs that do not exist; the workers compute on the CPU and exchange their gradients by Gloo.
"""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from nas.execution.placement import Placement
from nas.execution.ray.executor import RayExecutor
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.search.keys import CandidateKey
from nas.search.trial import Failure, Job, Result
from nas.training.distributed import GradientGroup
from nas.training.loss_curve import LossPoint
from tests.support.factories import make_job
from tests.support.jobs import GRANT_BYTES, wait_for_outcomes, wait_until
from tests.support.processes import descendants

pytestmark = pytest.mark.long


FAILS = 7
"""The candidate whose training fails in the second process."""


class OnTheProcessor(CandidateWorker):
    """A worker of a GPU that computes on the CPU."""

    def __init__(self, setup: WorkerSetup, on_exceeded: Callable[[int, int], None] | None = None) -> None:
        super().__init__(replace(setup, device="cpu"), on_exceeded)

    def run(self, job: Job, *, group: GradientGroup | None = None, **rest: Any) -> list[Result]:
        if job.trial == FAILS and group is not None and group.rank == 1:
            raise RuntimeError("the cause")
        return super().run(job, group=group, **rest)


@pytest.fixture(scope="module")
def executor(setup: WorkerSetup) -> Iterator[RayExecutor]:
    """An executor with one worker on each of two GPUs."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)  # the executor uses it and leaves it running
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.execution.ray.nodes.usable_gpus", lambda node: node.gpu_count)
        patch.setattr("nas.execution.ray.supernet.communication_backend", lambda device: "gloo")
        placement = Placement(worker_count=2, most_by_memory=1, threads=1)
        found = RayExecutor(setup, placement=placement, factory=OnTheProcessor)
        assert [(device.slot_count, device.is_gpu) for device in found.devices] == [(1, True)] * 2
        yield found
        found.close()
    ray.shutdown()
    cluster.shutdown()


def submit_shared(executor: RayExecutor, job: Job) -> None:
    executor.submit_shared(job, [device.name for device in executor.devices], GRANT_BYTES)


def working_processes() -> list[int]:
    """Return the processes of the workers that take part in a training."""
    return [process for process, command in descendants().items() if command.startswith("ray::WorkerActor.run")]


def test_shared_training_has_the_weights_of_one_worker_and_one_result(
    executor: RayExecutor, setup: WorkerSetup
) -> None:
    curves: dict[int, tuple[LossPoint, ...]] = {}
    executor.follow_losses(lambda job, points: curves.update({job.trial: tuple(points)}))
    shared, alone = (make_job(trial=trial, stage="full", step_count=4) for trial in (1, 2))
    submit_shared(executor, shared)
    assert executor.running == [shared]
    with pytest.raises(RuntimeError, match="taken"):
        executor.submit(alone, executor.devices[1].name, GRANT_BYTES)
    (found,) = wait_for_outcomes(executor, 1)
    executor.submit(alone, executor.devices[1].name, GRANT_BYTES)
    (expected,) = wait_for_outcomes(executor, 1)
    executor.follow_losses(lambda job, points: None)
    assert isinstance(found, Result) and isinstance(expected, Result), (found, expected)
    assert (found.device_count, expected.device_count) == (2, 1)
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-5)
    weights = [load_file(setup.weights_path(CandidateKey(trial))) for trial in (1, 2)]
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=0)
    losses = [[point.loss for point in curves[trial]] for trial in (1, 2)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(losses[0]) == 4
    assert executor.running == [] and [device.process_count for device in executor.devices] == [1, 1]


def test_shared_training_that_loses_a_worker_is_one_failure_and_all_workers_are_replaced(
    executor: RayExecutor,
) -> None:
    job = make_job(trial=3, stage="full", step_count=1_000_000)
    submit_shared(executor, job)
    wait_until(lambda: len(working_processes()) == 2)
    os.kill(working_processes()[-1], signal.SIGKILL)
    (failure,) = wait_for_outcomes(executor, 1)
    assert isinstance(failure, Failure) and failure.kind == "killed_externally" and failure.job == job, failure
    assert executor.running == [] and [device.process_count for device in executor.devices] == [0, 0]
    submit_shared(executor, make_job(trial=4, stage="full", step_count=2))
    (result,) = wait_for_outcomes(executor, 1)
    assert isinstance(result, Result) and result.device_count == 2, result


def test_all_workers_of_a_shared_training_stop_and_live(executor: RayExecutor) -> None:
    submit_shared(executor, make_job(trial=5, stage="full", step_count=1_000_000))
    curves: list[int] = []
    executor.follow_losses(lambda job, points: curves.append(len(points)))
    wait_until(lambda: executor.wait(0.1) == [] and len(working_processes()) == 2)
    (ended,) = executor.stop_running()
    assert ended.job.trial == 5 and ended.outcomes == () and executor.running == []
    submit_shared(executor, make_job(trial=6, stage="full", step_count=2))
    (result,) = wait_for_outcomes(executor, 1)
    assert isinstance(result, Result) and result.device_count == 2, result


def test_error_of_one_worker_is_that_of_the_training_and_all_workers_live(executor: RayExecutor) -> None:
    submit_shared(executor, make_job(trial=FAILS, stage="full", step_count=1_000_000))
    (failure,) = wait_for_outcomes(executor, 1)
    assert isinstance(failure, Failure) and failure.kind == "error", failure
    assert failure.reason == "RuntimeError: the cause"
    assert executor.running == [] and [device.process_count for device in executor.devices] == [1, 1]
