"""Other processes that compute blocks of a feature build, once it is worth starting them."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from nas.data.features.build import BUILD, OnProgress

WORTH_SECONDS = 60.0
"""The remaining time of a build from which other processes are started: they load encoders and read the data first."""
_MEASURED_SECONDS = 5.0
_UPDATE_SECONDS = 5.0


@dataclass(frozen=True)
class HelpOrder:
    """The build that other processes help with.

    Args:
        building: The folder of the build.
        identity: What identifies the build, so that another one at the same path of another machine is not touched.
        per_batch: The number of threads with which each batch is computed.
    """

    building: Path
    identity: str
    per_batch: int

    @property
    def is_here(self) -> bool:
        """Whether this machine shares the folder."""
        try:
            return bool(json.loads((self.building / BUILD).read_text(encoding="utf-8"))["build"] == self.identity)
        except (OSError, ValueError, KeyError, TypeError):
            return False


class BuildHelpers(ABC):
    """Starts processes that compute blocks, on other machines."""

    devices: Sequence[torch.device] = ()
    """Further accelerators of this machine, on which the building process computes blocks as well."""

    @abstractmethod
    def update(self, order: HelpOrder) -> None:
        """Start processes where none has been started yet, and report those that have failed.

        Args:
            order: The build.
        """

    @abstractmethod
    def close(self) -> None:
        """End all processes."""


class OwnDevices(BuildHelpers):
    """Further accelerators of this machine alone.

    Args:
        devices: The accelerators, besides the one of the build.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self.devices = devices

    def update(self, order: HelpOrder) -> None:
        pass

    def close(self) -> None:
        pass


class HelpedProgress(AbstractContextManager["HelpedProgress"]):
    """Passes progress on, and starts helpers when the rest of the build takes long; they end with the context.

    Args:
        helpers: The helpers; None if there are none.
        order: The build.
        on_progress: Callback that receives the numbers of images and texts done and in total.
    """

    def __init__(self, helpers: BuildHelpers | None, order: HelpOrder, on_progress: OnProgress) -> None:
        self._helpers = helpers
        self._order = order
        self._on_progress = on_progress
        self._first: tuple[float, int] | None = None
        self._due = 0.0
        self._is_helped = False

    def __call__(self, done: int, total: int) -> None:
        self._on_progress(done, total)
        now = time.monotonic()
        if self._helpers is not None and now >= self._due and (self._is_helped or self._takes_long(now, done, total)):
            self._is_helped = True
            self._helpers.update(self._order)
            self._due = time.monotonic() + _UPDATE_SECONDS

    def _takes_long(self, now: float, done: int, total: int) -> bool:
        if self._first is None:
            self._first = now, done
        started, before = self._first
        if done == before or now - started < min(_MEASURED_SECONDS, WORTH_SECONDS):
            return False
        return (total - done) * (now - started) / (done - before) >= WORTH_SECONDS

    def __exit__(self, *exception: object) -> None:
        if self._helpers is not None and self._is_helped:
            self._helpers.close()
