"""Runs jobs in long-lived Ray actors, one a slot, on all nodes of a cluster. The only module that imports ray."""

import itertools
import logging
import math
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.common.errors import ExecutionError, NasError, TrainingError
from nas.common.files import default_cache_directory, write_atomically
from nas.execution.base import Device, Executor, JobOutcome, SupernetJob, SupernetProgress, WorkerLost
from nas.execution.placement import Node, Placement, Share, cpu_share
from nas.execution.ray.actor import Actor, WorkerFactory
from nas.execution.ray.node_setup import receive, settle
from nas.execution.worker import FROZEN, SUPERNET, CandidateWorker, WorkerSetup, process_environment
from nas.execution.worker_exit import WorkerExit, memory_kill_count, read_worker_exit
from nas.search.keys import ModelKey
from nas.search.trial import Failure, Job, Result, Stage
from nas.training.distributed import GroupBroken

_NOTES = "workers"
_STOP_SECONDS = 3.0
_LOOK_SECONDS = 5.0  # how often nodes are counted anew
_NOTE_SECONDS = 20.0
_CONNECT_SECONDS = 10.0
_SILENT_DEATHS = 10
"""A candidate whose workers die this often without a trace is no longer taken for unlucky."""


@dataclass
class _Slot:
    """Room for one worker process, which may not be there."""

    device: str
    actor: Any = None
    note_path: Path | None = None
    is_busy: bool = False


@dataclass
class _NodePlace:
    """A node that takes part.

    Args:
        node: As Ray describes it.
        share: What it gives.
        setup: What its workers are given.
        is_here: Whether the driver runs on it, so that its files are the driver's.
        slots: One a worker.
    """

    node: Node
    share: Share
    setup: WorkerSetup
    is_here: bool
    slots: list[_Slot] = field(default_factory=list)
    has_supernet: bool = False


def _on(node: str) -> Any:
    return NodeAffinitySchedulingStrategy(node_id=node, soft=False)


def _settle_here(
    setup: WorkerSetup, run_id: str, cache_directory: Path | None, image: NDArray[np.uint8], text: NDArray[np.uint8]
) -> WorkerSetup:
    """On another node than the driver's, in a process of its own: the whole encoders go with it when it ends."""
    cache = cache_directory or default_cache_directory()
    return settle(setup, run_id=run_id, cache_directory=cache, frozen=(image, text))


def _read_worker_exit_here(path: Path, was_memory_killed: bool) -> WorkerExit:
    return read_worker_exit(path, was_memory_killed=was_memory_killed)


def _is_lost(reference: Any) -> bool:
    """Whether a call that has ended did so by the death of its worker."""
    try:
        ray.get(reference)
    except RayActorError:
        return True
    except RayTaskError:
        return False
    return False


def _forget_run(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def _connect(address: str | None, placement: Placement) -> None:
    """Start a private Ray, or join a cluster.

    Raises:
        ExecutionError: If there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray prints the trace of an error that nobody has asked for; here every one that matters is asked for.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    # A private Ray would start a process a core in advance; none has the environment of a worker, so none is ever used.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    # Deaths of workers are told in words of our own; Ray prints its own even without `log_to_driver`.
    ray._private.worker._worker_logs_enabled = False
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        try:
            host, colon, port = address.rpartition(":")
            if colon and port.isdigit() and "/" not in host:
                # Ray itself tries for minutes where nobody listens.
                socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
            ray.init(address=address, **common)
        except (OSError, ValueError, RuntimeError) as error:  # ConnectionError is an OSError
            reason = " ".join(str(error).split())
            raise ExecutionError(f"--ray-address {address!r}: no Ray cluster answers there: {reason}") from error
        return
    wanted = (placement.worker_count or 0) * (placement.threads or 1)
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, wanted),
        include_dashboard=False,
        object_store_memory=100 * 2**20,  # results are small; features and weights are memory-mapped files
        **common,
    )


class RayExecutor(Executor):
    """Actors on a private local Ray that is started here, or on all nodes of a cluster that is joined.

    A worker that dies is replaced; its job comes back as a failure that says why, and whoever submitted it decides.

    Args:
        setup: For every worker; on other nodes than the driver's with paths of their own.
        placement: How many workers, with how many threads.
        address: Of a cluster to join; None to start a private Ray, or to use one that this process has open.
        run_id: Names the run on other nodes.
        cache_directory: Where other nodes keep features; None for the cache of their user.
        on_note: Told what a person wants to know of nodes.
        factory: Makes the worker of a process.

    Raises:
        ExecutionError: If there is no such cluster.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        *,
        placement: Placement,
        address: str | None = None,
        run_id: str = "run",
        cache_directory: Path | None = None,
        on_note: Callable[[str], None] = lambda text: None,
        factory: WorkerFactory = CandidateWorker,
    ) -> None:
        self._setup = setup
        self._placement = placement
        self._run_id = run_id
        self._cache_directory = cache_directory
        self._on_note = on_note
        self._factory = factory
        self._is_owner = not ray.is_initialized()
        if self._is_owner:
            _connect(address, placement)
        self._nodes: dict[str, _NodePlace] = {}
        self._settling: dict[Any, tuple[Node, Share]] = {}
        self._left_out: set[str] = set()
        self._under_way: dict[Any, tuple[Job, _NodePlace, _Slot]] = {}
        self._silent_deaths: dict[tuple[ModelKey, Stage], int] = {}
        self._numbers = itertools.count()
        self._memory_kills = memory_kill_count()
        self._looked_at = 0.0
        self._frozen: dict[str, Any] | None = None
        self._last_death = ""
        shutil.rmtree(self._notes, ignore_errors=True)  # of a driver that was killed
        self._look_at_nodes()
        while not self._nodes and self._settling:
            self._welcome_settled(timeout_seconds=1.0)
        if not self._nodes:
            raise ExecutionError("no node of the Ray cluster can run workers")

    # Nodes

    def _look_at_nodes(self) -> None:
        """Find nodes that have come, and forget those that are gone."""
        self._looked_at = time.monotonic()
        alive = {
            entry["NodeID"]: Node(
                name=entry["NodeID"],
                cpu_count=int(entry["Resources"].get("CPU", 0)),
                gpu_count=int(entry["Resources"].get("GPU", 0)),
                host=entry["NodeManagerAddress"],
            )
            for entry in ray.nodes()
            if entry["Alive"] and entry["Resources"].get("CPU", 0) >= 1
        }
        for name in [name for name in self._nodes if name not in alive]:
            self._forget(self._nodes.pop(name))
        self._left_out &= alive.keys()
        known = {*self._nodes, *self._left_out, *(node.name for node, _ in self._settling.values())}
        new = [node for name, node in sorted(alive.items()) if name not in known]
        if not new:
            return
        here = ray.get_runtime_context().get_node_id()
        new.sort(key=lambda node: node.name != here)
        taken = sum(place.share.worker_count for place in self._nodes.values())
        taken += sum(share.worker_count for _, share in self._settling.values())
        placement = self._placement
        if placement.worker_count is not None:
            placement = replace(placement, worker_count=max(placement.worker_count - taken, 0))
        for node, share in zip(new, placement.shares(new), strict=True):
            if not share.worker_count:
                self._left_out.add(node.name)
            elif node.name == here:
                self._welcome(node, share, self._setup, is_here=True)
            else:
                self._settle(node, share)

    def _settle(self, node: Node, share: Share) -> None:
        """Let a node build or find its features, and bring it the frozen weights; it takes part when it has them."""
        if self._frozen is None:  # Ray brings each of them to a node once, however many workers are there
            self._frozen = {path.name: ray.put(np.fromfile(path, dtype=np.uint8)) for path in self._setup.frozen_paths}
        task = ray.remote(_settle_here).options(num_cpus=0, max_retries=0, scheduling_strategy=_on(node.name))
        files = [self._frozen[name] for name in FROZEN]
        self._settling[task.remote(self._setup, self._run_id, self._cache_directory, *files)] = node, share

    def _welcome_settled(self, timeout_seconds: float) -> None:
        if not self._settling:
            return
        for reference in ray.wait(list(self._settling), timeout=timeout_seconds)[0]:
            node, share = self._settling.pop(reference)
            try:
                setup = ray.get(reference)
            except RayTaskError as error:
                self._left_out.add(node.name)
                self._on_note(f"node {node.name[:8]} is left out: {' '.join(str(error.cause).split())}")
            except RayError:  # it was lost meanwhile
                self._on_note(f"node {node.name[:8]} was lost before it was ready")
            else:
                self._welcome(node, share, setup, is_here=False)

    def _welcome(self, node: Node, share: Share, setup: WorkerSetup, *, is_here: bool) -> None:
        device = "cuda:0" if share.uses_gpus else "cpu"
        setup = replace(setup, thread_count=share.threads, device=device)
        place = _NodePlace(node, share, setup, is_here, has_supernet=is_here)
        for index in range(share.worker_count):
            # Workers on the host's memory share a device; one on a graphics processor has a device of its own.
            place.slots.append(_Slot(f"{node.name[:8]}" + (f" GPU {index}" if share.uses_gpus else "")))
        self._nodes[node.name] = place
        if not is_here:
            self._on_note(f"node {node.name[:8]} takes part with {share.worker_count} worker(s)")

    def _forget(self, place: _NodePlace) -> None:
        self._on_note(f"node {place.node.name[:8]} was lost with {len(place.slots)} worker(s)")
        for slot in place.slots:
            slot.actor = None

    @property
    def _notes(self) -> Path:
        return self._setup.run_directory / _NOTES

    @property
    def devices(self) -> Sequence[Device]:
        slots: dict[str, list[_Slot]] = {}
        for place in self._nodes.values():
            for slot in place.slots:
                slots.setdefault(slot.device, []).append(slot)
        return [
            Device(name, len(members), sum(slot.actor is not None for slot in members))
            for name, members in slots.items()
        ]

    # Workers

    def start_workers(self, device: str, count: int) -> None:
        for place in self._nodes.values():
            for slot in place.slots:
                if slot.device == device and slot.actor is None and count > 0:
                    self._start(place, slot)
                    count -= 1

    def _start(self, place: _NodePlace, slot: _Slot) -> None:
        setup, share = place.setup, place.share
        slot.note_path = setup.run_directory / _NOTES / f"{os.getpid()}-{next(self._numbers)}.json"
        actor: Any = ray.remote(Actor)
        slot.actor = actor.options(
            num_cpus=cpu_share(place.node.cpu_count, share),
            num_gpus=1 if share.uses_gpus else 0,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=4,
            scheduling_strategy=_on(place.node.name),
            runtime_env={"env_vars": process_environment(share.threads)},
        ).remote(self._factory, setup, slot.note_path)
        slot.actor.prepare.remote()

    def end_idle(self, device: str, count: int) -> None:
        for place in self._nodes.values():
            for slot in place.slots:
                if slot.device == device and slot.actor is not None and not slot.is_busy and count > 0:
                    ray.kill(slot.actor)
                    slot.actor = None
                    count -= 1

    # Jobs

    @property
    def running(self) -> list[Job]:
        return [job for job, _, _ in self._under_way.values()]

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        del should_stop  # the driver is free to look at the clock itself and to call stop_running

    def submit(self, job: Job, device: str, grant_bytes: int) -> None:
        free = [
            (place, slot)
            for place in self._nodes.values()
            for slot in place.slots
            if slot.device == device and not slot.is_busy
        ]
        if not free:
            raise RuntimeError(f"all slots of {device} are taken")
        place, slot = min(free, key=lambda entry: entry[1].actor is None)
        if slot.actor is None:
            self._start(place, slot)
        if job.stage != "full" and not place.has_supernet:
            self._bring_supernet(place)
        slot.is_busy = True
        self._under_way[slot.actor.run.remote(job, grant_bytes)] = (job, place, slot)

    def _bring_supernet(self, place: _NodePlace) -> None:
        """To another node than the driver's; once a node, whatever the number of its workers."""
        content = ray.put(np.fromfile(self._setup.supernet_path, dtype=np.uint8))
        task = ray.remote(receive).options(num_cpus=0, max_retries=0, scheduling_strategy=_on(place.node.name))
        try:
            ray.get(task.remote(place.setup.run_directory, SUPERNET, content))
        except RayTaskError:
            raise
        except RayError:
            return  # the node was lost; so is the job, which comes back
        place.has_supernet = True

    def wait(self, timeout_seconds: float) -> list[JobOutcome]:
        if time.monotonic() - self._looked_at > _LOOK_SECONDS:
            self._look_at_nodes()
        self._welcome_settled(timeout_seconds=0)
        if not self._under_way:
            return []
        ready, _ = ray.wait(list(self._under_way), num_returns=1, timeout=timeout_seconds)
        return [self._collect(reference) for reference in ready]

    def stop_running(self) -> list[JobOutcome]:
        if not self._under_way:
            return []
        for _, _, slot in self._under_way.values():
            slot.actor.stop.remote()
        ready, deaf = ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=_STOP_SECONDS)
        ended = [self._collect(reference) for reference in ready]
        for reference in deaf:
            job, _, slot = self._under_way.pop(reference)
            ray.kill(slot.actor)
            slot.actor, slot.is_busy = None, False
            ended.append(JobOutcome(job, (), process_lives=False))
        return ended

    def _collect(self, reference: Any) -> JobOutcome:
        job, place, slot = self._under_way.pop(reference)
        slot.is_busy = False
        try:
            outcomes: tuple[Result | Failure, ...] = ray.get(reference)
            if not place.is_here:
                self._fetch_weights(slot, outcomes)
        except RayTaskError as error:
            failures = tuple(Failure.of(member, error.cause, 0) for member in job.members)
            return JobOutcome(job, failures, process_lives=True)
        except RayError as error:
            slot.actor = None
            death = self._death(job, place, slot, error)
            failures = tuple(
                Failure(member, death.kind, death.cause, death.reason, death.measured_peak_bytes)
                for member in job.members
            )
            return JobOutcome(job, failures, process_lives=False)
        return JobOutcome(job, outcomes, process_lives=True)

    def _fetch_weights(self, slot: _Slot, outcomes: Sequence[Result | Failure]) -> None:
        """From another node, before anybody is told that the training is finished."""
        for outcome in outcomes:
            if isinstance(outcome, Result) and outcome.stage == "full":
                path = self._setup.weights_path(outcome.key)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, ray.get(slot.actor.weights.remote(outcome.key)).tobytes())

    def _death(self, job: Job | None, place: _NodePlace, slot: _Slot, error: RayError) -> WorkerExit:
        """Why the worker in a slot is not there any more, which had a job or trained the supernet."""
        kills = memory_kill_count()
        was_memory_killed = isinstance(error, OutOfMemoryError) or (place.is_here and kills > self._memory_kills)
        self._memory_kills = kills
        self._look_at_nodes()
        if place.node.name not in self._nodes or slot.note_path is None:
            return WorkerExit("killed_externally", "node lost", f"its node {place.node.name[:8]} was lost")
        if place.is_here:
            death = read_worker_exit(slot.note_path, was_memory_killed=was_memory_killed)
        else:
            task: Any = ray.remote(_read_worker_exit_here)
            task = task.options(num_cpus=0, max_retries=0, scheduling_strategy=_on(place.node.name))
            try:
                reference = task.remote(slot.note_path, was_memory_killed)
                death = ray.get(reference, timeout=_NOTE_SECONDS)
            except (RayError, GetTimeoutError):
                return WorkerExit("killed_externally", "node lost", f"its node {place.node.name[:8]} was lost")
        if death.kind == "killed_externally" and job is not None:
            self._silent_deaths[job.identity] = self._silent_deaths.get(job.identity, 0) + 1
            if self._silent_deaths[job.identity] >= _SILENT_DEATHS:
                reason = f"its workers died {_SILENT_DEATHS} times without a trace"
                return WorkerExit("crash", "worker died", reason)
        return death

    # Supernet

    def train_supernet(
        self,
        order: SupernetJob,
        *,
        processes: Mapping[str, int],
        grant_bytes: int,
        should_stop: Callable[[], bool],
        on_progress: Callable[[SupernetProgress], None],
    ) -> int:
        self._look_at_nodes()
        slots = [(place, slot) for place in self._nodes.values() for slot in place.slots]
        slots.sort(key=lambda member: member[1].actor is None)  # those that are there need not be started
        members = [
            member
            for name, count in processes.items()
            for member in [(place, slot) for place, slot in slots if slot.device == name][:count]
        ]
        # The driver's node first: there is the checkpoint, which the first process reads and writes.
        members.sort(key=lambda member: not member[0].is_here)
        if len(members) < sum(processes.values()):
            raise WorkerLost("a node of its workers was lost")
        for place, slot in members:
            if slot.actor is None:
                self._start(place, slot)
        first_place, first_slot = members[0]
        first = first_slot.actor
        is_alone = all(place is first_place for place, _ in members)
        try:
            address = ray.get(first.group_address.remote(None if is_alone else first_place.node.host))
        except RayActorError as error:  # it was killed while it had nothing to do
            self._note_death(first_place, first_slot, error)
            raise WorkerLost(self._last_death) from error
        references = [
            slot.actor.train_supernet.remote(order, rank, len(members), address, grant_bytes)
            for rank, (_, slot) in enumerate(members)
        ]
        pending, lost_at = references, math.inf
        while pending:
            ready, pending = ray.wait(pending, num_returns=len(pending), timeout=0.2)
            if any(map(_is_lost, ready)):
                lost_at = min(lost_at, time.monotonic())
            if time.monotonic() - lost_at > _STOP_SECONDS:
                # Who was killed before it came to the group is waited for by the others, for minutes.
                for (_, slot), reference in zip(members, references, strict=True):
                    if reference in pending:
                        ray.kill(slot.actor)
            try:
                progress = ray.get(first.progress.remote())
            except RayActorError:
                continue  # its part comes back as lost, too
            on_progress(progress)
            if should_stop():
                first.stop.remote()  # again and again: one that comes before the training begins is not heard
        return self._supernet_outcome(members, references)

    def _note_death(self, place: _NodePlace, slot: _Slot, error: RayError) -> None:
        self._last_death = self._death(None, place, slot, error).reason
        slot.actor = None

    def _supernet_outcome(self, members: Sequence[tuple[_NodePlace, _Slot]], references: Sequence[Any]) -> int:
        """Steps done; the true cause where one process has failed and the others with it."""
        failed: RayActorError | None = None
        causes: list[BaseException] = []
        done = 0
        for (place, slot), reference in zip(members, references, strict=True):
            try:
                done = ray.get(reference)
            except RayTaskError as error:
                causes.append(error.cause)
            except RayActorError as error:
                self._note_death(place, slot, error)
                failed = error
        if failed is not None:
            raise WorkerLost(self._last_death) from failed
        if causes:
            # Who only says that another has failed does not know why.
            cause = next((cause for cause in causes if not isinstance(cause, GroupBroken)), causes[0])
            if isinstance(cause, NasError):
                raise cause
            reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
            raise TrainingError(f"the supernet could not be trained: {reason}") from cause
        place, slot = members[0]
        if not place.is_here:
            write_atomically(self._setup.supernet_path, ray.get(slot.actor.supernet.remote()).tobytes())
        return done

    def close(self) -> None:
        for place in self._nodes.values():
            for slot in place.slots:
                if slot.actor is not None:
                    ray.kill(slot.actor)
                    slot.actor = None
        shutil.rmtree(self._notes, ignore_errors=True)
        if not self._is_owner:
            return
        away = [place for place in self._nodes.values() if not place.is_here]
        tasks = [
            ray.remote(_forget_run)
            .options(num_cpus=0, max_retries=0, scheduling_strategy=_on(place.node.name))
            .remote(place.setup.run_directory)
            for place in away
        ]
        if tasks:
            ray.wait(tasks, num_returns=len(tasks), timeout=_STOP_SECONDS)
        ray.shutdown()  # where a cluster was joined, this only leaves it
