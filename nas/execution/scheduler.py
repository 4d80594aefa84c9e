"""Keeps the slots of all devices busy with the jobs of a plan, within every device's memory budget."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from nas.common.errors import TrainingError
from nas.execution.base import Executor, JobOutcome, SupernetJob, SupernetProgress, WorkerLost
from nas.execution.failure_policy import FailurePolicy
from nas.execution.job_queue import JobQueue
from nas.execution.memory_pool import MemoryPool
from nas.execution.plan import Plan
from nas.memory.prediction import bytes_with_fragmentation
from nas.search.keys import ModelKey
from nas.search.trial import Failure, Job, Result, Stage

_WAIT_SECONDS = 0.2
_SUPERNET_DEATHS = 3
_QUICK_SECONDS = 3.0
"""After an interruption, jobs that end within this time are not stopped."""


class JobScheduler:
    """Runs plans, one after another.

    Args:
        executor: Runs jobs.
        budget_bytes: Of each device.
        idle_bytes: What a worker process holds without a job.
        policy: Judges failures.
        runs_alone: Whether a job is to have a whole device, because it ran out of memory beside others.
        take: Makes a result durable, and shows it.
        show: Told of a job and what became of it, where that is no result.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        *,
        executor: Executor,
        budget_bytes: int,
        idle_bytes: int,
        policy: FailurePolicy,
        runs_alone: Callable[[Job], bool],
        take: Callable[[Result], None],
        show: Callable[[Failure, str], None],
        now: Callable[[], float],
    ) -> None:
        self._executor = executor
        self._budget_bytes = budget_bytes
        self._idle_bytes = idle_bytes
        self._policy = policy
        self._runs_alone = runs_alone
        self._take = take
        self._show = show
        self._now = now
        self._ledgers: dict[str, MemoryPool] = {}
        self._line = JobQueue()
        self._waiting: dict[Hashable, Job] = {}
        self._places: dict[tuple[ModelKey, Stage], str] = {}
        self._largest_bytes = 0
        self._look_at_devices()

    @property
    def reserved_bytes(self) -> int:
        """Of all devices: what running jobs may reach and idle workers hold."""
        return sum(ledger.reserved_bytes for ledger in self._ledgers.values())

    @property
    def slot_count(self) -> int:
        return sum(ledger.slot_count for ledger in self._ledgers.values())

    def run(
        self,
        plan: Plan,
        *,
        is_over: Callable[[], bool],
        is_interrupted: Callable[[], bool] = lambda: False,
        in_rounds: bool = False,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep the slots busy until there is nothing more to do or the phase is over.

        What is still running then is stopped, put back, and stays to be done.

        Args:
            plan: What to run.
            is_over: Whether the phase has to end now.
            is_interrupted: Whether it has to end as soon as what is quick has ended.
            in_rounds: Ask the plan only when everything that it wanted before has ended.
            on_turn: Called in every turn of the loop.

        Raises:
            TrainingError: If training fails the same way again and again.
        """
        self._executor.stop_when(lambda: is_over() or is_interrupted())
        try:
            while not is_over() and not is_interrupted():
                self._look_at_devices()
                self._start_jobs(plan, in_rounds=in_rounds)
                if not self._executor.running and not self._line:
                    break
                self._collect(plan)
                on_turn()
            until = self._now() + _QUICK_SECONDS
            while is_interrupted() and not is_over() and self._executor.running and self._now() < until:
                self._collect(plan)
        finally:
            # Also when something went wrong: what has come back meanwhile is kept.
            for ended in self._executor.stop_running():
                self._end(plan, ended)
            for key in list(self._waiting):
                self._line.remove(key)
                plan.put_back(self._waiting.pop(key))
        self._policy.settle()

    def train_supernet(
        self,
        order: SupernetJob,
        *,
        process_count: int,
        should_stop: Callable[[], bool],
        on_progress: Callable[[SupernetProgress], None],
        on_lost: Callable[[str], None],
    ) -> tuple[int, int]:
        """Train the supernet in several processes, from its last checkpoint where one of them is lost.

        Args:
            order: What may be sampled.
            process_count: That share the work, at most; fewer where slots or memory are fewer.
            should_stop: Training then ends early, saved.
            on_progress: Told now and then.
            on_lost: Told why a process was lost.

        Returns:
            Steps done in all, and how many processes have shared them.

        Raises:
            TrainingError: If it cannot be trained, or its processes die again and again.
        """
        deaths = 0
        while True:
            try:
                with self._together(process_count, min(order.peak_bytes, self._budget_bytes)) as (
                    processes,
                    grant_bytes,
                ):
                    done = self._executor.train_supernet(
                        order,
                        processes=processes,
                        grant_bytes=grant_bytes,
                        should_stop=should_stop,
                        on_progress=on_progress,
                    )
                    return done, sum(processes.values())
            except WorkerLost as error:
                deaths += 1
                if deaths > _SUPERNET_DEATHS:
                    raise TrainingError(
                        f"the supernet could not be trained: its workers died {deaths} times: {error}"
                    ) from error
                on_lost(str(error))

    @contextmanager
    def _together(self, process_count: int, peak_bytes: int) -> Iterator[tuple[Mapping[str, int], int]]:
        """Reserve what so many processes may reach, or as many of them as there is room for; no job may run.

        Gives how many each device has room for, and what each of them may hold: of a device they have all that the
        idle ones leave.
        """
        self._look_at_devices()
        reserved: list[tuple[str, Hashable]] = []
        # One device after another: processes that are near each other exchange their gradients faster.
        for name, ledger in self._ledgers.items():
            while len(reserved) < process_count and (ended := ledger.processes_in_the_way(peak_bytes)) is not None:
                key: Hashable = ("together", len(reserved))
                ledger.admit(key, peak_bytes)
                reserved.append((name, key))
                if ended:
                    self._executor.end_idle(name, ended)
        processes: dict[str, int] = {}
        for name, _ in reserved:
            processes[name] = processes.get(name, 0) + 1
        rooms = []
        for name, count in processes.items():
            ledger = self._ledgers[name]
            rooms.append((ledger.budget_bytes - ledger.idle_count * ledger.idle_bytes) // count)
        try:
            yield processes, min(rooms)
        finally:
            for name, key in reserved:
                self._ledgers[name].release(key, process_lives=True)

    def _look_at_devices(self) -> None:
        """Open a ledger for every device that has come, and close those of devices that are gone."""
        devices = {device.name: device for device in self._executor.devices}
        for name in self._ledgers.keys() - devices.keys():
            del self._ledgers[name]
        for name in [name for name in devices if name not in self._ledgers]:
            ledger = MemoryPool(self._budget_bytes, devices[name].slot_count, self._idle_bytes)
            # All workers start at once where there is room for them, so that the first jobs need not wait in turn.
            room = self._budget_bytes // self._idle_bytes if self._idle_bytes else ledger.slot_count
            ledger.idle_count = min(ledger.slot_count, max(room, 1))
            self._executor.start_workers(name, ledger.idle_count)
            self._ledgers[name] = ledger

    def _start_jobs(self, plan: Plan, *, in_rounds: bool) -> None:
        starting: list[tuple[Job, str]] = []
        try:
            self._admit_jobs(plan, starting, in_rounds=in_rounds)
        except BaseException:
            for job, device in starting:
                self._ledgers[device].release(job.identity, process_lives=True)
                plan.put_back(job)
            raise
        for job, device in starting:  # all of them are admitted, so none is kept out by what another does not need
            self._widen(job, self._ledgers[device])
            self._places[job.identity] = device
            self._executor.submit(job, device, self._ledgers[device].granted(job.identity))

    def _admit_jobs(self, plan: Plan, starting: list[tuple[Job, str]], *, in_rounds: bool) -> None:
        """Ask the plan for jobs, and add those that can start now, with their devices."""
        while True:
            while (admitted := self._line.admit_next(self._ledgers)) is not None:
                key, device, ended_count = admitted
                starting.append((self._waiting.pop(key), device))
                if ended_count:
                    self._executor.end_idle(device, ended_count)
            busy = len(self._executor.running) + len(starting)
            if in_rounds:
                wants_more = not busy and not self._line
            else:
                # Beside those for the free slots some more, of which one may fit where the first does not.
                wants_more = busy < self.slot_count and len(self._line) < 2 * self.slot_count
            jobs = plan.next_jobs() if wants_more else []
            if not jobs:
                return
            for job in jobs:
                self._waiting[job.identity] = job
                self._line.add(job.identity, self._reservation(job))
                self._largest_bytes = max(self._largest_bytes, job.reserved_bytes)

    def _reservation(self, job: Job) -> int:
        """What a job waits for: a job that ran out of memory is tried once more with a whole device."""
        return self._budget_bytes if any(map(self._runs_alone, job.members)) else job.reserved_bytes

    def _widen(self, job: Job, ledger: MemoryPool) -> None:
        """Grant a job more than it needs, so that its worker can keep what it frees, where that is in nobody's way.

        Even if every other slot had the largest job so far.
        """
        ample_bytes = bytes_with_fragmentation(job.reserved_bytes)
        others_bytes = (ledger.slot_count - 1) * self._largest_bytes
        if ledger.granted(job.identity) < ample_bytes and ample_bytes + others_bytes <= ledger.budget_bytes:
            ledger.extend(job.identity, ample_bytes)

    def _collect(self, plan: Plan) -> None:
        for ended in self._executor.wait(_WAIT_SECONDS):
            self._end(plan, ended)

    def _end(self, plan: Plan, ended: JobOutcome) -> None:
        ledger = self._ledgers.get(self._places.pop(ended.job.identity))
        if ledger is not None and ledger.holds(ended.job.identity):
            ledger.release(ended.job.identity, process_lives=ended.process_lives)
        came = set()
        for outcome in ended.outcomes:
            if isinstance(outcome, Result):
                came.add((outcome.key, outcome.stage))
                self._policy.settle()
                self._take(outcome)
                plan.took(outcome)
            else:
                came.add(outcome.job.identity)
                # Of members that went down together nobody knows whose doing it was; each is tried by itself.
                is_shared = not ended.process_lives and len(ended.job.members) > 1
                self._judge(plan, _shared(outcome, ended.job) if is_shared else outcome)
        for member in ended.job.members:
            if member.identity not in came:
                plan.put_back(member)

    def _judge(self, plan: Plan, failure: Failure) -> None:
        verdict = self._policy.judge(failure)
        self._show(failure, verdict)
        if verdict == "rejected":
            plan.rejected(failure)
        else:
            plan.put_back(replace(failure.job, companions=()))


def _shared(failure: Failure, job: Job) -> Failure:
    """The failure of one member of a job whose worker died: it may have been another's."""
    others = tuple(member for member in job.members if member.identity != failure.job.identity)
    return replace(failure, job=replace(failure.job, companions=others))
