"""Which trainings several accelerators share, and what becomes of them."""

import random
from collections.abc import Callable, Sequence

import pytest

from nas.execution.base import EndedJob
from nas.execution.failure_policy import FailurePolicy
from nas.execution.memory_pool import MemoryPool
from nas.execution.plan import Plan
from nas.execution.scheduler import JobScheduler
from nas.execution.sharing import share_idle_devices
from nas.search.trial import Failure, Job, Result
from tests.support.factories import make_job
from tests.support.search_loop import SimulatedExecutor

BUDGET_BYTES, IDLE_BYTES, NEED_BYTES = 1000, 100, 300


def training(trial: int, most_devices: int = 8, need_bytes: int = NEED_BYTES) -> Job:
    return make_job(trial=trial, stage="full", step_count=1, predicted_peak_bytes=need_bytes, most_devices=most_devices)


def gpus(count: int, slots: int = 1) -> dict[str, MemoryPool]:
    """Return the pools of idle accelerators with living processes."""
    return {f"GPU {number}": MemoryPool(BUDGET_BYTES, slots, IDLE_BYTES, idle_count=slots) for number in range(count)}


def shared_sizes(pools: dict[str, MemoryPool], *jobs: Job) -> list[int]:
    """Admit one job to each of the first devices, and return the number of devices that each job gets."""
    starting = [(job, f"GPU {number}") for number, job in enumerate(jobs)]
    for job, device in starting:
        pools[device].admit(job.identity, job.reserved_bytes)
    needs = {job.identity: job.reserved_bytes for job in jobs}
    found = share_idle_devices(starting, needs, pools, pools.keys())
    for job, device, _ in found:
        assert pools[device].granted(job.identity) == job.reserved_bytes
    assert len({device for _, device, _ in found}) == len(found)
    return [1 + sum(other is job for other, _, _ in found) for job in jobs]


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [
        (1, [8], [1]),
        (4, [8], [4]),
        (4, [3], [3]),
        (4, [1], [1]),
        (4, [8, 8], [2, 2]),
        (5, [8, 8], [3, 2]),
        (5, [1, 8], [1, 4]),
        (3, [8, 8, 8], [1, 1, 1]),
    ],
)
def test_idle_accelerators_go_to_the_trainings_in_equal_numbers(count: int, most: list[int], sizes: list[int]) -> None:
    assert shared_sizes(gpus(count), *(training(trial, number) for trial, number in enumerate(most))) == sizes


def test_accelerators_without_room_are_left_and_idle_processes_end_for_a_training() -> None:
    pools = gpus(3, slots=4)
    pools["GPU 1"].budget_bytes = NEED_BYTES - 1
    job = training(0, need_bytes=800)
    pools["GPU 0"].admit(job.identity, 800)
    # Three other processes of the third device hold 300 in addition to the 800, so that one has to end.
    assert share_idle_devices([(job, "GPU 0")], {job.identity: 800}, pools, pools.keys()) == [(job, "GPU 2", 1)]


def test_busy_accelerators_and_processors_are_not_shared() -> None:
    pools = gpus(2, slots=2)
    pools["GPU 1"].admit("another job", 10)
    assert shared_sizes(pools, training(0)) == [1]
    pools, job = gpus(2), training(0)
    pools["GPU 0"].admit(job.identity, 10)
    assert share_idle_devices([(job, "GPU 0")], {job.identity: 10}, pools, ()) == []
    assert share_idle_devices([(job, "GPU 0")], {job.identity: 10}, pools, ["GPU 1"]) == [], "its own is a processor"


class Trainings(Plan):
    """Trainings that are all ready at once, and are repeated when they come back.

    Args:
        jobs: The trainings.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._waiting = list(jobs)
        self.results: list[Result] = []

    def next_jobs(self) -> list[Job]:
        jobs, self._waiting = self._waiting, []
        return jobs

    def finished(self, result: Result) -> None:
        self.results.append(result)

    def rejected(self, failure: Failure) -> None:
        raise AssertionError(failure)

    def requeue(self, job: Job) -> None:
        self._waiting.append(job)


def run(
    executor: SimulatedExecutor,
    jobs: Sequence[Job],
    *,
    is_over: Callable[[], bool] = lambda: False,
    runs_alone: Callable[[Job], bool] = lambda job: False,
) -> tuple[Trainings, list[EndedJob]]:
    """Run trainings, and return the plan and where they ended; nothing is reserved afterwards but by idle processes."""
    ended: list[EndedJob] = []
    scheduler = JobScheduler(
        executor=executor,
        budget_bytes=BUDGET_BYTES,
        idle_bytes=IDLE_BYTES,
        policy=FailurePolicy(was_alone=runs_alone, try_alone=lambda job: None, record=lambda failure: None),
        runs_alone=runs_alone,
        take=lambda result: None,
        show=lambda failure, verdict: None,
        now=lambda: 0.0,
    )
    scheduler.watch(ended.append)
    before = scheduler.reserved_bytes
    plan = Trainings(jobs)
    scheduler.run(plan, is_over=is_over)
    assert scheduler.reserved_bytes <= before
    return plan, ended


def places(executor: SimulatedExecutor) -> list[list[int]]:
    """Return the numbers of the devices of every job, in the order of their starts."""
    return [[int(device.removeprefix("device ")) for device in devices] for _, devices in executor.submitted]


def gpu_executor(count: int, fate: Callable[[Job, int], Failure | None] = lambda job, grant: None) -> SimulatedExecutor:
    return SimulatedExecutor([1] * count, random.Random(0), fate=fate, are_gpus=True)


def test_trainings_are_shared_while_there_are_fewer_than_accelerators() -> None:
    executor = gpu_executor(3)
    plan, ended = run(executor, [training(trial) for trial in range(2)])
    assert places(executor) == [[0, 2], [1]]
    assert sorted(result.device_count for result in plan.results) == [1, 2]
    # The report has a shared training once for each of its devices.
    assert sorted(entry.device for entry in ended) == ["device 0", "device 1", "device 2"]


def test_trainings_that_wait_for_an_accelerator_come_first() -> None:
    executor = gpu_executor(2)
    plan, _ = run(executor, [training(trial) for trial in range(3)])
    assert [len(devices) for devices in places(executor)] == [1, 1, 1]
    assert len(plan.results) == 3


def test_workers_on_processors_share_nothing() -> None:
    executor = SimulatedExecutor([1, 1], random.Random(0))
    run(executor, [training(0)])
    assert places(executor) == [[0]]


def test_training_that_loses_one_of_its_workers_is_repeated_on_one_accelerator() -> None:
    tries = 0

    def fate(job: Job, grant: int) -> Failure | None:
        nonlocal tries
        tries += 1
        assert grant == NEED_BYTES
        return Failure(job, "killed_externally", "killed", "its worker was killed") if tries == 1 else None

    executor = gpu_executor(2, fate)
    plan, _ = run(executor, [training(0)])
    assert [len(devices) for devices in places(executor)] == [2, 1]
    assert [result.device_count for result in plan.results] == [1]


def test_training_whose_accelerator_is_lost_is_repeated_on_another() -> None:
    def lose() -> None:
        if len(executor.devices) == 2:
            executor.lose("device 0")

    executor = SimulatedExecutor([1] * 2, random.Random(0), on_end=lose, are_gpus=True)
    plan, _ = run(executor, [training(0)])
    assert places(executor) == [[0, 1], [1]]
    assert len(plan.results) == 1


def test_training_that_ran_out_of_memory_has_one_whole_accelerator() -> None:
    executor = gpu_executor(2)
    run(executor, [training(0)], runs_alone=lambda job: True)
    assert places(executor) == [[0]]
    assert executor.most_granted == BUDGET_BYTES


def test_end_of_the_time_stops_a_shared_training_and_frees_all_of_its_accelerators() -> None:
    calls = 0

    def is_over() -> bool:
        nonlocal calls
        calls += 1
        return calls > 1 and bool(executor.submitted)

    executor = gpu_executor(2)
    executor.wait = lambda timeout_seconds: []  # type: ignore[method-assign] # it ends by itself too late
    plan, ended = run(executor, [training(0)], is_over=is_over)
    assert places(executor) == [[0, 1]] and plan.results == []
    assert [(entry.device, entry.outcomes) for entry in ended] == [("device 0", ()), ("device 1", ())]
    assert [job.trial for job in plan.next_jobs()] == [0], "it is due again"
