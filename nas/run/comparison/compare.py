"""The paper's comparison (Li et al., CVPR 2023, table 1) on anyone's data: is PMF, searched, better than the rest?

Every family is trained with one recipe and a learning rate of its own, the best on validation in one small grid for
all, and so are PMF's default and what a search over PMF has found. Only when all of that is done is the test split
asked, once for every model, through the exported and reloaded model.

A comparison goes on from what its directory holds: every finished training and every test is in a file of its entry.
"""

import contextlib
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.common.errors import StudyError
from nas.common.files import write_atomically
from nas.common.interrupt import Interrupted, interruptible
from nas.common.progress import ProgressOnly, Reporter
from nas.common.units import format_bytes, format_seconds
from nas.config.diff import differences
from nas.config.load import config_as_dict, load_config
from nas.config.schema import Config
from nas.execution.base import Executor
from nas.execution.failure_policy import FailurePolicy, Verdict
from nas.execution.scheduler import JobScheduler
from nas.execution.worker_setup import full_weights_path
from nas.models.encoders.partial_checkpoint import tail_weights
from nas.models.fusion.base import sizes_of
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.commands import Overrides, start
from nas.run.comparison.report import Row, write_report
from nas.run.directory import CONFIG, read_run
from nas.run.evaluate import digest_of_test, evaluate_exported
from nas.run.executors import ExecutionOptions, build_executor, write_worker_setup
from nas.run.export import TrainedWeights, export_result
from nas.run.model_parts import ModelParts
from nas.run.phases import ListedPlan
from nas.run.prepare import SearchContext, check_encoders, prepare
from nas.run.reruns import RerunStore
from nas.run.select import best_full
from nas.search.keys import ComparisonKey, ModelKey
from nas.search.space import RAW, Architecture, EncoderSizes, SearchSpace
from nas.search.space.families import FAMILIES, load_architecture_class
from nas.search.trial import Failure, Job, Result, job_seed
from nas.storage.lease import Holder, LockFile
from nas.training.trainer import full_step_count

SEARCHED = "pmf_searched"
"""The entry of the architecture that a search over PMF has found."""

ENTRIES = (*(name for name in FAMILIES if name != PMFArchitecture.family), PMFArchitecture.family, SEARCHED)
"""What can be compared, as the table has it: the families with their papers' defaults, then PMF."""

_SETTINGS, _LOCK, _SEARCH, _FOUND = "comparison.json", "driver.lock", "search", "found.json"
_TRAININGS, _FAILURES, _TESTS, _FACTS = "trainings.json", "failures.json", "tests.json", "facts.json"
_SEEDS = 1000
"""Trials are numbered by learning rate and seed; nobody wants as many seeds."""


@dataclass(frozen=True)
class Entry:
    """One line of the comparison.

    Args:
        name: One of `ENTRIES`.
        architecture: What is trained.
    """

    name: str
    architecture: Architecture

    @property
    def title(self) -> str:
        return f"{self.architecture.title}, searched" if self.name == SEARCHED else self.architecture.title


def compare(
    source: Path,
    directory: Path,
    *,
    names: Sequence[str],
    seeds: int,
    overrides: Overrides,
    machine: ExecutionOptions,
    reporter: Reporter,
) -> None:
    """Compare families, or go on with a comparison, and write its table.

    Args:
        source: The search file: data, encoders, recipe, PMF's space, learning rates to choose from, budgets.
        directory: Where everything is kept.
        names: Of `ENTRIES`.
        seeds: With so many is each trained in the end.
        overrides: Of the file; the budget is that of the search.
        machine: Where to run.
        reporter: Told what happens.

    Raises:
        NasError: For whatever the user can mend; among it a directory that holds something else.
        Interrupted: If somebody asked for its end.
    """
    config = overrides.apply(load_config(source))
    if config.space.architecture_class is not PMFArchitecture:
        raise StudyError(
            f"{source}: family: {config.space.architecture_class.family} is not allowed in a comparison; expected pmf"
        )
    check_encoders(config, source=str(source))
    if directory.exists() and not (directory / _SETTINGS).exists():
        # A search that was stopped leaves itself before anything of a comparison could be prepared; who is killed while
        # writing a file leaves its temporary name.
        known = {_LOCK, _SEARCH, _FOUND}
        half_written = tuple(f".{name}." for name in (_SETTINGS, _FOUND))
        if any(path.name not in known and not path.name.startswith(half_written) for path in directory.iterdir()):
            raise StudyError(f"{directory}: is not empty and holds no comparison; name another folder (--run-dir)")
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(LockFile(directory / _LOCK)) as lock:
        lock.write(Holder.here())
        settings = _Settings(directory / _SETTINGS, config, seeds)
        trained = []
        for place, name in enumerate(names):
            searched = _searched(config, source, directory, overrides, machine, reporter) if name == SEARCHED else None
            # What is said of the data is the same for all.
            told = reporter if place == 0 else ProgressOnly(reporter)
            one = _OneEntry(
                config, str(source), directory / name, name, searched, seeds, machine, told, reporter, settings.keep
            )
            trained.append((one, one.train()))
        rows = [one.row(outcome) for one, outcome in trained]
    write_report(directory, rows, metric=config.search.objective, seeds=seeds, reporter=reporter)


class _Settings:
    """What the numbers of a comparison depend on, beside the data.

    Args:
        path: Of the file.
        config: Of the comparison.
        seeds: Of each family.

    Raises:
        StudyError: If the file's numbers are of other settings.
    """

    def __init__(self, path: Path, config: Config, seeds: int) -> None:
        rates = list(config.compare.learning_rates)
        values = {**config_as_dict(config), "seeds": seeds, "learning_rates": rates}
        self._path, self._values = path, json.loads(json.dumps(values))
        if path.exists():
            before = _read(path)
        elif (path.parent / _SEARCH / CONFIG).exists():  # a search that was stopped before this file was written
            before = self._values | config_as_dict(read_run(path.parent / _SEARCH).config)
        else:
            return
        changed = differences(before, self._values)
        if changed:
            lines = "\n".join(f"  - {line}" for line in changed)
            raise StudyError(
                f"{path.parent}: holds another comparison:\n{lines}\ncompare in a new directory (--run-dir)"
            )

    def keep(self) -> None:
        """Write the file, now that something could be prepared."""
        write_atomically(self._path, json.dumps(self._values, indent=1).encode())


def _read(path: Path) -> dict[str, Any]:
    """A file of the comparison; empty where there is none.

    Raises:
        StudyError: If it is damaged.
    """
    if not path.exists():
        return {}
    try:
        values: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    return values


def _damaged(path: Path, error: Exception) -> StudyError:
    # Without its settings nobody knows what the numbers of a comparison are of.
    remedy = "compare in a new directory (--run-dir)" if path.name == _SETTINGS else "delete it to have it made again"
    return StudyError(f"{path}: is damaged ({error}); {remedy}")


def _searched(
    config: Config, source: Path, directory: Path, overrides: Overrides, machine: ExecutionOptions, reporter: Reporter
) -> Architecture:
    """What a search over PMF finds, on train and validation alone.

    With another budget it is searched on, as long as nothing was trained of what it has found.
    """
    run, path = directory / _SEARCH, directory / _FOUND
    if path.exists() and (run / CONFIG).exists():
        before, budget, trained = read_run(run).config.budget, config.budget, directory / SEARCHED
        if (before.time_seconds, before.trials) != (budget.time_seconds, budget.trials):
            if (trained / _TRAININGS).exists():
                reporter.note(
                    "PMF, searched: the search has ended, and what it has found is being trained, so its budget stays "
                    "what it was; compare in a new directory (--run-dir) for another one"
                )
            else:
                for name in (_FACTS, _FAILURES):  # of what was found before
                    (trained / name).unlink(missing_ok=True)
                path.unlink()
    if not path.exists():
        start(source, run, overrides, machine, reporter, concludes=False)
        found = best_full(run, machine.storage)
        if found is None:
            raise StudyError(
                f"{run}: the search has trained nothing in full that meets its bounds; give it a larger --budget"
            )
        write_atomically(path, json.dumps(found.architecture.as_dict()).encode())
    return Architecture.from_dict(_read(path))


class _OneEntry:
    """Trains and tests one line of the table.

    Args:
        config: Of the comparison.
        source: Its file, for messages.
        folder: Of this entry.
        name: One of `ENTRIES`.
        searched: The architecture, where it is not the family's default.
        seeds: How many.
        machine: Where to run.
        told: Told what the preparation says.
        reporter: Told what was trained.
        on_prepared: Called when data and encoders could be prepared, before anything is written.

    Raises:
        StudyError: If the folder holds numbers of other data, encoders or another architecture.
    """

    def __init__(
        self,
        config: Config,
        source: str,
        folder: Path,
        name: str,
        searched: Architecture | None,
        seeds: int,
        machine: ExecutionOptions,
        told: Reporter,
        reporter: Reporter,
        on_prepared: Callable[[], None],
    ) -> None:
        self.folder, self.seeds, self.machine, self.reporter = folder, seeds, machine, reporter
        architecture_class = PMFArchitecture if name == SEARCHED else load_architecture_class(name)
        if architecture_class is not config.space.architecture_class:
            config = replace(
                config,
                space=_smallest_space(architecture_class),
                search=replace(config.search, initial_architectures=()),
            )
        self.prepared: SearchContext = prepare(config, source=source, cache_directory=machine.cache, reporter=told)
        self.entry = Entry(name, searched or self.prepared.default)
        if architecture_class is not PMFArchitecture:
            config = replace(
                config, space=SearchSpace.around(self.entry.architecture, architecture_class.num_layers(self._sizes))
            )
        self.config, self.grid = config, config.compare.learning_rates
        self.prepared.memory.holds_supernet = False
        on_prepared()
        folder.mkdir(exist_ok=True)
        self._check_facts()
        self.trainings = RerunStore(folder / _TRAININGS)
        self.failures = {key: entry["said"] for key, entry in self._lasting_failures().items()}
        self._tried_alone: set[ModelKey] = set()
        self._is_short_of_memory = False
        self._parts = self._fitting_parts()

    @property
    def _sizes(self) -> EncoderSizes:
        return sizes_of(self.prepared.image_encoder, self.prepared.text_encoder)

    def _check_facts(self) -> None:
        path = self.folder / _FACTS
        facts = {"features": self.prepared.store.directory.name, "architecture": self.entry.architecture.as_dict()}
        kept = _read(path)
        for key, value in facts.items():
            if key in kept and kept[key] != value:
                what = "its data or encoders have" if key == "features" else "its architecture has"
                raise StudyError(
                    f"{self.folder}: {what} changed since it was trained ({key} {kept[key]}, now {value}); compare in "
                    "a new directory (--run-dir)"
                )
        write_atomically(path, json.dumps(facts, indent=1).encode())

    def _fitting_parts(self) -> int | None:
        """Micro-batches with which the training fits; None if it does not."""
        budget = self.config.budget
        parts = self.prepared.memory.min_micro_batches(self.entry.architecture, budget.memory_bytes)
        return None if parts is not None and parts > 1 and budget.oversized == "reject" else parts

    def train(self) -> int | None:
        """Choose the learning rate, then train with all seeds, as far as that was not done.

        Returns:
            Place of the learning rate in the grid; None if none was chosen.

        Raises:
            Interrupted: If somebody asked for the end.
        """
        with contextlib.closing(_Lazy(self._executor)) as executor:
            best = None
            try:
                best = self._choose_rate(executor)
                if best is None:
                    return None
                self._run([best * _SEEDS + seed for seed in range(self.seeds)], executor)
            except _TooLarge:
                self._is_short_of_memory = True
                self.reporter.note(f"{self.entry.title}: {self._why_too_large()}; what is missing is not trained")
                if best is None:
                    return None
        kept = {ComparisonKey(best, seed).name for seed in range(self.seeds)}
        for path in (self.folder / "full").glob("*.safetensors"):
            if path.stem not in kept:
                path.unlink()
        return best

    def _choose_rate(self, executor: "_Lazy") -> int | None:
        """Train with the two learning rates in the middle, then with two more on the better side, until none is better.

        It is the best of the whole grid where scores rise to it and fall beyond. Two at a time, however many workers
        there are: what is chosen must not depend on them.

        Returns:
            Place in the grid; None if all that were tried failed.

        Raises:
            Interrupted: If somebody asked for the end.
        """
        end = len(self.grid)
        tried = range(max(end // 2 - 1, 0), end // 2 + 1)
        while True:
            self._run([place * _SEEDS for place in tried], executor)
            found = {place: result for place in tried if (result := self._result(place * _SEEDS))}
            # Where all failed, lower ones may not.
            best = max(found, key=lambda place: (found[place].score, -place), default=tried.start)
            if best == tried.start > 0:
                tried = range(max(tried.start - 2, 0), tried.stop)
            elif found and best == tried.stop - 1 < end - 1:
                tried = range(tried.start, min(tried.stop + 2, end))
            else:
                break
        if not found:
            return None
        self.reporter.note(
            f"{self.entry.title}: learning rate {self.grid[best]:g}, the best on validation of {len(tried)} tried"
        )
        return best

    def _result(self, trial: int) -> Result | None:
        return self.trainings.get(self.entry.architecture, trial)

    def _why_too_large(self) -> str:
        needed = self.prepared.memory.predict(self.entry.architecture).peak_bytes
        return f"needs {format_bytes(needed)}, the memory budget is {format_bytes(self.config.budget.memory_bytes)}"

    def _executor(self) -> Executor:
        setup = write_worker_setup(self.config, self.prepared, self.folder, thread_count=self.config.threads)
        place = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:12]
        run_id = f"{self.config.name}-comparison-{place}"
        return build_executor(setup, self.machine, self.prepared, run_id=run_id, on_note=lambda text: None)

    def _run(self, trials: Sequence[int], executor: "_Lazy") -> None:
        """Train what has neither a result nor failed.

        Raises:
            _TooLarge: If there is something to be trained, and no room for it.
            Interrupted: If somebody asked for the end.
        """
        architecture = self.entry.architecture
        missing = [trial for trial in trials if self._result(trial) is None and str(trial) not in self.failures]
        if not missing:
            return
        if (parts := self._parts) is None:
            raise _TooLarge
        steps = full_step_count(self.config.recipe, len(self.prepared.store.splits["train"]))
        peak_bytes = self.prepared.memory.predict(architecture, micro_batches=parts).peak_bytes
        jobs = [
            Job(
                key=ComparisonKey(*divmod(trial, _SEEDS)),
                architecture=architecture,
                stage="full",
                step_count=steps,
                seed=job_seed(self.config.seed, "full", architecture, rerun=trial % _SEEDS),
                predicted_peak_bytes=peak_bytes,
                micro_batches=parts,
                learning_rate=self._rate(trial),
            )
            for trial in missing
        ]
        dispatcher = JobScheduler(
            executor=executor.get(),
            budget_bytes=self.config.budget.memory_bytes,
            idle_bytes=self.prepared.memory.idle_bytes,
            policy=FailurePolicy(
                was_alone=lambda job: job.key in self._tried_alone,
                try_alone=lambda job: self._tried_alone.add(job.key),
                record=self._record,
                # A learning rate that is too high fails as the next higher one and the next seed do.
                same_failures=len(jobs) + 1,
            ),
            runs_alone=lambda job: job.key in self._tried_alone,
            take=self._take,
            show=self._show,
            now=time.monotonic,
        )
        with interruptible() as interruption:
            dispatcher.run(ListedPlan(jobs), is_over=lambda: False, is_interrupted=lambda: interruption.is_requested)
        if interruption.is_requested:
            raise Interrupted

    def _rate(self, trial: int) -> float:
        return self.grid[trial // _SEEDS]

    def _take(self, result: Result) -> None:
        trial = _number(result.key)
        self.trainings.add(trial, result)
        self.reporter.note(
            f"{self.entry.title}: learning rate {self._rate(trial):g}, seed {trial % _SEEDS}: validation "
            f"{self.config.search.objective} {result.score:.4f}, {format_seconds(result.seconds)}"
        )

    def _show(self, failure: Failure, verdict: Verdict) -> None:
        trial = _number(failure.job.key)
        said = f"learning rate {self._rate(trial):g}, seed {trial % _SEEDS}"
        self.reporter.note(f"{self.entry.title}: {said}: {verdict.replace('_', ' ')}: {failure.reason}")

    def _record(self, failure: Failure) -> None:
        trial = _number(failure.job.key)
        said = f"learning rate {self._rate(trial):g}, seed {trial % _SEEDS}: {failure.reason}"
        self.failures[str(trial)] = said
        entry = {"said": said, "kind": failure.kind, "memory_bytes": self.config.budget.memory_bytes}
        kept = {**_read(self.folder / _FAILURES), str(trial): entry}
        write_atomically(self.folder / _FAILURES, json.dumps(kept, indent=1).encode())

    def _lasting_failures(self) -> dict[str, dict[str, Any]]:
        """Failures of earlier sessions that would come again: errors, and out of memory with no more than then.

        What has a result since, with more memory, is none of them.
        """
        path, budget_bytes = self.folder / _FAILURES, self.config.budget.memory_bytes
        try:
            return {
                key: entry
                for key, entry in _read(path).items()
                if entry["kind"] == "error" or (entry["kind"] == "memory" and budget_bytes <= entry["memory_bytes"])
                if self._result(int(key)) is None
            }
        except (TypeError, KeyError, ValueError) as error:
            raise _damaged(path, error) from error

    def row(self, best: int | None) -> Row:
        """The line of the table, tested where that was not done.

        Args:
            best: What `train` returned.
        """
        memory, architecture = self.prepared.memory, self.entry.architecture
        seeds = [] if best is None else [self._result(best * _SEEDS + seed) for seed in range(self.seeds)]
        results = [result for result in seeds if result is not None]
        # With another memory budget in between, seeds may have been trained in different parts.
        parts = sorted({result.micro_batches for result in results}) or [self._parts or 1]
        prediction = memory.predict(architecture, micro_batches=parts[0])
        return Row(
            name=self.entry.name,
            title=self.entry.title,
            architecture=str(architecture) if architecture.genes else "",
            learning_rate=None if best is None else self.grid[best],
            trainable_parameters=memory.parameter_count(architecture),
            training_bytes=prediction.training_bytes + self._frozen_bytes(),
            measured_peak_bytes=max((result.measured_peak_bytes for result in results), default=None),
            validation=tuple(None if result is None else result.metrics for result in seeds),
            test=tuple(None if result is None else self._tested(result) for result in seeds),
            seconds=statistics.fmean(result.seconds for result in results) if results else None,
            remark="; ".join(self._remarks(best, parts)),
        )

    def _frozen_bytes(self) -> int:
        """Of frozen weights in use."""
        encoders = (self.prepared.image_encoder, self.prepared.text_encoder)
        return sum(
            tensor.nbytes
            for encoder, layer in zip(encoders, self.entry.architecture.entry_layers(self._sizes), strict=True)
            if layer is not None and layer != RAW
            for tensor in tail_weights(encoder, layer).values()
        )

    def _remarks(self, best: int | None, parts: Sequence[int]) -> Iterator[str]:
        if self._is_short_of_memory:
            yield self._why_too_large()
        if parts[-1] > 1:
            yield f"in {' and '.join(map(str, parts))} micro-batches"
        if best is not None and len(self.grid) > 1 and best in (0, len(self.grid) - 1):
            end = "smallest" if best == 0 else "largest"
            yield f"learning rate {self.grid[best]:g} is the {end} that was tried"
        yield from self.failures.values()

    def _tested(self, result: Result) -> dict[str, float]:
        """Metrics on test, asked once, of the exported and reloaded model."""
        path, data = self.folder / _TESTS, self.config.data
        # No two trainings take the same time.
        training = hashlib.sha256(json.dumps(result.as_dict(), sort_keys=True).encode()).hexdigest()[:16]
        trial = _number(result.key)
        key = f"{trial} {training} {digest_of_test(data, self.prepared.store.class_names)}"
        known = _read(path)
        if key not in known:
            model = self.folder / f"model_seed{trial % _SEEDS}"
            weights = full_weights_path(self.folder, result.key)
            export_result(
                model,
                TrainedWeights(weights, result, self._rate(trial)),
                parts=ModelParts.of(self.prepared),
                objective=self.config.search.objective,
                data=data,
            )
            self.reporter.note(f"{self.entry.title}: testing the exported and reloaded model of seed {model.name[10:]}")
            known[key], _ = evaluate_exported(model, data, "test")
            write_atomically(path, json.dumps(known, indent=1).encode())
        metrics: dict[str, float] = known[key]
        return metrics


def _number(key: ModelKey) -> int:
    """Return the number under which a training is stored."""
    if not isinstance(key, ComparisonKey):
        raise ValueError(f"{key.name}: is not a training of a comparison")
    return key.rate * _SEEDS + key.seed


class _TooLarge(Exception):
    """There is no room for a training."""


class _Lazy:
    """An executor that is started when it is needed first.

    Args:
        start: Starts it.
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


def _smallest_space(architecture_class: type[Architecture]) -> SearchSpace:
    """Of a family whose encoders are not known yet: the least that its genes can be."""
    return SearchSpace(architecture_class, {gene.name: (gene.smallest,) for gene in architecture_class.genes})
