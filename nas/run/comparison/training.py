"""Train one entry of a comparison: choose its learning rate, then train it with all seeds."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from nas.common.boundary import shown
from nas.common.interrupt import Interrupted, interruptible
from nas.common.sealed_json import write_sealed_json
from nas.common.units import format_bytes, format_seconds
from nas.execution.base import Executor
from nas.execution.failure_policy import FailurePolicy, Verdict
from nas.execution.scheduler import JobScheduler
from nas.run.comparison.entries import ComparisonSettings, Entry
from nas.run.comparison.files import FAILURES, TRAININGS, read_stored
from nas.run.comparison.learning_rate import choose_rate
from nas.run.executors import build_executor, write_worker_setup
from nas.run.phases.listed import ListedPlan
from nas.run.progress_lines import VERDICT_TEXTS, scores_text
from nas.run.reruns import RerunStore
from nas.search.keys import ComparisonKey, ModelKey, key_from_json
from nas.search.trial import Failure, FailureKind, Job, Result, job_seed, to_count
from nas.training.trainer import full_step_count


@dataclass(frozen=True)
class TrainedEntry:
    """The trainings of an entry.

    Args:
        entry: The entry.
        rate: The index of its learning rate in the grid; None if none was chosen.
        results: The result of each seed; None where the training failed or is missing.
        micro_batches: The numbers of micro-batches that were used, in increasing order.
        remarks: Notes for readers of the table.
    """

    entry: Entry
    rate: int | None
    results: tuple[Result | None, ...]
    micro_batches: tuple[int, ...]
    remarks: tuple[str, ...]


class EntryTrainer:
    """Trains one entry; finished trainings and failures are in files of its folder.

    Args:
        settings: The comparison.
        entry: The entry.

    Raises:
        StudyError: If a file of the entry is damaged.
    """

    def __init__(self, settings: ComparisonSettings, entry: Entry) -> None:
        self._settings = settings
        self._entry = entry
        self._grid = entry.config.compare.learning_rates
        self._store = RerunStore(entry.folder / TRAININGS)
        self._failures = FailureFile(entry.folder / FAILURES, entry.config.budget.memory_bytes)
        self._is_short_of_memory = False
        self._tried_alone: set[ModelKey] = set()
        self._micro_batches = self._fitting_parts()

    def _fitting_parts(self) -> int | None:
        """Return the number of micro-batches in which the training fits; None if it does not fit."""
        budget = self._entry.config.budget
        parts = self._entry.prepared.memory.min_micro_batches(self._entry.architecture, budget.memory_bytes)
        return None if parts is not None and parts > 1 and budget.oversized == "reject" else parts

    def train(self) -> TrainedEntry:
        """Choose the learning rate and train with all seeds; finished trainings are not repeated.

        Raises:
            Interrupted: If the user has interrupted the comparison.
        """
        rate = self._train()
        keys = [] if rate is None else [ComparisonKey(rate, seed) for seed in range(self._settings.seeds)]
        if keys:
            self._delete_weights_except(keys)
        results = tuple(map(self._result, keys))
        # With another memory budget in between, seeds may have been trained in different micro-batches.
        parts = sorted({result.micro_batches for result in results if result is not None})
        return TrainedEntry(
            self._entry, rate, results, tuple(parts or [self._micro_batches or 1]), tuple(self._remarks(rate, parts))
        )

    def _train(self) -> int | None:
        """Choose the learning rate, train with all seeds that fit the memory budget, and return the rate's index."""
        title, rate = self._entry.title, None
        with contextlib.closing(_LazyExecutor(self._build_executor)) as executor:
            try:
                choice = choose_rate(len(self._grid), lambda indices: self._scores(indices, executor))
                rate = choice.best
                if rate is None:
                    return None
                self._settings.reporter.note(
                    f"{title}: learning rate {self._grid[rate]:g} is the best of {choice.tried} on validation"
                )
                self._run([ComparisonKey(rate, seed) for seed in range(self._settings.seeds)], executor)
            except _TooLargeError:
                self._is_short_of_memory = True
                self._settings.reporter.note(f"{title}: {self._memory_remark()}; missing trainings are skipped")
        return rate

    def _scores(self, indices: Sequence[int], executor: "_LazyExecutor") -> Mapping[int, float]:
        """Train with some learning rates and the first seed; returns the scores of those that did not fail."""
        keys = {index: ComparisonKey(index, 0) for index in indices}
        self._run(list(keys.values()), executor)
        return {index: result.score for index, key in keys.items() if (result := self._result(key)) is not None}

    def _result(self, key: ComparisonKey) -> Result | None:
        return self._store.get(self._entry.architecture, key)

    def _run(self, keys: Sequence[ComparisonKey], executor: "_LazyExecutor") -> None:
        """Run the trainings that have neither a result nor a lasting failure.

        Raises:
            _TooLargeError: If a training is missing and does not fit the memory budget.
            Interrupted: If the user has interrupted the comparison.
        """
        missing = [key for key in keys if self._result(key) is None and key not in self._failures.lasting]
        if not missing:
            return
        if self._micro_batches is None:
            raise _TooLargeError
        jobs = [self._job(key, self._micro_batches) for key in missing]
        scheduler = self._scheduler(executor.get(), len(jobs))
        with interruptible() as interruption:
            scheduler.run(ListedPlan(jobs), is_over=lambda: False, is_interrupted=lambda: interruption.is_requested)
        if interruption.is_requested:
            raise Interrupted

    def _job(self, key: ComparisonKey, micro_batches: int) -> Job:
        config, prepared, architecture = self._entry.config, self._entry.prepared, self._entry.architecture
        return Job(
            key=key,
            architecture=architecture,
            stage="full",
            step_count=full_step_count(config.recipe, len(prepared.store.splits["train"])),
            seed=job_seed(config.seed, "full", architecture, rerun=key.seed),
            predicted_peak_bytes=prepared.memory.predict(architecture, micro_batches=micro_batches).peak_bytes,
            micro_batches=micro_batches,
            learning_rate=self._grid[key.rate],
        )

    def _scheduler(self, executor: Executor, job_count: int) -> JobScheduler:
        def runs_alone(job: Job) -> bool:
            return job.key in self._tried_alone

        policy = FailurePolicy(
            was_alone=runs_alone,
            try_alone=lambda job: self._tried_alone.add(job.key),
            record=self._record,
            # A learning rate that is too high fails in the same way as the next higher one and the next seed.
            same_failures=job_count + 1,
        )
        return JobScheduler(
            executor=executor,
            budget_bytes=self._entry.config.budget.memory_bytes,
            idle_bytes=self._entry.prepared.memory.idle_bytes,
            policy=policy,
            runs_alone=runs_alone,
            take=self._take,
            show=self._show,
            now=time.monotonic,
        )

    def _build_executor(self) -> Executor:
        config, folder = self._entry.config, self._entry.folder
        setup = write_worker_setup(config, self._entry.prepared, folder, thread_count=config.threads)
        place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
        return build_executor(
            setup,
            self._settings.options,
            self._entry.prepared,
            run_id=f"{config.name}-comparison-{place}",
            on_note=lambda text: None,
        )

    def _take(self, result: Result) -> None:
        self._store.add(result)
        scores = scores_text(result, self._entry.config.search.objective)
        seconds = format_seconds(result.seconds)
        self._settings.reporter.note(f"{self._name(result.key)}: validation {scores}, {seconds}")

    def _show(self, failure: Failure, verdict: Verdict) -> None:
        self._settings.reporter.note(f"{self._name(failure.job.key)}: {VERDICT_TEXTS[verdict]}: {failure.reason}")

    def _record(self, failure: Failure) -> None:
        self._failures.add(failure, f"{self._name(failure.job.key, with_title=False)}: {failure.reason}")

    def _name(self, key: ModelKey, *, with_title: bool = True) -> str:
        """Return the name of a training in messages."""
        key = comparison_key(key)
        name = f"learning rate {self._grid[key.rate]:g}, seed {key.seed}"
        return f"{self._entry.title}: {name}" if with_title else name

    def _delete_weights_except(self, keys: Sequence[ComparisonKey]) -> None:
        """Delete the weights of learning rates that were not chosen."""
        kept = {key.name for key in keys}
        for path in (self._entry.folder / "full").glob("*.safetensors"):
            if path.stem not in kept:
                path.unlink()

    def _remarks(self, rate: int | None, parts: Sequence[int]) -> list[str]:
        remarks = [self._memory_remark()] if self._is_short_of_memory else []
        if any(count > 1 for count in parts):
            remarks.append(f"in {' and '.join(map(str, parts))} micro-batches")
        if rate is not None and len(self._grid) > 1 and rate in (0, len(self._grid) - 1):
            where = "downwards" if rate == 0 else "upwards"
            remarks.append(
                f"the best learning rate, {self._grid[rate]:g}, is at the edge of the grid: extend "
                f"compare.learning_rates {where}"
            )
        lasting = self._failures.lasting.items()
        return [*remarks, *(text for key, text in lasting if self._result(key) is None)]

    def _memory_remark(self) -> str:
        needed = self._entry.prepared.memory.predict(self._entry.architecture).peak_bytes
        return (
            f"needs {format_bytes(needed)}, the memory budget is {format_bytes(self._entry.config.budget.memory_bytes)}"
        )


def comparison_key(key: ModelKey) -> ComparisonKey:
    """Return the key of a training of a comparison.

    Args:
        key: The key.

    Raises:
        ValueError: If it belongs to another kind of job.
    """
    if not isinstance(key, ComparisonKey):
        raise ValueError(f"{key.name}: not a training of a comparison")
    return key


class FailureFile:
    """File of the failed trainings of an entry.

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
        key = comparison_key(failure.job.key)
        self.lasting[key] = text
        self._entries[key] = {"text": text, "kind": failure.kind, "memory_bytes": self._memory_bytes}
        write_sealed_json(self._path, {stored.name: entry for stored, entry in self._entries.items()})


def _to_failures(values: dict[str, Any]) -> dict[ComparisonKey, dict[str, Any]]:
    """Return the failures of trainings by their keys."""
    for entry in values.values():
        if not isinstance(entry["text"], str) or entry["kind"] not in get_args(FailureKind):
            raise ValueError(f"{shown(entry)} is no failure")
        to_count("memory_bytes", entry["memory_bytes"])
    return {comparison_key(key_from_json(name)): entry for name, entry in values.items()}


class _TooLargeError(Exception):
    """A training does not fit the memory budget."""


class _LazyExecutor:
    """An executor that is started when it is first needed.

    Args:
        start: Function that starts it.
    """

    def __init__(self, start: Callable[[], Executor]) -> None:
        self._start = start
        self._executor: Executor | None = None

    def get(self) -> Executor:
        if self._executor is None:
            self._executor = self._start()
        return self._executor

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()
