"""One planted fault of each kind, to show that each is found."""

import mmap
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.fuzzing.cases import COMMANDS
from benchmarks.fuzzing.engine import VALID, Case
from benchmarks.fuzzing.outcomes import GIBIBYTE
from nas.common.errors import ConfigError
from nas.config import load
from nas.run import evaluate

_load_arms, _evaluate_exported = load.load_arms, evaluate.evaluate_exported


def _raises(path: Path) -> list[load.Arm]:
    _load_arms(path)
    raise KeyError("learning_rates")


def _grows(path: Path) -> list[load.Arm]:
    kept = bytearray(3 * GIBIBYTE // 2)
    kept[:: mmap.PAGESIZE] = b"x" * len(kept[:: mmap.PAGESIZE])
    return _load_arms(path)


def _waits(path: Path) -> list[load.Arm]:
    time.sleep(3600)
    return _load_arms(path)


def _is_unclear(path: Path) -> list[load.Arm]:
    raise ConfigError(str(path), ["bad value"])


def _changes_results(*arguments: Any, **options: Any) -> evaluate.Evaluation:
    outcome = _evaluate_exported(*arguments, **options)
    return outcome._replace(metrics={name: value * 0.99 for name, value in outcome.metrics.items()})


@dataclass(frozen=True)
class PlantedFault:
    """A fault of the program.

    Args:
        kind: The kind of fault that it is.
        target: The dotted name of the function that is replaced.
        replacement: The function in its place.
        command: The name of a command that meets it.
        is_quick: Whether it is found within seconds.
    """

    kind: str
    target: str
    replacement: Callable[..., Any]
    command: str = "space"
    is_quick: bool = True

    @property
    def case(self) -> Case:
        """The valid project, read by the command."""
        return VALID, list(COMMANDS).index(self.command)

    def plant(self) -> AbstractContextManager[Any]:
        """Replace the function until the context ends."""
        return mock.patch(self.target, self.replacement)


_LOAD = "nas.config.load.load_arms"

PLANTED: Sequence[PlantedFault] = (
    PlantedFault("tracebacks", _LOAD, _raises),
    PlantedFault("hangs", _LOAD, _grows),
    PlantedFault("hangs", _LOAD, _waits, is_quick=False),
    PlantedFault("unclear", _LOAD, _is_unclear),
    PlantedFault("silent", "nas.run.evaluate.evaluate_exported", _changes_results, "evaluate"),
)
