"""The processes of the supernet's training, their loss, and the memory that jobs are granted.

tests/run/test_phases.py tests the order and the fate of jobs.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from nas.common.errors import TrainingError
from nas.execution.base import Device, SupernetJob, WorkerLost
from nas.execution.failure_policy import FailurePolicy
from nas.execution.plan import Plan
from nas.execution.scheduler import JobScheduler
from nas.memory.overheads import PROCESS_BYTES, bytes_with_fragmentation
from nas.search.trial import Failure, Job, Result
from tests.support.factories import make_job
from tests.support.search_loop import SimulatedExecutor

BUDGET_BYTES, IDLE_BYTES = 1000, 100
MIB = 2**20


class Group(SimulatedExecutor):
    """Devices by name, recording the requests that they receive.

    Args:
        slots: The number of slots of each device.
        losses: The number of processes lost before the training succeeds.
    """

    def __init__(self, slots: Mapping[str, int], losses: int = 0) -> None:
        self.slots = dict(slots)
        self.losses = losses
        self.requests: list[tuple[dict[str, int], int]] = []
        self.ended: dict[str, int] = {}

    @property
    def devices(self) -> list[Device]:
        return [Device(name, count, count, is_gpu="GPU" in name) for name, count in self.slots.items()]

    def stop_idle_workers(self, device: str, count: int) -> None:
        self.ended[device] = self.ended.get(device, 0) + count

    def train_supernet(
        self,
        job: SupernetJob,
        *,
        processes: Mapping[str, int],
        grant_bytes: int,
        should_stop: Callable[[], bool],
        on_progress: Callable[[Any], None],
    ) -> int:
        self.requests.append((dict(processes), grant_bytes))
        if len(self.requests) <= self.losses:
            raise WorkerLost(f"loss {len(self.requests)}")
        return 7


class OneAfterAnother(Plan):
    """Full trainings with the given predicted peaks."""

    def __init__(self, *needs: int) -> None:
        self._jobs = [
            make_job(trial=trial, stage="full", step_count=1, predicted_peak_bytes=need)
            for trial, need in enumerate(needs)
        ]

    def next_jobs(self) -> list[Job]:
        return [self._jobs.pop(0)] if self._jobs else []

    def finished(self, result: Result) -> None:
        pass

    def rejected(self, failure: Failure) -> None:
        raise AssertionError(failure)

    def requeue(self, job: Job) -> None:
        raise AssertionError(job)


def dispatcher(
    executor: SimulatedExecutor, budget_bytes: int = BUDGET_BYTES, now: Callable[[], float] = lambda: 0.0
) -> JobScheduler:
    return JobScheduler(
        executor=executor,
        budget_bytes=budget_bytes,
        idle_bytes=IDLE_BYTES,
        policy=FailurePolicy(was_alone=lambda job: False, try_alone=lambda job: None, record=lambda failure: None),
        runs_alone=lambda job: False,
        take=lambda result: None,
        show=lambda failure, verdict: None,
        now=now,
    )


def trained(executor: Group, process_count: int, peak_bytes: int) -> tuple[int, int, list[str]]:
    lost: list[str] = []
    under_test = dispatcher(executor)
    before = under_test.reserved_bytes
    done, shared_by = under_test.train_supernet(
        SupernetJob(None, {}, peak_bytes),
        process_count=process_count,
        should_stop=lambda: False,
        on_progress=lambda progress: None,
        on_lost=lost.append,
    )
    assert under_test.reserved_bytes <= before  # released
    return done, shared_by, lost


@pytest.mark.parametrize(
    ("slots", "process_count", "peak_bytes", "processes", "grant_bytes", "ended"),
    [
        ({"host": 4}, 2, 300, {"host": 2}, 400, {}),  # two idle ones keep 200
        ({"host": 4}, 8, 200, {"host": 4}, 250, {}),
        ({"host": 4}, 4, 450, {"host": 2}, 450, {"host": 1}),  # one more idle process would pass the budget
        ({"host": 4}, 4, 5000, {"host": 1}, 1000, {"host": 3}),  # parts of the batch are smaller than predicted
        ({"host": 2, "other": 4}, 3, 300, {"host": 2, "other": 1}, 500, {}),
        ({"GPU 0": 1, "GPU 1": 1}, 4, 900, {"GPU 0": 1, "GPU 1": 1}, 1000, {}),
        ({"host": 2, "GPU 0": 1}, 3, 300, {"GPU 0": 1}, 1000, {}),  # weights on CPUs and GPUs would drift apart
    ],
)
def test_as_many_processes_as_fit_take_part_and_idle_ones_end_for_them(
    slots: dict[str, int],
    process_count: int,
    peak_bytes: int,
    processes: dict[str, int],
    grant_bytes: int,
    ended: dict[str, int],
) -> None:
    executor = Group(slots)
    assert trained(executor, process_count, peak_bytes) == (7, sum(processes.values()), [])
    assert executor.requests == [(processes, grant_bytes)]
    assert executor.ended == ended
    for name, count in processes.items():
        idle = slots[name] - count - ended.get(name, 0)
        assert count * grant_bytes + idle * IDLE_BYTES <= BUDGET_BYTES


def test_training_resumes_after_lost_processes_up_to_a_limit() -> None:
    assert trained(Group({"host": 2}, losses=3), 2, 100) == (7, 2, ["loss 1", "loss 2", "loss 3"])
    with pytest.raises(TrainingError, match="its workers died 4 times: loss 4"):
        trained(Group({"host": 2}, losses=4), 2, 100)


def test_training_that_resumes_has_only_the_rest_of_its_time() -> None:
    given: list[float | None] = []

    class Notes(Group):
        def train_supernet(self, job: SupernetJob, **arguments: Any) -> int:
            given.append(job.seconds_left)
            times.append(times[-1] + 7)
            return super().train_supernet(job, **arguments)

    times = [100.0]
    dispatcher(Notes({"host": 1}, losses=2), now=lambda: times[-1]).train_supernet(
        SupernetJob(None, {}, 100, seconds_left=10.0),
        process_count=1,
        should_stop=lambda: False,
        on_progress=lambda progress: None,
        on_lost=lambda reason: None,
    )
    assert given == [10, 3, 0]


def test_process_of_a_lost_node_is_replaced_on_another() -> None:
    class Loses(Group):
        def train_supernet(self, job: SupernetJob, **arguments: Any) -> int:
            if len(self.requests) == 0:
                self.requests.append((dict(arguments["processes"]), arguments["grant_bytes"]))
                del self.slots["host"]
                raise WorkerLost("its node was lost")
            return super().train_supernet(job, **arguments)

    executor = Loses({"host": 1, "other": 1})
    assert trained(executor, 1, 100) == (7, 1, ["its node was lost"])
    assert executor.requests == [({"host": 1}, 1000), ({"other": 1}, 1000)]


@pytest.mark.parametrize(
    ("budget_bytes", "ample"),
    [
        (2 * PROCESS_BYTES + 360 * MIB, [True, False]),  # 160 MiB with fragmentation, and 200 MiB for the other
        (2 * PROCESS_BYTES + 359 * MIB, [False, False]),
        (2 * PROCESS_BYTES + 700 * MIB, [True, True]),
    ],
)
def test_job_is_granted_room_for_freed_memory_if_every_other_slot_keeps_its_own(
    budget_bytes: int, ample: list[bool]
) -> None:
    needs = [PROCESS_BYTES + 100 * MIB, PROCESS_BYTES + 200 * MIB]
    granted = []

    class Notes(SimulatedExecutor):
        def submit(self, job: Job, device: str, grant_bytes: int) -> None:
            granted.append(grant_bytes)
            super().submit(job, device, grant_bytes)

    executor = Notes([2], random.Random(0))
    dispatcher(executor, budget_bytes).run(OneAfterAnother(*needs), is_over=lambda: False)
    assert granted == [
        bytes_with_fragmentation(need) if more else need for need, more in zip(needs, ample, strict=True)
    ]
    assert executor.most_granted <= budget_bytes
