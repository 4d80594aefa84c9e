"""Workers on the GPUs of a cluster: how they share them, and what happens where torch cannot use them.

The cluster declares GPUs that do not exist; Ray assigns them to workers like real ones.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from nas.common.errors import ExecutionError
from nas.execution.placement import Node, Placement
from nas.execution.ray.executor import RayExecutor
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import WorkerSetup
from nas.search.trial import Failure, Job, Result
from tests.support.factories import make_job
from tests.support.jobs import submit, wait_for_outcomes, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

GRANT_BYTES = 2**30


class TellsItsGpu(CandidateWorker):
    """Fails with a message that names the GPU that Ray has assigned; computes on the CPU."""

    def __init__(self, setup: WorkerSetup, on_exceeded: Callable[[int, int], None] | None = None) -> None:
        super().__init__(replace(setup, device="cpu"), on_exceeded)
        self._given = setup.device

    def run(self, job: Job, **rest: Any) -> list[Result]:
        raise RuntimeError(f"{self._given} is GPU {os.environ['CUDA_VISIBLE_DEVICES']}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 2, "include_dashboard": False})
    ray.init(address=found.address, log_to_driver=False)  # executors use it and leave it running
    yield found
    ray.shutdown()
    found.shutdown()


def test_workers_share_the_gpu_whose_memory_they_are_granted(
    setup: WorkerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.execution.ray.nodes.usable_gpus", lambda node: node.gpu_count)
    placement = Placement(worker_count=4, most_by_memory=1, threads=1)
    executor = RayExecutor(setup, placement=placement, factory=TellsItsGpu)
    seen: dict[str, set[str]] = {}
    try:
        assert [device.slot_count for device in executor.devices] == [2, 2]
        trials = iter(range(4))
        for device in reversed(executor.devices):  # Ray itself would give the first workers the first GPU
            for _ in range(device.slot_count):
                executor.submit(make_job(trial=next(trials)), device.name, GRANT_BYTES)
            for failure in wait_for_outcomes(executor, 2):
                assert isinstance(failure, Failure)
                seen.setdefault(device.name, set()).add(failure.reason.removeprefix("RuntimeError: "))
    finally:
        executor.close()
    assert sorted(map(len, seen.values())) == [1, 1], seen
    assert set().union(*seen.values()) == {"cuda:0 is GPU 0", "cuda:0 is GPU 1"}
    wait_until(lambda: ray.available_resources().get("GPU") == 2)  # they are given back


def test_gpus_that_torch_cannot_use_are_named_and_left_alone(setup: WorkerSetup) -> None:
    notes: list[str] = []
    placement = Placement(worker_count=1, most_by_memory=1, threads=1)
    executor = RayExecutor(setup, placement=placement, on_note=notes.append)
    try:
        submit(executor, make_job(trial=1))
        assert isinstance(wait_for_outcomes(executor, 1)[0], Result)
    finally:
        executor.close()
    (note,) = notes
    assert note.endswith(": torch can use 0 of the 2 GPUs that Ray sees")
    with pytest.raises(ExecutionError, match=r"--device: no node has a GPU that torch can use; .*, got 'cuda'"):
        RayExecutor(setup, placement=replace(placement, device="cuda"))


def test_gpus_whose_memory_is_not_predicted_need_a_choice(setup: WorkerSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.execution.ray.nodes.usable_gpus", lambda node: node.gpu_count)
    placement = Placement(worker_count=1, most_by_memory=1, threads=1, predicts_gpus=False)
    with pytest.raises(ExecutionError, match=r"--device: node \w+ has GPUs and the driver has none, .* got 'auto'"):
        RayExecutor(setup, placement=placement)


def test_gpus_are_not_used_if_the_cpu_is_asked_for(setup: WorkerSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(node: Node) -> int:
        raise AssertionError(node)

    monkeypatch.setattr("nas.execution.ray.nodes.usable_gpus", unexpected)
    placement = Placement(worker_count=2, most_by_memory=1, threads=1, device="cpu")
    executor = RayExecutor(setup, placement=placement)
    try:
        (device,) = executor.devices
        assert device.slot_count == 2 and "GPU" not in device.name
    finally:
        executor.close()
