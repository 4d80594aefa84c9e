"""A job that runs in a Ray worker, or a training that several of them share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from nas.execution.ray.exits import ExitReader
from nas.execution.ray.loss import LossGuard
from nas.execution.ray.nodes import Slot, WorkerNode
from nas.execution.ray.supernet import group_backend
from nas.search.trial import Failure, Job, Result
from nas.training.distributed import GroupBroken

_STOP_SECONDS = 3.0
"""The time in which the others of a group end once one has failed: they notice at their next message."""

Outcomes = tuple[Result | Failure, ...]


@dataclass
class RunningJob:
    """A job and the workers that run it.

    Args:
        job: The job.
        members: The workers, in the order of their ranks; one unless the job is a training that several share.
        pending: The calls that have not ended, with the ranks of their workers.
    """

    job: Job
    members: Sequence[tuple[WorkerNode, Slot]]
    pending: dict[Any, int]
    _ended: dict[int, Any] = field(default_factory=dict)
    _killed: set[int] = field(default_factory=set)

    @property
    def first(self) -> tuple[WorkerNode, Slot]:
        """The worker that has the outcome."""
        return self.members[0]

    def note_end(self, reference: Any) -> bool:
        """Note that a call has ended; return whether the job has.

        If the call failed, the workers that share the training with it end as well, or are killed.

        Args:
            reference: The call.
        """
        self._ended[self.pending.pop(reference)] = reference
        if self.pending and _has_failed(reference):
            ended, _ = ray.wait(list(self.pending), num_returns=len(self.pending), timeout=_STOP_SECONDS)
            for other in ended:
                self._ended[self.pending.pop(other)] = other
            self.kill_pending()
        return not self.pending

    def kill_pending(self) -> None:
        """Kill the workers whose calls have not ended, which is not their failure."""
        for reference, rank in self.pending.items():
            self._ended[rank] = reference
            self._killed.add(rank)
        self.pending.clear()
        if self._killed:
            self.end_workers()

    def end_workers(self) -> None:
        """Kill all workers of the job: those that have lost one of their group cannot be told from those that hang."""
        for _, slot in self.members:
            if slot.actor is not None:  # it is None on a lost node
                ray.kill(slot.actor)
            slot.actor = None

    def outcomes(self, exits: ExitReader, guard: LossGuard, fetch: Callable[[Outcomes], None]) -> Outcomes:
        """Return the outcomes of the job's members, once all of its calls have ended; none if the job was stopped.

        A worker that has died is without an actor then.

        Args:
            exits: The reader of exit records.
            guard: The guard that tells the loss of a worker from that of Ray.
            fetch: Called with the outcomes of the first worker; if the worker dies meanwhile, they count as lost.

        Raises:
            RayLost: If Ray was lost.
        """
        found: dict[int, Outcomes] = {}
        for rank in range(len(self.members)):
            values = self._outcomes_of(rank, exits, guard, fetch if rank == 0 else _ignore)
            if values is not None:
                found[rank] = values
        if len(self.members) == 1:
            return found[0]
        if any(slot.actor is None for _, slot in self.members):
            self.end_workers()
        return self._chosen(found)

    def _chosen(self, found: Mapping[int, Outcomes]) -> Outcomes:
        """Return the outcome of a shared training.

        Args:
            found: The outcomes of the workers that did not end because of another one.
        """
        first = found.get(0, ())
        if any(isinstance(outcome, Result) for outcome in first):
            return first  # another worker died after its part
        failures = [outcome for values in found.values() for outcome in values if isinstance(outcome, Failure)]
        if failures:
            return (failures[0],)
        if found:
            return ()  # one was stopped, which ended the others
        reason = "the workers that shared its training lost each other"
        return (Failure(self.job, "killed_externally", "group broken", reason),)

    def _outcomes_of(
        self, rank: int, exits: ExitReader, guard: LossGuard, fetch: Callable[[Outcomes], None]
    ) -> Outcomes | None:
        """Return the outcomes of one worker; None if it ended because of another one."""
        if rank in self._killed:
            return None
        node, slot = self.members[rank]
        try:
            values: Outcomes = ray.get(self._ended[rank])
            fetch(values)
        except RayTaskError as error:
            # The address of the group comes from the first worker, whose own call says why it has none.
            if isinstance(error.cause, GroupBroken | RayActorError):
                return None
            return tuple(Failure.of(member, error.cause, 0) for member in self.job.members)
        except RayError as error:
            guard.check_after(error)
            slot.actor = None
            lost = exits.read(self.job, node, slot, error)
            return tuple(
                Failure(member, lost.kind, lost.cause, lost.reason, lost.measured_peak_bytes)
                for member in self.job.members
            )
        return values


def _ignore(outcomes: Outcomes) -> None:
    del outcomes


def start(job: Job, members: Sequence[tuple[WorkerNode, Slot]], grant_bytes: int) -> RunningJob:
    """Start a job in a worker, or a training in several that share it.

    Args:
        job: The job.
        members: The workers, whose processes run; the first has the outcome.
        grant_bytes: The memory that each of them may hold.
    """
    node, slot = members[0]
    if len(members) == 1:
        return RunningJob(job, members, {slot.actor.run.remote(job, grant_bytes): 0})
    is_one_node = all(member is node for member, _ in members)
    place = {
        "size": len(members),
        "backend": group_backend(members),
        # Not waited for: a worker that starts takes seconds to answer.
        "address": slot.actor.group_address.remote(None if is_one_node else node.node.host),
    }
    calls = {
        member.actor.run_shared.remote(job, grant_bytes, rank=rank, **place): rank
        for rank, (_, member) in enumerate(members)
    }
    return RunningJob(job, members, calls)


def _has_failed(reference: Any) -> bool:
    """Return whether a call of a shared training has ended without having done its part."""
    try:
        return any(isinstance(outcome, Failure) for outcome in ray.get(reference))
    except RayError:
        return True
