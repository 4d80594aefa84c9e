"""Run full trainings that belong to no search, within the memory budget; finished ones and failures are in files."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from nas.common.boundary import shown
from nas.common.interrupt import Interrupted, interruptible
from nas.common.progress import Reporter
from nas.common.sealed_json import write_sealed_json
from nas.common.units import format_seconds
from nas.config.schema import Config
from nas.execution.base import Executor
from nas.execution.failure_policy import FailurePolicy, Verdict
from nas.execution.scheduler import JobScheduler
from nas.run.comparison.files import FAILURES, TRAININGS, read_stored
from nas.run.executors import ExecutionOptions, build_executor, write_worker_setup
from nas.run.phases.listed import ListedPlan
from nas.run.prepare import SearchContext
from nas.run.progress_lines import VERDICT_TEXTS, scores_text
from nas.run.reruns import RerunStore
from nas.search.keys import ModelKey, key_from_json
from nas.search.space import Architecture
from nas.search.trial import Failure, FailureKind, Job, Result, to_count


class FullTrainings:
    """Runs full trainings; finished ones and failures are in files of a folder, and are not repeated.

    Workers are started when a training is missing; call `close` at the end.

    Args:
        folder: The folder of the files and of the weights.
        config: The configuration, with a space that holds all architectures.
        prepared: The encoders, features and memory predictions.
        options: The workers and the cluster.
        reporter: The receiver of messages.
        kind: A word for what the trainings are for, in the name of the run on other nodes.
        title: What is trained, for messages; may be empty.
        name_of: Function that names a training in messages.

    Raises:
        StudyError: If a file of the folder is damaged.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        prepared: SearchContext,
        *,
        options: ExecutionOptions,
        reporter: Reporter,
        kind: str,
        title: str,
        name_of: Callable[[ModelKey], str],
    ) -> None:
        self._folder, self._config, self._prepared = folder, config, prepared
        self._options, self._reporter = options, reporter
        self._kind, self._title, self._name_of = kind, title, name_of
        self._store = RerunStore(folder / TRAININGS)
        self._failures = FailureFile(folder / FAILURES, config.budget.memory_bytes)
        self._tried_alone: set[ModelKey] = set()
        self._executor: Executor | None = None

    def get(self, architecture: Architecture, key: ModelKey) -> Result | None:
        """Return the result of a training; None if it has none."""
        return self._store.get(architecture, key)

    @property
    def lasting_failures(self) -> Mapping[ModelKey, str]:
        """The failures that would recur, each with a description."""
        return self._failures.lasting

    def fitting_parts(self, architecture: Architecture) -> int | None:
        """Return the number of micro-batches in which a training fits the memory budget; None if it does not fit."""
        budget = self._config.budget
        parts = self._prepared.memory.min_micro_batches(architecture, budget.memory_bytes)
        return None if parts is not None and parts > 1 and budget.oversized == "reject" else parts

    def is_missing(self, architecture: Architecture, key: ModelKey) -> bool:
        """Return whether a training has neither a result nor a failure that would recur."""
        return self.get(architecture, key) is None and key not in self._failures.lasting

    def run(
        self,
        jobs: Sequence[Job],
        *,
        is_over: Callable[[], bool] = lambda: False,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Run trainings that are missing.

        Args:
            jobs: The trainings, in their order.
            is_over: Whether to stop; trainings that run then are stopped, and are missing still.
            on_end: Callback after every training that has finished or will not be tried again.

        Raises:
            Interrupted: If the user has interrupted the program.
        """
        if not jobs:
            return
        if self._executor is None:
            self._executor = self._build_executor()
        scheduler = self._scheduler(self._executor, len(jobs), on_end)
        with interruptible(self._reporter.announce) as interruption:
            scheduler.run(ListedPlan(jobs), is_over=is_over, is_interrupted=lambda: interruption.is_requested)
        if interruption.is_requested:
            raise Interrupted

    def close(self) -> None:
        """End the workers."""
        if self._executor is not None:
            self._executor.close()

    def _scheduler(self, executor: Executor, job_count: int, on_end: Callable[[], None]) -> JobScheduler:
        def runs_alone(job: Job) -> bool:
            return job.key in self._tried_alone

        def take(result: Result) -> None:
            self._take(result)
            on_end()

        def record(failure: Failure) -> None:
            self._failures.add(failure, f"{self._name_of(failure.job.key)}: {failure.reason}")
            on_end()

        policy = FailurePolicy(
            was_alone=runs_alone,
            try_alone=lambda job: self._tried_alone.add(job.key),
            record=record,
            # A setting that makes training fail does so with every seed, and its neighbour may do so, too.
            same_failures=job_count + 1,
        )
        return JobScheduler(
            executor=executor,
            budget_bytes=self._config.budget.memory_bytes,
            idle_bytes=self._prepared.memory.idle_bytes,
            policy=policy,
            runs_alone=runs_alone,
            take=take,
            show=self._show,
            now=time.monotonic,
        )

    def _build_executor(self) -> Executor:
        setup = write_worker_setup(self._config, self._prepared, self._folder, thread_count=self._config.threads)
        place = hashlib.sha256(str(self._folder.resolve()).encode()).hexdigest()[:12]
        return build_executor(
            setup,
            self._options,
            self._prepared,
            run_id=f"{self._config.name}-{self._kind}-{place}",
            on_note=lambda text: None,
        )

    def _take(self, result: Result) -> None:
        self._store.add(result)
        scores = scores_text(result, self._config.search.objective)
        seconds = format_seconds(result.seconds)
        self._reporter.note(f"{self._titled(result.key)}: validation {scores}, {seconds}")

    def _show(self, failure: Failure, verdict: Verdict) -> None:
        self._reporter.note(f"{self._titled(failure.job.key)}: {VERDICT_TEXTS[verdict]}: {failure.reason}")

    def _titled(self, key: ModelKey) -> str:
        return f"{self._title}: {self._name_of(key)}" if self._title else self._name_of(key)


class FailureFile:
    """File of the failed trainings of a folder.

    Args:
        path: The file; read if it exists.
        memory_bytes: The memory budget.

    Raises:
        StudyError: If the file is damaged.
    """

    def __init__(self, path: Path, memory_bytes: int) -> None:
        self._path = path
        self._memory_bytes = memory_bytes
        self._entries = read_stored(path, _to_failures)
        self.lasting = {
            key: str(entry["text"]) for key, entry in self._entries.items() if self._would_fail_again(entry)
        }

    def _would_fail_again(self, entry: Mapping[str, Any]) -> bool:
        """Return whether a failure would recur: an error, or out of memory with at least the present budget."""
        is_memory = entry["kind"] == "memory" and self._memory_bytes <= entry["memory_bytes"]
        return bool(entry["kind"] == "error" or is_memory)

    def add(self, failure: Failure, text: str) -> None:
        """Store a failure durably.

        Args:
            failure: The failure.
            text: The description of the training and its failure.

        Raises:
            OSError: If the file cannot be written.
        """
        key = failure.job.key
        self.lasting[key] = text
        self._entries[key] = {"text": text, "kind": failure.kind, "memory_bytes": self._memory_bytes}
        write_sealed_json(self._path, {stored.name: entry for stored, entry in self._entries.items()})


def _to_failures(values: dict[str, Any]) -> dict[ModelKey, dict[str, Any]]:
    """Return the failures of trainings by their keys."""
    for entry in values.values():
        if not isinstance(entry["text"], str) or entry["kind"] not in get_args(FailureKind):
            raise ValueError(f"{shown(entry)} is no failure")
        to_count("memory_bytes", entry["memory_bytes"])
    return {key_from_json(name): entry for name, entry in values.items()}
