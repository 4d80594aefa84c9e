"""Find out why a Ray worker has died, on whichever node it ran."""

from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayError

from nas.execution.ray.cluster import task_on
from nas.execution.ray.nodes import NodePool, Slot, WorkerNode
from nas.execution.worker_exit import WorkerExit, memory_kill_count, read_worker_exit
from nas.search.keys import ModelKey
from nas.search.trial import Job, Stage

_READ_SECONDS = 20.0
_UNEXPLAINED_KILLS = 10
"""The number of kills without a record after which a candidate is no longer considered unlucky."""


def _read_here(path: Path, was_memory_killed: bool) -> WorkerExit:
    return read_worker_exit(path, was_memory_killed=was_memory_killed)


class ExitReader:
    """Reads the exit records of dead workers, and counts the kills that leave none.

    Args:
        nodes: The nodes that take part.
    """

    def __init__(self, nodes: NodePool) -> None:
        self._nodes = nodes
        self._memory_kills = memory_kill_count()
        self._unexplained: dict[tuple[ModelKey, Stage], int] = {}

    def read(self, job: Job | None, node: WorkerNode, slot: Slot, error: RayError) -> WorkerExit:
        """Return why the worker in a slot has died.

        Args:
            job: The job that it ran; None if it trained the supernet or was idle.
            node: The node of the worker.
            slot: The slot of the worker.
            error: The error with which Ray reports the death.
        """
        kills = memory_kill_count()
        was_memory_killed = isinstance(error, OutOfMemoryError) or (node.is_local and kills > self._memory_kills)
        self._memory_kills = kills
        self._nodes.update()
        found = self._record(node, slot, was_memory_killed=was_memory_killed)
        if found is None:
            return WorkerExit("killed_externally", "node lost", f"its node {node.node.name[:8]} was lost")
        if found.kind == "killed_externally" and job is not None:
            count = self._unexplained[job.identity] = self._unexplained.get(job.identity, 0) + 1
            if count >= _UNEXPLAINED_KILLS:
                return WorkerExit("crash", "worker died", f"its workers were killed {count} times without a trace")
        return found

    def _record(self, node: WorkerNode, slot: Slot, *, was_memory_killed: bool) -> WorkerExit | None:
        """Return the content of the exit record; None if the node was lost."""
        if node not in self._nodes or slot.record_path is None:
            return None
        if node.is_local:
            return read_worker_exit(slot.record_path, was_memory_killed=was_memory_killed)
        try:
            reference = task_on(node.node, _read_here).remote(slot.record_path, was_memory_killed)
            found: WorkerExit = ray.get(reference, timeout=_READ_SECONDS)
        except (RayError, GetTimeoutError):
            return None
        return found
