"""Train the supernet in several Ray workers that exchange their gradients."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from nas.common.devices import communication_backend
from nas.common.errors import NasError, TrainingError
from nas.common.files import write_atomically
from nas.execution.base import SupernetJob, SupernetProgress, WorkerLost
from nas.execution.ray.exits import ExitReader
from nas.execution.ray.nodes import Slot, WorkerNode
from nas.execution.worker_setup import WorkerSetup
from nas.training.distributed import GroupBroken

_POLL_SECONDS = 0.2
_STOP_SECONDS = 3.0


class SupernetGroup:
    """A group of running workers that train the supernet together.

    Args:
        members: The workers; the first reads and writes the checkpoint, so it is one on the driver's node if possible.
        setup: The setup with the driver's paths.
        exits: The reader of exit records.
        check_loss: Function that is called while the workers train, and raises an error if Ray itself was lost.
    """

    def __init__(
        self,
        members: Sequence[tuple[WorkerNode, Slot]],
        setup: WorkerSetup,
        exits: ExitReader,
        check_loss: Callable[[], None],
    ) -> None:
        self._members = members
        self._setup = setup
        self._exits = exits
        self._check_loss = check_loss

    def train(
        self,
        job: SupernetJob,
        *,
        grant_bytes: int,
        should_stop: Callable[[], bool],
        on_progress: Callable[[SupernetProgress], None],
    ) -> int:
        """Train the supernet and store it in the driver's run directory.

        Args:
            job: The architectures that may be sampled.
            grant_bytes: The memory that each worker may hold.
            should_stop: Whether training ends early; it is saved.
            on_progress: Callback that receives the progress from time to time.

        Returns:
            The number of steps done, those of earlier calls included.

        Raises:
            NasError: If the supernet cannot be trained.
            WorkerLost: If one of the workers died.
        """
        node, slot = self._members[0]
        address = self._address()
        place = {"size": len(self._members), "address": address, "backend": group_backend(self._members)}
        references = [
            member.actor.train_supernet.remote(job, grant_bytes, rank=rank, **place)
            for rank, (_, member) in enumerate(self._members)
        ]
        self._watch(references, should_stop, on_progress)
        done = self._steps(references)
        if not node.is_local:
            write_atomically(self._setup.supernet_path, ray.get(slot.actor.supernet.remote()).tobytes())
        return done

    def _address(self) -> str:
        """Return the address at which the workers meet.

        Raises:
            WorkerLost: If the first worker has died while it was idle.
        """
        node, slot = self._members[0]
        is_one_node = all(member is node for member, _ in self._members)
        try:
            address: str = ray.get(slot.actor.group_address.remote(None if is_one_node else node.node.host))
        except RayActorError as error:
            raise WorkerLost(self._read_exit(node, slot, error)) from error
        return address

    def _watch(
        self,
        references: Sequence[Any],
        should_stop: Callable[[], bool],
        on_progress: Callable[[SupernetProgress], None],
    ) -> None:
        """Wait until all workers have ended, and end those that wait for a dead one."""
        first = self._members[0][1].actor
        pending, lost_at = list(references), math.inf
        while pending:
            ready, pending = ray.wait(pending, num_returns=len(pending), timeout=_POLL_SECONDS)
            self._check_loss()
            if any(map(_is_lost, ready)):
                lost_at = min(lost_at, time.monotonic())
            if time.monotonic() - lost_at > _STOP_SECONDS:
                # The group waits for minutes for a worker that died before it joined.
                for (_, slot), reference in zip(self._members, references, strict=True):
                    if reference in pending:
                        ray.kill(slot.actor)
            try:
                progress = ray.get(first.progress.remote())
            except RayActorError:
                continue  # its reference reports the loss as well
            on_progress(progress)
            if should_stop():
                first.stop.remote()  # repeatedly: a call before the training begins has no effect

    def _steps(self, references: Sequence[Any]) -> int:
        """Return the number of steps done, or raise the error that made the other workers fail as well."""
        lost: tuple[str, RayActorError] | None = None
        causes: list[BaseException] = []
        done = 0
        for (node, slot), reference in zip(self._members, references, strict=True):
            try:
                done = ray.get(reference)
            except RayTaskError as error:
                causes.append(error.cause)
            except RayActorError as error:
                lost = self._read_exit(node, slot, error), error
        if lost is not None:
            raise WorkerLost(lost[0]) from lost[1]
        if causes:
            # A worker that only reports a broken group does not know the cause.
            cause = next((cause for cause in causes if not isinstance(cause, GroupBroken)), causes[0])
            if isinstance(cause, NasError):
                raise cause
            reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
            raise TrainingError(f"supernet: {reason}") from cause
        return done

    def _read_exit(self, node: WorkerNode, slot: Slot, error: RayActorError) -> str:
        reason = self._exits.read(None, node, slot, error).reason
        slot.actor = None
        return reason


def group_backend(members: Sequence[tuple[WorkerNode, Slot]]) -> str:
    """Return the backend by which workers exchange gradients: directly between GPUs if each has one of its own."""
    names = [slot.device for _, slot in members if slot.gpu is not None]
    if len(set(names)) < len(members):
        return "gloo"
    return communication_backend(torch.device(members[0][0].setup.device))


def _is_lost(reference: Any) -> bool:
    """Return whether a call has ended because its worker died."""
    try:
        ray.get(reference)
    except RayActorError:
        return True
    except RayTaskError:
        return False
    return False
