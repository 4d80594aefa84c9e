"""Fetch the learning curves of trainings from their workers, while they run and when they end."""

import time
from collections.abc import Collection
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from nas.execution.base import LossReceiver
from nas.execution.ray.nodes import Slot
from nas.search.keys import SpeedKey
from nas.search.trial import Job

_POLL_SECONDS = 2.0


class LossPoller:
    """Asks the workers of running trainings for their learning curves, every two seconds and without waiting for them.

    A worker always returns the whole curve of a training, so that an answer that is lost with its worker or arrives
    late does no harm.
    """

    def __init__(self) -> None:
        self.receive: LossReceiver | None = None
        """The receiver; without one, nothing is fetched."""
        self._asked: dict[Any, Job] = {}
        self._due_at = 0.0

    def poll(self, running: Collection[tuple[Job, Slot]]) -> None:
        """Pass on what has arrived, and ask again if it is time.

        Args:
            running: The running jobs and their slots; what arrives for other jobs is dropped.
        """
        if self.receive is None:
            return
        identities = {job.identity for job, _ in running}
        self._asked = {reference: job for reference, job in self._asked.items() if job.identity in identities}
        if self._asked:
            arrived, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
            for reference in arrived:
                self._pass_on(self._asked.pop(reference), reference)
        now = time.monotonic()
        if now < self._due_at:
            return
        self._due_at = now + _POLL_SECONDS
        waiting = {job.identity for job in self._asked.values()}
        for job, slot in running:
            # Without an actor, the node was lost; the outcome of the job follows.
            if slot.actor is not None and _is_training(job) and job.identity not in waiting:
                self._asked[slot.actor.losses.remote(job.key, job.stage)] = job

    def finish(self, job: Job, slot: Slot) -> None:
        """Fetch and pass on the learning curve of a job that has ended, before its outcome is reported."""
        if self.receive is not None and slot.actor is not None and _is_training(job):
            self._pass_on(job, slot.actor.losses.remote(job.key, job.stage))

    def clear(self) -> None:
        """Forget what was asked: all workers are lost."""
        self._asked.clear()

    def _pass_on(self, job: Job, reference: Any) -> None:
        try:
            points = ray.get(reference)
        except RayTaskError:
            raise
        except RayError:  # the worker has died, so its job fails as well
            return
        if points and self.receive is not None:
            self.receive(job, points)


def _is_training(job: Job) -> bool:
    return job.stage != "one_shot" and not isinstance(job.key, SpeedKey)
