"""When each job of a search ran, on which worker, and with how much memory: `jobs.jsonl` in the run directory."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nas.common.json_lines import append_json_line, read_json_lines
from nas.execution.base import EndedJob
from nas.run.progress_lines import model_name
from nas.search.trial import Result

JOBS = "jobs.jsonl"


@dataclass(frozen=True)
class JobTime:
    """One job that has ended.

    Args:
        time: The time of its end, in seconds since the epoch.
        seconds: How long it ran.
        device: The name of its device.
        worker: The number of its worker on the device, from 0.
        model: The name of its model, `#9` for candidate 9.
        stage: Its stage.
        models: The number of models that were scored in it.
        predicted_peak_bytes: The predicted peak memory of the worker.
        granted_bytes: The memory that the worker was allowed to hold.
        measured_peak_bytes: The memory that it held; None if it did not finish.
    """

    time: float
    seconds: float
    device: str
    worker: int
    model: str
    stage: str
    models: int
    predicted_peak_bytes: int
    granted_bytes: int
    measured_peak_bytes: int | None


class JobLog:
    """Appends ended jobs to the file of a run directory.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / JOBS

    def add(self, ended: EndedJob) -> None:
        """Append a job.

        Args:
            ended: The job, where it ran and how it ended.

        Raises:
            OSError: If it cannot be written.
        """
        peaks = [outcome.measured_peak_bytes for outcome in ended.outcomes if isinstance(outcome, Result)]
        entry = JobTime(
            time=round(time.time(), 3),
            seconds=round(ended.seconds, 3),
            device=ended.device,
            worker=ended.slot,
            model=model_name(ended.job.key),
            stage=ended.job.stage,
            models=len(ended.job.members),
            predicted_peak_bytes=max(member.predicted_peak_bytes for member in ended.job.members),
            granted_bytes=ended.granted_bytes,
            measured_peak_bytes=max(peaks, default=None),
        )
        append_json_line(self._path, asdict(entry))


def read_job_times(directory: Path) -> list[JobTime]:
    """Return the jobs of a run in the order in which they ended, without lines that are damaged.

    Args:
        directory: The run directory.

    Raises:
        StudyError: If the file cannot be read.
    """
    found = [_to_job(values) for values in read_json_lines(directory / JOBS)]
    return [entry for entry in found if entry is not None]


_KINDS: Mapping[str, tuple[type, ...]] = {
    "time": (int, float),
    "seconds": (int, float),
    "device": (str,),
    "model": (str,),
    "stage": (str,),
    "measured_peak_bytes": (int, type(None)),
}


def _to_job(values: Mapping[str, Any]) -> JobTime | None:
    names = [field.name for field in fields(JobTime)]
    if any(not isinstance(values.get(name), _KINDS.get(name, (int,))) for name in names):
        return None
    return JobTime(**{name: values[name] for name in names})
