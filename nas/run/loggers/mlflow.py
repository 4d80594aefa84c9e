"""Log a search to MLflow: to the server in `MLFLOW_TRACKING_URI`, or to `mlflow.db` in the run directory.

The search is one MLflow run, in the experiment in `MLFLOW_EXPERIMENT_NAME` or else `pmf-nas`: each metric of each stage
over the number of the candidate. Each training is a run below it, such as `full/27`, with `train/loss`,
`validation/loss` and the metric over the steps, and the genes as parameters.
"""

import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunStatus
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from nas.common.boundary import read_json, reading
from nas.common.errors import StudyError
from nas.common.files import write_atomically
from nas.run.callbacks import EndEvent, StageEvent, TrialEvent
from nas.run.history import HistoryPoint
from nas.run.loggers.base import Logger
from nas.run.loggers.steps import LoggedSteps

DATABASE = "mlflow.db"
RUNS_FILE = "mlflow.json"
"""The file of a run directory with the ids of its MLflow runs."""

_SEARCH = "search"
_STATUSES = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MLflowLogger(Logger):
    """Logs a search to MLflow. A later session adds to the same MLflow runs.

    Args:
        directory: The run directory.

    Raises:
        StudyError: If the record of the MLflow runs is damaged.
    """

    def __init__(self, directory: Path) -> None:
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it would announce its tables
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(directory / DATABASE).resolve()}"
        self._client = MlflowClient(tracking_uri=address)
        self._path = directory / RUNS_FILE
        self._runs = _read_runs(self._path)
        self._steps = LoggedSteps()
        self._known: set[str] = set()
        """The trainings of which it is known what earlier sessions have logged."""
        self._search = self._run_of(_SEARCH, directory.resolve().name)
        self._client.update_run(self._search, status="RUNNING")

    def on_stage(self, event: StageEvent) -> None:
        self._client.set_tag(self._search, "phase", event.stage)

    def on_trial(self, event: TrialEvent) -> None:
        if event.failure is not None:
            return
        if event.stage != "one_shot":
            genes = [Param(name, json.dumps(value)) for name, value in event.genes.items()]
            name = f"{event.stage}/{event.trial}"
            run = self._training(f"{name}/seed_{event.seed}" if event.stage == "rerun" else name)
            self._client.log_batch(run, params=genes)
            self._client.set_terminated(run, RunStatus.to_string(RunStatus.FINISHED))
        if event.trial.isdecimal() and event.stage != "rerun":
            now = _milliseconds()
            metrics = [
                Metric(f"{event.stage}/{name}", value, now, int(event.trial)) for name, value in event.metrics.items()
            ]
            self._client.log_batch(self._search, metrics=metrics)

    def on_points(self, points: Sequence[HistoryPoint]) -> None:
        for training in {training for training, _, _ in LoggedSteps().new(points)}:
            self._training(training)
        found: dict[str, list[Metric]] = defaultdict(list)
        for training, name, point in self._steps.new(points):
            found[training].append(Metric(name, point.value, round(1000 * point.time), point.step))
        for training, metrics in found.items():
            self._client.log_batch(self._runs[training], metrics=metrics)

    def on_end(self, event: EndEvent) -> None:
        self._client.set_terminated(self._search, _STATUSES[event.outcome])

    def close(self) -> None:
        """Do nothing: every call has reached the store."""

    def _training(self, name: str) -> str:
        """Return the MLflow run of a training, and learn what an earlier session has logged."""
        is_old = name in self._runs
        run = self._run_of(name, name, parent=self._search)
        if is_old and name not in self._known:
            for metric in self._client.get_run(run).data.metrics:
                last = max(entry.step for entry in self._client.get_metric_history(run, metric))
                self._steps.skip_to(name, metric, last)
        self._known.add(name)
        return run

    def _run_of(self, key: str, name: str, parent: str | None = None) -> str:
        """Return the id of an MLflow run, which is created unless an earlier session has done so."""
        if key not in self._runs:
            tags = {} if parent is None else {MLFLOW_PARENT_RUN_ID: parent}
            run = self._client.create_run(self._experiment(), run_name=name, tags=tags)
            self._runs[key] = str(run.info.run_id)
            write_atomically(self._path, json.dumps({"runs": self._runs}, indent=1).encode() + b"\n")
        return self._runs[key]

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "pmf-nas"
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000


def _read_runs(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    expected = "the ids of the MLflow runs of a search"
    with reading(path, expected=expected, error=StudyError, problem="is damaged"):
        runs: Any = read_json(path, expected=expected, error=StudyError)["runs"]
        return {str(name): str(run) for name, run in runs.items()}
