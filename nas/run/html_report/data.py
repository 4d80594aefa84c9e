"""Everything that the report of a run shows, read from its run directory."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nas.config.schema import Config
from nas.run.directory import read_run, read_study
from nas.run.finalize import RELIABILITY, read_report
from nas.run.history import HISTORY, HistoryPoint, read_history
from nas.run.html_report.job_times import JobTime, read_job_times
from nas.run.html_report.summary import RunSummary, read_summary
from nas.run.recording import RESULTS
from nas.run.reliability import Agreement, agreement, read_verdict
from nas.run.reruns import RERUNS, RerunStore, read_simple_results
from nas.run.results_csv import read_parameters
from nas.run.roles import BEST
from nas.run.time_budget import TimeAccount, time_file
from nas.search.keys import CandidateKey
from nas.search.metric_registry import METRICS
from nas.search.objectives import Objectives
from nas.search.trial import STAGES, Result, Stage
from nas.storage.contents import StudyContents
from nas.storage.records import Rejection


@dataclass(frozen=True)
class RunData:
    """The content of a run directory at one moment.

    Args:
        directory: The run directory.
        config: The configuration of the search.
        class_names: The class names in the order of the logits.
        results: The results of each stage, by number of the candidate.
        rejections: The candidates that ended without a score.
        simple: The first trainings of the simpler models, by their roles.
        reruns: Further full trainings of candidates and of the default.
        phases: The seconds that each phase has used.
        jobs: The jobs that have ended, with their workers and their memory.
        curves: The learning curves.
        parameters: The number of trainable parameters of the candidates that `results.csv` has, by their numbers.
        summary: What was known before anything was trained; None for a run that has no such file.
        report: The final report; empty before the search has ended.
        verdict: The verdict and the lines about how far to trust it; empty before the search has ended.
        is_running: Whether the search is running now.
        time: The time at which this was read, in seconds since the epoch.
    """

    directory: Path
    config: Config
    class_names: Sequence[str]
    results: Mapping[Stage, Sequence[Result]]
    rejections: Sequence[Rejection]
    simple: Mapping[str, Result]
    reruns: Sequence[Result]
    phases: Mapping[str, float]
    jobs: Sequence[JobTime]
    curves: Sequence[HistoryPoint]
    parameters: Mapping[int, int]
    summary: RunSummary | None
    report: Mapping[str, Any]
    verdict: Sequence[str]
    is_running: bool
    time: float

    @property
    def metric(self) -> str:
        """The metric that the search optimises."""
        return self.config.search.objective

    def value(self, result: Result) -> float:
        """Return the metric of a result on validation; not a number where it has none."""
        return result.metrics.get(self.metric, math.nan)

    def parameters_of(self, result: Result) -> int | None:
        """Return the number of trainable parameters of a model; None if it was not stored."""
        if isinstance(result.key, CandidateKey):
            return self.parameters.get(result.trial)
        entry = self.report.get(result.key.name)
        return None if entry is None else int(entry["trainable_parameters"])

    @property
    def last_stage(self) -> Stage | None:
        """The most expensive stage that has results; None if none has."""
        return next((stage for stage in reversed(STAGES) if self.results[stage]), None)

    @property
    def best(self) -> Result | None:
        """The best result of the most expensive stage, among those that meet the constraints where some do."""
        if self.last_stage is None:
            return None
        objectives = Objectives(self.metric, constraints=self.config.search.constraints)
        found = self.results[self.last_stage]
        return objectives.ranked([result for result in found if objectives.is_eligible(result)] or found)[0]

    @property
    def answer(self) -> Result | None:
        """The result of the answer, of an ensemble that of its first member; the best one before there is an answer."""
        members = self.answer_members
        return members[0][0] if members else self.best

    @cached_property
    def answer_members(self) -> list[tuple[Result, float]]:
        """The results of which the answer consists, with their weights; empty before there is an answer."""
        entry = self.report.get(BEST)
        if entry is None:
            return []
        members = entry.get("members")
        if not members:
            return [(Result.from_dict(entry["result"]), 1.0)]
        return [(Result.from_dict(member["result"]), member["weight"]) for member in members]

    @property
    def agreements(self) -> list[Agreement]:
        """The rank agreement of each stage with the more expensive ones."""
        pairs: list[tuple[Stage, Stage]] = [("one_shot", "full"), ("short", "full"), ("one_shot", "short")]
        return [
            agreement(cheaper, dearer, self.results)
            for cheaper, dearer in pairs
            if self.results[cheaper] and self.results[dearer]
        ]

    @property
    def sign(self) -> float:
        """1 if a higher value of the metric is better, else −1."""
        return METRICS[self.metric].score(1.0)


def read_run_data(
    directory: Path, *, study: StudyContents | None = None, storage: str | None = None, is_running: bool = False
) -> RunData:
    """Read a run directory, also while its search is running.

    Args:
        directory: The run directory.
        study: The study of the run, where it is open; otherwise it is read.
        storage: The database URL in place of the recorded one; see `nas.run.directory.read_study`.
        is_running: Whether the search is running now.

    Raises:
        NasError: If the directory holds no run, or one of its files is damaged.
    """
    run = read_run(directory)
    if study is None:
        study = read_study(directory, run, storage=storage)
    return RunData(
        directory=directory,
        config=run.config,
        class_names=run.class_names,
        results={stage: study.results(stage) for stage in STAGES},
        rejections=study.rejections,
        simple=read_simple_results(directory),
        reruns=RerunStore(directory / RERUNS).results(),
        phases=TimeAccount(time_file(directory)).phases,
        jobs=read_job_times(directory),
        curves=read_history(directory / HISTORY),
        parameters=read_parameters(directory / RESULTS),
        summary=read_summary(directory),
        report=read_report(directory),
        verdict=read_verdict(directory / RELIABILITY),
        is_running=is_running,
        time=time.time(),
    )
