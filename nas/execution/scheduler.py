"""Keep the slots of all devices busy with the jobs of a plan, within the memory budget of every device."""

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from nas.common.errors import TrainingError
from nas.execution.base import EndedJob, Executor, JobOutcome, SupernetJob, SupernetProgress, WorkerLost
from nas.execution.failure_policy import FailurePolicy, Verdict
from nas.execution.job_queue import JobQueue
from nas.execution.memory_pool import MemoryPool
from nas.execution.plan import Plan
from nas.execution.sharing import reserved_group, share_idle_devices
from nas.memory.overheads import bytes_with_fragmentation
from nas.search.keys import ModelKey
from nas.search.trial import Failure, Job, Result, Stage

_WAIT_SECONDS = 0.2
_LOST_GROUPS = 3
"""The number of times that the training of the supernet may lose a process and resume."""

_GRACE_SECONDS = 3.0
"""After an interruption, jobs that end within this time are not stopped."""


@dataclass(frozen=True)
class _Place:
    """Where a job runs, and since when."""

    device: str
    slot: int
    since: float


class JobScheduler:
    """Runs plans, one after another.

    Args:
        executor: The executor of the jobs.
        budget_bytes: The memory budget of each device.
        idle_bytes: The memory of a worker process without a job.
        policy: The policy that judges failures.
        runs_alone: Whether a job needs a whole device, because it ran out of memory while sharing one.
        take: Callback that makes a result durable and reports it.
        show: Callback that reports a failure and the verdict on it.
        now: Monotonic clock, in seconds.
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
        show: Callable[[Failure, Verdict], None],
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
        self._pools: dict[str, MemoryPool] = {}
        self._queue = JobQueue()
        self._waiting: dict[Hashable, Job] = {}
        self._places: dict[tuple[ModelKey, Stage], list[_Place]] = {}
        self._broken: set[tuple[ModelKey, Stage]] = set()
        """The trainings that have failed while devices shared them, which are repeated on one."""
        self._on_end: Callable[[EndedJob], None] = lambda ended: None
        self._largest_bytes = 0
        self._update_devices()

    def watch(self, on_end: Callable[[EndedJob], None]) -> None:
        """Set the receiver of jobs that have ended, whether they finished, failed or were stopped.

        Args:
            on_end: Callback that receives each of them before its results are taken.
        """
        self._on_end = on_end

    @property
    def reserved_bytes(self) -> int:
        """The memory that running jobs may reach and idle workers hold, summed over all devices."""
        return sum(pool.reserved_bytes for pool in self._pools.values())

    @property
    def slot_count(self) -> int:
        return sum(pool.slot_count for pool in self._pools.values())

    def capacity(self, peak_bytes: int) -> int:
        """Return the number of jobs with a peak that run at once, at least one."""
        counts = (min(pool.slot_count, pool.budget_bytes // max(peak_bytes, 1)) for pool in self._pools.values())
        return max(sum(counts), 1)

    def run(
        self,
        plan: Plan,
        *,
        is_over: Callable[[], bool],
        is_interrupted: Callable[[], bool] = lambda: False,
        in_rounds: bool = False,
        on_turn: Callable[[], None] = lambda: None,
    ) -> int:
        """Run the jobs of a plan until none is left or the phase is over.

        Jobs that are still running then are stopped and requeued.

        Args:
            plan: The source of the jobs.
            is_over: Whether the phase has to end now.
            is_interrupted: Whether the phase has to end after a short time in which running jobs may finish.
            in_rounds: Whether the plan supplies new jobs only after all its earlier ones have ended.
            on_turn: Callback of every turn of the loop.

        Returns:
            The number of jobs that were stopped.

        Raises:
            TrainingError: If consecutive candidates fail with one cause.
        """
        self._executor.stop_when(lambda: is_over() or is_interrupted())
        stopped_count = 0
        try:
            while not is_over() and not is_interrupted():
                self._update_devices()
                self._start_jobs(plan, in_rounds=in_rounds)
                if not self._executor.running and not self._queue:
                    break
                self._collect(plan)
                on_turn()
            until = self._now() + _GRACE_SECONDS
            while is_interrupted() and not is_over() and self._executor.running and self._now() < until:
                self._collect(plan)
        finally:
            # Also after an error: results that have arrived meanwhile are kept.
            for ended in self._executor.stop_running():
                self._end(plan, ended)
                stopped_count += len(ended.outcomes) < len(ended.job.members)
            for key in list(self._waiting):
                self._queue.remove(key)
                plan.requeue(self._waiting.pop(key))
        self._policy.settle()
        return stopped_count

    def train_supernet(
        self,
        job: SupernetJob,
        *,
        process_count: int,
        should_stop: Callable[[], bool],
        on_progress: Callable[[SupernetProgress], None],
        on_lost: Callable[[str], None],
    ) -> tuple[int, int]:
        """Train the supernet in several processes; resume from its last checkpoint if one of them is lost.

        Args:
            job: The architectures that may be sampled.
            process_count: The largest number of processes that share the work; slots and memory may allow fewer.
            should_stop: Whether training ends early; it is saved.
            on_progress: Callback that receives the progress from time to time.
            on_lost: Callback that receives the reason why a process was lost.

        Returns:
            The number of steps done in all, and the number of processes that shared them.

        Raises:
            TrainingError: If the supernet cannot be trained, or loses its processes repeatedly.
        """
        started, lost_count = self._now(), 0
        while True:
            try:
                with self._group(process_count, min(job.peak_bytes, self._budget_bytes)) as (processes, grant_bytes):
                    done = self._executor.train_supernet(
                        _after(job, self._now() - started),
                        processes=processes,
                        grant_bytes=grant_bytes,
                        should_stop=should_stop,
                        on_progress=on_progress,
                    )
                    return done, sum(processes.values())
            except WorkerLost as error:
                lost_count += 1
                if lost_count > _LOST_GROUPS:
                    raise TrainingError(f"supernet: its workers died {lost_count} times: {error}") from error
                on_lost(str(error))

    @contextmanager
    def _group(self, process_count: int, peak_bytes: int) -> Iterator[tuple[Mapping[str, int], int]]:
        """Reserve memory for the processes of the supernet's training; see `reserved_group`."""
        self._update_devices()
        # All on GPUs, if there are some, or all on CPUs: the weights of both would drift apart by rounding.
        gpus = {device.name for device in self._executor.devices if device.is_gpu}
        pools = {name: pool for name, pool in self._pools.items() if not gpus or name in gpus}
        with reserved_group(pools, process_count, peak_bytes, self._executor.stop_idle_workers) as group:
            yield group

    def _update_devices(self) -> None:
        """Add a memory pool for every new device, and remove those of lost devices."""
        devices = {device.name: device for device in self._executor.devices}
        for name in self._pools.keys() - devices.keys():
            del self._pools[name]
        for name in [name for name in devices if name not in self._pools]:
            pool = MemoryPool(self._budget_bytes, devices[name].slot_count, self._idle_bytes)
            # All workers that fit start at once, so that the first jobs need not wait for one after the other.
            room = self._budget_bytes // self._idle_bytes if self._idle_bytes else pool.slot_count
            pool.idle_count = min(pool.slot_count, max(room, 1))
            self._executor.start_workers(name, pool.idle_count)
            self._pools[name] = pool

    def _start_jobs(self, plan: Plan, *, in_rounds: bool) -> None:
        starting: list[tuple[Job, str]] = []
        try:
            self._admit_jobs(plan, starting, in_rounds=in_rounds)
        except BaseException:
            for job, device in starting:
                self._pools[device].release(job.identity, process_lives=True)
                plan.requeue(job)
            raise
        devices = {job.identity: [device] for job, device in starting}
        for job, device, ended_count in self._admit_elsewhere(starting):
            devices[job.identity].append(device)
            if ended_count:
                self._executor.stop_idle_workers(device, ended_count)
        for job, _ in starting:  # after all are admitted: a wider grant must keep none of them out
            names = devices[job.identity]
            if len(names) == 1:
                self._widen(job, self._pools[names[0]])
            self._places[job.identity] = [_Place(name, self._free_slot(name), self._now()) for name in names]
            grant_bytes = self._pools[names[0]].granted(job.identity)
            if len(names) == 1:
                self._executor.submit(job, names[0], grant_bytes)
            else:
                self._executor.submit_shared(job, names, grant_bytes)

    def _admit_elsewhere(self, starting: list[tuple[Job, str]]) -> list[tuple[Job, str, int]]:
        """Admit trainings that start to further devices, where no other job waits for these."""
        if self._queue:
            return []
        able = [entry for entry in starting if not (entry[0].identity in self._broken or self._runs_alone(entry[0]))]
        reservations = {job.identity: self._reservation(job) for job, _ in able}
        gpus = {device.name for device in self._executor.devices if device.is_gpu}
        return share_idle_devices(able, reservations, self._pools, gpus & self._pools.keys())

    def _free_slot(self, device: str) -> int:
        """Return the number of the first slot of a device without a job."""
        places = itertools.chain.from_iterable(self._places.values())
        taken = {place.slot for place in places if place.device == device}
        return next(number for number in itertools.count() if number not in taken)

    def _admit_jobs(self, plan: Plan, starting: list[tuple[Job, str]], *, in_rounds: bool) -> None:
        """Take jobs from the plan, and append those that can start now to `starting`, with their devices."""
        while True:
            while (admitted := self._queue.admit_next(self._pools)) is not None:
                key, device, ended_count = admitted
                starting.append((self._waiting.pop(key), device))
                if ended_count:
                    self._executor.stop_idle_workers(device, ended_count)
            busy = len(self._executor.running) + len(starting)
            if in_rounds:
                wants_more = not busy and not self._queue
            else:
                # More than the free slots need, because a later job may fit where the first does not.
                wants_more = busy < self.slot_count and len(self._queue) < 2 * self.slot_count
            jobs = plan.next_jobs() if wants_more else []
            if not jobs:
                return
            for job in jobs:
                self._waiting[job.identity] = job
                self._queue.add(job.identity, self._reservation(job))
                self._largest_bytes = max(self._largest_bytes, job.reserved_bytes)

    def _reservation(self, job: Job) -> int:
        """Return the bytes that a job needs: the whole budget if it ran out of memory before."""
        return self._budget_bytes if any(map(self._runs_alone, job.members)) else job.reserved_bytes

    def _widen(self, job: Job, pool: MemoryPool) -> None:
        """Grant a job more than it needs, so that its worker can keep freed memory.

        The other slots of the device must still have room for the largest job so far.
        """
        ample_bytes = bytes_with_fragmentation(job.reserved_bytes)
        others_bytes = (pool.slot_count - 1) * self._largest_bytes
        if pool.granted(job.identity) < ample_bytes and ample_bytes + others_bytes <= pool.budget_bytes:
            pool.extend(job.identity, ample_bytes)

    def _collect(self, plan: Plan) -> None:
        for ended in self._executor.wait(_WAIT_SECONDS):
            self._end(plan, ended)

    def _end(self, plan: Plan, ended: JobOutcome) -> None:
        identity = ended.job.identity
        places = self._places.pop(identity)
        if len(places) > 1 and any(isinstance(outcome, Failure) for outcome in ended.outcomes):
            self._broken.add(identity)
        for place in places:
            pool = self._pools.get(place.device)
            if pool is not None and pool.holds(identity):
                granted, seconds = pool.granted(identity), self._now() - place.since
                self._on_end(EndedJob(ended.job, place.device, place.slot, seconds, granted, ended.outcomes))
                pool.release(identity, process_lives=ended.process_lives)
        ended_members = set()
        for outcome in ended.outcomes:
            if isinstance(outcome, Result):
                ended_members.add((outcome.key, outcome.stage))
                self._policy.settle()
                self._take(outcome)
                plan.finished(outcome)
            else:
                ended_members.add(outcome.job.identity)
                # Which member killed the shared worker is not known, so each is tried separately.
                is_shared = not ended.process_lives and len(ended.job.members) > 1
                self._judge(plan, _shared(outcome, ended.job) if is_shared else outcome)
        for member in ended.job.members:
            if member.identity not in ended_members:
                plan.requeue(member)

    def _judge(self, plan: Plan, failure: Failure) -> None:
        verdict = self._policy.judge(failure)
        self._show(failure, verdict)
        if verdict == "rejected":
            plan.rejected(failure)
        else:
            plan.requeue(replace(failure.job, companions=()))


def _shared(failure: Failure, job: Job) -> Failure:
    """Return the failure of one member together with the others, one of which may have caused it."""
    others = tuple(member for member in job.members if member.identity != failure.job.identity)
    return replace(failure, job=replace(failure.job, companions=others))


def _after(job: SupernetJob, seconds: float) -> SupernetJob:
    """Return a job with the time that is left of it after some seconds."""
    return job if job.seconds_left is None else replace(job, seconds_left=max(job.seconds_left - seconds, 0.0))
