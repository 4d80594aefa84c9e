"""Run jobs in long-lived Ray actors, one per slot, on all nodes of a cluster."""

import functools
import itertools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from nas.common.files import write_atomically
from nas.execution.base import Device, Executor, JobOutcome, LossReceiver, SupernetJob, SupernetProgress, WorkerLost
from nas.execution.placement import Placement, cpu_share
from nas.execution.ray.actor import WorkerActor, WorkerFactory
from nas.execution.ray.cluster import on_gpu, on_node, task_on
from nas.execution.ray.exits import ExitReader
from nas.execution.ray.loss import LossGuard, RayLost
from nas.execution.ray.losses import LossPoller
from nas.execution.ray.node_setup import FeatureFinder, receive_file, remove_run
from nas.execution.ray.nodes import NodePool, Slot, WorkerNode
from nas.execution.ray.running import RunningJob, start
from nas.execution.ray.session import open_session
from nas.execution.ray.supernet import SupernetGroup
from nas.execution.worker import CandidateWorker
from nas.execution.worker_setup import SUPERNET_FILE, WorkerSetup, process_environment
from nas.search.trial import Failure, Job, Result

_RECORDS = "workers"
"""Directory of the exit records in a run directory."""

_STOP_SECONDS = 3.0


def _ignore(text: str) -> None:
    del text


class RayExecutor(Executor):
    """Ray actors on a private local Ray that is started here, or on all nodes of a cluster that is joined.

    A worker that dies is replaced. Its job ends with a failure that gives the reason; the caller decides what follows.
    If a private Ray is lost, because one of its own processes died, it is started again; its jobs end without outcomes.

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
        ExecutionError: If there is no cluster at the address, none of its nodes can run workers, or Ray cannot be
            started.
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
        self._records = setup.run_directory / _RECORDS
        self._record_numbers = itertools.count()
        shutil.rmtree(self._records, ignore_errors=True)  # left by a driver that was killed
        self._open_nodes = functools.partial(
            NodePool,
            setup,
            placement=placement,
            run_id=run_id,
            cache_directory=cache_directory,
            find_features=find_features,
            on_note=on_note,
        )
        self._should_stop: Callable[[], bool] = lambda: False
        self._running: list[RunningJob] = []
        self._losses = LossPoller()
        self._stranded: list[Job] = []
        """Jobs that were submitted after Ray was lost."""
        self._session = open_session(address, placement, on_note)
        self._guard = LossGuard(self._session, on_note)
        try:
            self._nodes = self._open_nodes(is_fixed=self._session.is_private)
            self._exits = ExitReader(self._nodes)
        except BaseException:
            self._close()
            raise

    def _abandon_jobs(self) -> list[JobOutcome]:
        """Return the outcomes of all jobs after the loss of Ray: none of their members has one."""
        ended = [JobOutcome(job, (), process_lives=False) for job in self.running]
        self._losses.clear()
        self._running.clear()
        self._stranded.clear()
        return ended

    def _restart(self, loss: RayLost) -> None:
        self._guard.restart(loss)
        self._nodes = self._open_nodes(is_fixed=True)
        self._exits = ExitReader(self._nodes)

    @property
    def devices(self) -> Sequence[Device]:
        return self._nodes.devices

    # Workers

    def start_workers(self, device: str, count: int) -> None:
        stopped = [(node, slot) for node, slot in self._nodes.slots(device) if slot.actor is None]
        with suppress(RayLost), self._guard.noticing():  # `wait` starts Ray again
            for node, slot in stopped[:count]:
                self._start(node, slot)

    def _start(self, node: WorkerNode, slot: Slot) -> None:
        setup, share = node.setup, node.share
        slot.record_path = setup.run_directory / _RECORDS / f"{os.getpid()}-{next(self._record_numbers)}.json"
        actor: Any = ray.remote(WorkerActor)
        slot.actor = actor.options(
            num_cpus=cpu_share(node.node.cpu_count, share),
            # Rounded down: Ray counts parts of a GPU in ten thousandths.
            num_gpus=0 if slot.gpu is None else int(1e4 / share.workers_per_gpu) / 1e4,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=4,
            scheduling_strategy=on_node(node.node) if slot.gpu is None else on_gpu(slot.gpu),
            runtime_env={"env_vars": process_environment(share.threads)},
        ).remote(self._factory, setup, slot.record_path)
        slot.actor.prepare.remote()

    def stop_idle_workers(self, device: str, count: int) -> None:
        idle = [slot for _, slot in self._nodes.slots(device) if slot.actor is not None and not slot.is_busy]
        with suppress(RayLost), self._guard.noticing():
            for slot in idle[:count]:
                ray.kill(slot.actor)
                slot.actor = None

    # Jobs

    @property
    def running(self) -> list[Job]:
        return [*(running.job for running in self._running), *self._stranded]

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = (
            should_stop  # otherwise the caller calls `stop_running`, since `wait` returns while jobs run
        )

    def follow_losses(self, receive: LossReceiver) -> None:
        self._losses.receive = receive

    def submit(self, job: Job, device: str, grant_bytes: int) -> None:
        self._submit(job, [self._free_slot(device)], grant_bytes)

    def submit_shared(self, job: Job, devices: Sequence[str], grant_bytes: int) -> None:
        members = [self._free_slot(device) for device in devices]
        # The driver's node first: its worker writes the files of the training, which then need not be fetched.
        self._submit(job, sorted(members, key=lambda member: not member[0].is_local), grant_bytes)

    def _free_slot(self, device: str) -> tuple[WorkerNode, Slot]:
        free = [(node, slot) for node, slot in self._nodes.slots(device) if not slot.is_busy]
        if not free:
            raise RuntimeError(f"all slots of {device} are taken")
        return min(free, key=lambda entry: entry[1].actor is None)

    def _submit(self, job: Job, members: Sequence[tuple[WorkerNode, Slot]], grant_bytes: int) -> None:
        try:
            with self._guard.noticing():
                for node, slot in members:
                    if slot.actor is None:
                        self._start(node, slot)
                    self._send_inputs(node, job)
                self._running.append(start(job, members, grant_bytes))
                for _, slot in members:
                    slot.is_busy = True
        except RayLost:
            self._stranded.append(job)

    def _send_inputs(self, node: WorkerNode, job: Job) -> None:
        """Send what a job reads to a node other than the driver's, once for all of its workers."""
        names = job.inputs if job.stage == "full" else (SUPERNET_FILE,)
        for name in () if node.is_local else names:
            if name in node.received:
                continue
            content = ray.put(np.fromfile(self._setup.run_directory / name, dtype=np.uint8))
            try:
                ray.get(task_on(node.node, receive_file).remote(node.setup.run_directory, name, content))
            except RayTaskError:
                raise
            except RayError:
                return  # the node was lost, which ends the job as well
            node.received.add(name)

    def wait(self, timeout_seconds: float) -> list[JobOutcome]:
        ended: list[JobOutcome] = []
        try:
            with self._guard.noticing():
                self._nodes.update_if_due()
                self._nodes.admit_prepared(timeout_seconds=0)
                if self._running:
                    self._losses.poll([(running.job, running.first[1]) for running in self._running])
                    self._collect_ended(ended, count=1, timeout_seconds=timeout_seconds)
        except RayLost as loss:
            ended += self._abandon_jobs()
            if not self._should_stop():  # else the next phase does, if there is one
                self._restart(loss)
        return ended

    def stop_running(self) -> list[JobOutcome]:
        ended: list[JobOutcome] = []
        try:
            with self._guard.noticing():
                self._stop_jobs(ended)
        except RayLost:
            ended += self._abandon_jobs()
        return ended

    def _stop_jobs(self, ended: list[JobOutcome]) -> None:
        """Stop all running jobs and append their outcomes."""
        if not self._running:
            return
        for running in self._running:
            for _, slot in running.members:
                if slot.actor is not None:  # it is None on a lost node
                    slot.actor.stop.remote()
        count = sum(len(running.pending) for running in self._running)
        self._collect_ended(ended, count=count, timeout_seconds=_STOP_SECONDS)
        for running in list(self._running):
            running.end_workers()
            self._release(running)
            ended.append(JobOutcome(running.job, (), process_lives=False))

    def _collect_ended(self, ended: list[JobOutcome], *, count: int, timeout_seconds: float) -> None:
        """Wait until a number of calls have ended, and append the outcomes of the jobs that have."""
        calls = {reference: running for running in self._running for reference in running.pending}
        ready, _ = ray.wait(list(calls), num_returns=count, timeout=timeout_seconds)
        for reference in ready:
            running = calls[reference]
            if reference in running.pending and running.note_end(reference):
                ended.append(self._collect(running))

    def _collect(self, running: RunningJob) -> JobOutcome:
        node, slot = running.first

        def fetch(outcomes: Sequence[Result | Failure]) -> None:
            self._losses.finish(running.job, slot)
            if not node.is_local:
                self._fetch_files(slot, outcomes)

        outcomes = running.outcomes(self._exits, self._guard, fetch)
        self._release(running)
        self._guard.settle()
        return JobOutcome(running.job, outcomes, process_lives=slot.actor is not None)

    def _release(self, running: RunningJob) -> None:
        self._running.remove(running)
        for _, slot in running.members:
            slot.is_busy = False

    def _fetch_files(self, slot: Slot, outcomes: Sequence[Result | Failure]) -> None:
        """Fetch the files of trainings from another node, before their results are reported."""
        for outcome in outcomes:
            if isinstance(outcome, Result) and outcome.stage != "one_shot":
                files = ray.get(slot.actor.training_files.remote(outcome.key, outcome.stage))
                for name, content in files.items():
                    path = self._setup.run_directory / name
                    path.parent.mkdir(exist_ok=True)
                    write_atomically(path, content.tobytes())

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
        try:
            with self._guard.noticing():
                return self._train_supernet(job, processes, grant_bytes, should_stop, on_progress)
        except RayLost as loss:
            self._restart(loss)
            raise WorkerLost("its workers were lost with Ray") from loss

    def _train_supernet(
        self,
        job: SupernetJob,
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
        group = SupernetGroup(members, self._setup, self._exits, self._guard.check)
        return group.train(job, grant_bytes=grant_bytes, should_stop=should_stop, on_progress=on_progress)

    def close(self) -> None:
        with suppress(RayLost), self._guard.noticing():
            self._end_workers()
        shutil.rmtree(self._records, ignore_errors=True)
        self._close()

    def _close(self) -> None:
        self._guard.close()
        self._session.close()

    def _end_workers(self) -> None:
        for _, slot in self._nodes.slots():
            if slot.actor is not None:
                ray.kill(slot.actor)
                slot.actor = None
        self._nodes.release_gpus()
        if not self._session.is_own:
            return
        tasks = [
            task_on(node.node, remove_run).remote(node.setup.run_directory) for node in self._nodes if not node.is_local
        ]
        if tasks:
            ray.wait(tasks, num_returns=len(tasks), timeout=_STOP_SECONDS)
