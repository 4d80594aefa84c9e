"""Train one entry of a comparison: choose its learning rate, then train it with all seeds."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.common.units import format_bytes
from nas.run.comparison.entries import ComparisonSettings, Entry
from nas.run.comparison.full_trainings import FullTrainings
from nas.run.comparison.learning_rate import choose_rate
from nas.search.keys import ComparisonKey, ModelKey
from nas.search.trial import Job, Result, job_seed
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
        self._trainings = FullTrainings(
            entry.folder,
            entry.config,
            entry.prepared,
            options=settings.options,
            reporter=settings.reporter,
            kind="comparison",
            title=entry.title,
            name_of=self._name,
        )
        self._is_short_of_memory = False
        self._micro_batches = self._trainings.fitting_parts(entry.architecture)

    def train(self) -> TrainedEntry:
        """Choose the learning rate and train with all seeds; finished trainings are not repeated.

        Raises:
            Interrupted: If the user has interrupted the comparison.
        """
        with contextlib.closing(self._trainings):
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
        try:
            choice = choose_rate(len(self._grid), self._scores)
            rate = choice.best
            if rate is None:
                return None
            self._settings.reporter.note(
                f"{title}: learning rate {self._grid[rate]:g} is the best of {choice.tried} on validation"
            )
            self._run([ComparisonKey(rate, seed) for seed in range(self._settings.seeds)])
        except _TooLargeError:
            self._is_short_of_memory = True
            self._settings.reporter.note(f"{title}: {self._memory_remark()}; missing trainings are skipped")
        return rate

    def _scores(self, indices: Sequence[int]) -> Mapping[int, float]:
        """Train with some learning rates and the first seed; returns the scores of those that did not fail."""
        keys = {index: ComparisonKey(index, 0) for index in indices}
        self._run(list(keys.values()))
        return {index: result.score for index, key in keys.items() if (result := self._result(key)) is not None}

    def _result(self, key: ModelKey) -> Result | None:
        return self._trainings.get(self._entry.architecture, key)

    def _run(self, keys: Sequence[ComparisonKey]) -> None:
        """Run the trainings that have neither a result nor a lasting failure.

        Raises:
            _TooLargeError: If a training is missing and does not fit the memory budget.
            Interrupted: If the user has interrupted the comparison.
        """
        missing = [key for key in keys if self._trainings.is_missing(self._entry.architecture, key)]
        if not missing:
            return
        if self._micro_batches is None:
            raise _TooLargeError
        micro_batches = self._micro_batches
        self._trainings.run([self._job(key, micro_batches) for key in missing])

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

    def _name(self, key: ModelKey) -> str:
        """Return the name of a training in messages."""
        key = comparison_key(key)
        return f"learning rate {self._grid[key.rate]:g}, seed {key.seed}"

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
        lasting = self._trainings.lasting_failures.items()
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


class _TooLargeError(Exception):
    """A training does not fit the memory budget."""
