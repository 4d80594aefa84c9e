"""Log a search to Weights & Biases, as one run whose id the run directory keeps.

`scores/<stage>/<metric>` is over the number of the candidate, `full/27/train/loss` and the like over the steps of that
training. Project, entity and mode come from the variables of the library (`WANDB_PROJECT`, `WANDB_MODE`, ...). On a
machine that is not logged in, the run is kept in the run directory, for `wandb sync`.
"""

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb

from nas.common.boundary import read_json, reading
from nas.common.errors import StudyError
from nas.common.files import write_atomically
from nas.run.callbacks import EndEvent, StageEvent, TrialEvent
from nas.run.history import HistoryPoint
from nas.run.loggers.base import Logger
from nas.run.loggers.steps import LoggedSteps

RUN_FILE = "wandb.json"
"""The file of a run directory with the id of its W&B run, and the last step of each curve."""


class WandbLogger(Logger):
    """Logs a search to Weights & Biases. A later session adds to the same W&B run.

    Args:
        directory: The run directory.

    Raises:
        StudyError: If the record of the W&B run is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / RUN_FILE
        self._steps, self._last = LoggedSteps(), dict[str, int]()
        identity = self._read()
        self._defined: set[str] = set()
        mode: Any = None if _is_reachable() else "offline"
        self._run = wandb.init(
            id=identity,
            resume="allow",
            name=directory.resolve().name,
            project=os.environ.get("WANDB_PROJECT") or "pmf-nas",
            dir=str(directory),
            mode=mode,
            # It would otherwise capture the output of the search and measure the machine with threads of its own.
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True, disable_git=True),
        )
        self._write()

    def on_stage(self, event: StageEvent) -> None:
        self._run.summary["phase"] = event.stage

    def on_trial(self, event: TrialEvent) -> None:
        if event.trial.isdecimal() and event.stage != "rerun" and event.failure is None:
            prefix = f"scores/{event.stage}"
            self._log(prefix, "candidate", int(event.trial), event.metrics)

    def on_points(self, points: Sequence[HistoryPoint]) -> None:
        for training, name, point in self._steps.new(points):
            self._log(training, "step", point.step, {name: point.value})
            self._last[f"{training}:{name}"] = point.step
        self._write()

    def on_end(self, event: EndEvent) -> None:
        self._run.summary["outcome"] = event.outcome

    def close(self) -> None:
        self._run.finish()

    def _log(self, prefix: str, axis: str, place: int, values: Any) -> None:
        """Log values over an axis of their own."""
        if prefix not in self._defined:
            self._run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/{axis}")
            self._defined.add(prefix)
        self._run.log({f"{prefix}/{axis}": place, **{f"{prefix}/{name}": value for name, value in values.items()}})

    def _read(self) -> str:
        """Return the id of the W&B run, a new one if there is none, and remember what has been logged."""
        if not self._path.exists():
            return secrets.token_hex(4)
        expected = "the id of the W&B run of a search"
        with reading(self._path, expected=expected, error=StudyError, problem="is damaged"):
            values: Any = read_json(self._path, expected=expected, error=StudyError)
            self._last = {str(curve): int(step) for curve, step in values["steps"].items()}
            for curve, step in self._last.items():
                training, _, name = curve.partition(":")
                self._steps.skip_to(training, name, step)
            return str(values["id"])

    def _write(self) -> None:
        content = {"id": self._run.id, "steps": self._last}
        write_atomically(self._path, json.dumps(content, indent=1).encode() + b"\n")


def _is_reachable() -> bool:
    """Return whether a mode is set, or this machine is logged in: the library would ask for a key otherwise."""
    return "WANDB_MODE" in os.environ or wandb.api.api_key is not None
