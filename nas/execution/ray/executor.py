"""Run jobs in long-lived Ray actors, one per slot, on all nodes of a cluster."""

import itertools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from nas.common.errors import ExecutionError
from nas.common.files import write_atomically
from nas.execution.base import Device, Executor, JobOutcome, SupernetJob, SupernetProgress, WorkerLost
from nas.execution.placement import Placement, cpu_share
from nas.execution.ray.actor import WorkerActor, WorkerFactory
from nas.execution.ray.cluster import connect, on_node, task_on
from nas.execution.ray.exits import ExitReader
from nas.execution.ray.node_setup import FeatureFinder, receive_file
from nas.execution.ray.nodes import NodePool, Slot, WorkerNode
from nas.execution.ray.supernet import SupernetGroup
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import SUPERNET_FILE, WorkerSetup, process_environment
from nas.search.trial import Failure, Job, Result

_RECORDS = "workers"
"""Directory of the exit records in a run directory."""

_STOP_SECONDS = 3.0


def _ignore(text: str) -> None:
    del text


def _remove_run(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


class RayExecutor(Executor):
    """Ray actors on a private local Ray that is started here, or on all nodes of a cluster that is joined.

    A worker that dies is replaced. Its job ends with a failure that gives the reason; the caller decides what follows.

    Args:
        setup: The setup of every worker; workers on other nodes than the driver's get the paths of their node.
        placement: The number of workers and threads.
        address: The address of a cluster to join; None to start a private Ray, or to use the one that this process has
            started already.
        run_id: The name of the run on other nodes.
        cache_directory: The feature cache of other nodes; None for the default of their user.
        find_features: Function that builds or finds the features on another node; None if all nodes share the driver's.
        on_note: Callback that receives a line of text when a node joins, leaves, or cannot take part.
        factory: Creates the worker of a process.

    Raises:
        ExecutionError: If there is no cluster at the address, or none of its nodes can run workers.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        *,
        placement: Placement,
        address: str | None = None,
        run_id: str = "run",
        cache_directory: Path | None = None,
        find_features: FeatureFinder | None = None,
        on_note: Callable[[str], None] = _ignore,
        factory: WorkerFactory = CandidateWorker,
    ) -> None:
        self._setup = setup
        self._factory = factory
        self._is_owner = not ray.is_initialized()
        if self._is_owner:
            connect(address, placement)
        self._records = setup.run_directory / _RECORDS
        self._record_numbers = itertools.count()
        shutil.rmtree(self._records, ignore_errors=True)  # left by a driver that was killed
        self._nodes = NodePool(
            setup,
            placement=placement,
            run_id=run_id,
            cache_directory=cache_directory,
            find_features=find_features,
            on_note=on_note,
        )
        if not list(self._nodes):
            raise ExecutionError("Ray cluster: no node can run workers; expected at least one with a CPU")
        self._exits = ExitReader(self._nodes)
        self._running: dict[Any, tuple[Job, WorkerNode, Slot]] = {}

    @property
    def devices(self) -> Sequence[Device]:
        return self._nodes.devices

    # Workers

    def start_workers(self, device: str, count: int) -> None:
        stopped = [(node, slot) for node, slot in self._nodes.slots(device) if slot.actor is None]
        for node, slot in stopped[:count]:
            self._start(node, slot)

    def _start(self, node: WorkerNode, slot: Slot) -> None:
        setup, share = node.setup, node.share
        slot.record_path = setup.run_directory / _RECORDS / f"{os.getpid()}-{next(self._record_numbers)}.json"
        actor: Any = ray.remote(WorkerActor)
        slot.actor = actor.options(
            num_cpus=cpu_share(node.node.cpu_count, share),
            num_gpus=1 if share.uses_gpus else 0,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=4,
            scheduling_strategy=on_node(node.node),
            runtime_env={"env_vars": process_environment(share.threads)},
        ).remote(self._factory, setup, slot.record_path)
        slot.actor.prepare.remote()

    def stop_idle_workers(self, device: str, count: int) -> None:
        idle = [slot for _, slot in self._nodes.slots(device) if slot.actor is not None and not slot.is_busy]
        for slot in idle[:count]:
            ray.kill(slot.actor)
            slot.actor = None

    # Jobs

    @property
    def running(self) -> list[Job]:
        return [job for job, _, _ in self._running.values()]

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        del should_stop  # `wait` returns while jobs run, so the caller can call `stop_running`

    def submit(self, job: Job, device: str, grant_bytes: int) -> None:
        free = [(node, slot) for node, slot in self._nodes.slots(device) if not slot.is_busy]
        if not free:
            raise RuntimeError(f"all slots of {device} are taken")
        node, slot = min(free, key=lambda entry: entry[1].actor is None)
        if slot.actor is None:
            self._start(node, slot)
        if job.stage != "full" and not node.has_supernet:
            self._send_supernet(node)
        slot.is_busy = True
        self._running[slot.actor.run.remote(job, grant_bytes)] = (job, node, slot)

    def _send_supernet(self, node: WorkerNode) -> None:
        """Send the supernet to a node other than the driver's, once for all of its workers."""
        content = ray.put(np.fromfile(self._setup.supernet_path, dtype=np.uint8))
        try:
            ray.get(task_on(node.node, receive_file).remote(node.setup.run_directory, SUPERNET_FILE, content))
        except RayTaskError:
            raise
        except RayError:
            return  # the node was lost, which ends the job as well
        node.has_supernet = True

    def wait(self, timeout_seconds: float) -> list[JobOutcome]:
        self._nodes.update_if_due()
        self._nodes.admit_prepared(timeout_seconds=0)
        if not self._running:
            return []
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_seconds)
        return [self._collect(reference) for reference in ready]

    def stop_running(self) -> list[JobOutcome]:
        if not self._running:
            return []
        for _, _, slot in self._running.values():
            slot.actor.stop.remote()
        ready, unresponsive = ray.wait(list(self._running), num_returns=len(self._running), timeout=_STOP_SECONDS)
        ended = [self._collect(reference) for reference in ready]
        for reference in unresponsive:
            job, _, slot = self._running.pop(reference)
            ray.kill(slot.actor)
            slot.actor, slot.is_busy = None, False
            ended.append(JobOutcome(job, (), process_lives=False))
        return ended

    def _collect(self, reference: Any) -> JobOutcome:
        job, node, slot = self._running.pop(reference)
        slot.is_busy = False
        try:
            outcomes: tuple[Result | Failure, ...] = ray.get(reference)
            if not node.is_local:
                self._fetch_weights(slot, outcomes)
        except RayTaskError as error:
            failures = tuple(Failure.of(member, error.cause, 0) for member in job.members)
            return JobOutcome(job, failures, process_lives=True)
        except RayError as error:
            slot.actor = None
            found = self._exits.read(job, node, slot, error)
            failures = tuple(
                Failure(member, found.kind, found.cause, found.reason, found.measured_peak_bytes)
                for member in job.members
            )
            return JobOutcome(job, failures, process_lives=False)
        return JobOutcome(job, outcomes, process_lives=True)

    def _fetch_weights(self, slot: Slot, outcomes: Sequence[Result | Failure]) -> None:
        """Fetch the weights of full trainings from another node, before their results are reported."""
        for outcome in outcomes:
            if isinstance(outcome, Result) and outcome.stage == "full":
                path = self._setup.weights_path(outcome.key)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, ray.get(slot.actor.weights.remote(outcome.key)).tobytes())

    # Supernet

    def train_supernet(
        self,
        job: SupernetJob,
        *,
        processes: Mapping[str, int],
        grant_bytes: int,
        should_stop: Callable[[], bool],
        on_progress: Callable[[SupernetProgress], None],
    ) -> int:
        self._nodes.update()
        members: list[tuple[WorkerNode, Slot]] = []
        for device, count in processes.items():
            # Running workers first: the others would have to be started.
            slots = sorted(self._nodes.slots(device), key=lambda member: member[1].actor is None)
            members.extend(slots[:count])
        if len(members) < sum(processes.values()):
            raise WorkerLost("a node of its workers was lost")
        # The driver's node first: it has the checkpoint, which the first process reads and writes.
        members.sort(key=lambda member: not member[0].is_local)
        for node, slot in members:
            if slot.actor is None:
                self._start(node, slot)
        group = SupernetGroup(members, self._setup, self._exits)
        return group.train(job, grant_bytes=grant_bytes, should_stop=should_stop, on_progress=on_progress)

    def close(self) -> None:
        for _, slot in self._nodes.slots():
            if slot.actor is not None:
                ray.kill(slot.actor)
                slot.actor = None
        shutil.rmtree(self._records, ignore_errors=True)
        if not self._is_owner:
            return
        tasks = [
            task_on(node.node, _remove_run).remote(node.setup.run_directory)
            for node in self._nodes
            if not node.is_local
        ]
        if tasks:
            ray.wait(tasks, num_returns=len(tasks), timeout=_STOP_SECONDS)
        ray.shutdown()  # if a cluster was joined, this only leaves it
