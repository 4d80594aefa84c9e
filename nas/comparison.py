"""The paper's comparison (Li et al., CVPR 2023, table 1) on anyone's data: is PMF, searched, better than the rest?

Every family is trained with one recipe and a learning rate of its own, the best on validation of one small grid for
all, and so are PMF's default and what a search over PMF has found. The test split is asked at the end, once for every
model, through the exported and reloaded model.

A comparison goes on from what its directory holds: every finished training and every test is in a file of its entry.
"""

import hashlib
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.changes import differences
from nas.comparison_report import Row, write_report
from nas.conclusion import BEST, REPORT, ModelParts, evaluate_exported, export_result
from nas.config import Config, config_as_dict, load_config
from nas.confirmation import Repetitions
from nas.dispatch import Dispatcher
from nas.errors import StudyError
from nas.failures import FailurePolicy
from nas.families import KINDS, PMFArchitecture
from nas.files import write_atomically
from nas.fusion import sizes_of
from nas.interruption import Interrupted, Interruption, interruptible
from nas.planning import ListedPlan
from nas.preparation import Prepared, prepare
from nas.progress import Quiet, Reporter
from nas.results import Failure, Job, Result
from nas.runs import CONFIG, Machine, Overrides, build_executor, hand_over, resume, start
from nas.space import Architecture, EncoderSizes, SearchSpace
from nas.training import architecture_seed, full_step_count
from nas.units import format_bytes, format_seconds

SEARCHED = "pmf_searched"
"""The entry of the architecture that a search over PMF has found."""

ENTRIES = (*(name for name in KINDS if name != PMFArchitecture.family), PMFArchitecture.family, SEARCHED)
"""What can be compared, as the table has it: the families with their papers' defaults, then PMF."""

_TRAININGS, _TESTS, _SETTINGS = "trainings.json", "tests.json", "comparison.json"
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
    machine: Machine,
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
        NasError: For whatever the user can mend; among it a directory that holds another comparison.
        Interrupted: If somebody asked for its end.
    """
    config = overrides.apply(load_config(source))
    if config.space.kind is not PMFArchitecture:
        raise StudyError(f"{source}: family: {config.space.kind.family} is not allowed in a comparison; expected pmf")
    directory.mkdir(parents=True, exist_ok=True)
    _keep_settings(directory, config, seeds)
    quiet: Reporter = reporter
    rows = []
    for name in names:
        folder = directory / name
        folder.mkdir(exist_ok=True)
        with interruptible() as interruption:
            searched = _searched(source, directory, overrides, machine, reporter) if name == SEARCHED else None
            one = _OneEntry(config, folder, name, searched, seeds, machine, quiet, reporter)
            rows.append(one.run(interruption))
            if interruption.is_requested:
                raise Interrupted
        quiet = Quiet()  # what is said of the data is the same for all
    write_report(directory, rows, metric=config.search.objective, seeds=seeds, reporter=reporter)


def _keep_settings(directory: Path, config: Config, seeds: int) -> None:
    """Remember what the numbers depend on.

    Raises:
        StudyError: If the directory's numbers are of other settings.
    """
    path = directory / _SETTINGS
    rates = list(config.compare.learning_rates)
    values = json.loads(json.dumps({**config_as_dict(config), "seeds": seeds, "learning_rates": rates}))
    if path.exists():
        try:
            changed = differences(json.loads(path.read_text(encoding="utf-8")), values)
        except ValueError as error:
            raise StudyError(f"{path}: is damaged ({error}); compare in a new directory (--run-dir)") from error
        if changed:
            lines = "\n".join(f"  - {line}" for line in changed)
            raise StudyError(f"{directory}: holds another comparison:\n{lines}\ncompare in a new directory (--run-dir)")
    write_atomically(path, json.dumps(values, indent=1).encode())


def _searched(
    source: Path, directory: Path, overrides: Overrides, machine: Machine, reporter: Reporter
) -> Architecture:
    """What a search over PMF finds; searched once."""
    run = directory / "search"
    if not (run / REPORT).exists():
        if (run / CONFIG).exists():
            resume(run, overrides, machine, reporter)
        else:
            start(source, run, overrides, machine, reporter)
    try:
        report = json.loads((run / REPORT).read_text(encoding="utf-8"))
        return Architecture.from_dict(report[BEST]["architecture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{run}: the search has found nothing that could be compared ({error}); give it a larger --budget"
        ) from error


class _OneEntry:
    """Trains and tests one line of the table.

    Args:
        config: Of the comparison.
        folder: Of this entry.
        name: One of `ENTRIES`.
        searched: The architecture, where it is not the family's default.
        seeds: How many.
        machine: Where to run.
        quiet: Told what the preparation says.
        reporter: Told what was trained.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        name: str,
        searched: Architecture | None,
        seeds: int,
        machine: Machine,
        quiet: Reporter,
        reporter: Reporter,
    ) -> None:
        self.folder, self.seeds, self.machine, self.reporter = folder, seeds, machine, reporter
        kind = PMFArchitecture if name == SEARCHED else KINDS[name]
        if kind is not config.space.kind:
            config = replace(config, space=_smallest_space(kind), search=replace(config.search, first=()))
        self.prepared: Prepared = prepare(config, source="", cache_directory=machine.cache, reporter=quiet)
        self.entry = Entry(name, searched or self.prepared.default)
        if kind is not PMFArchitecture:
            config = replace(config, space=SearchSpace.around(self.entry.architecture, kind.depth(self._sizes)))
        self.config = config
        self.prepared.memory.holds_supernet = False
        self.trainings = Repetitions(folder / _TRAININGS)
        self.failures: dict[int, str] = {}

    @property
    def _sizes(self) -> EncoderSizes:
        return sizes_of(self.prepared.image_encoder, self.prepared.text_encoder)

    def run(self, interruption: Interruption) -> Row:
        """The line; incomplete if somebody interrupts."""
        memory, architecture = self.prepared.memory, self.entry.architecture
        budget = self.config.budget
        parts = memory.most_fitting(architecture, budget.memory_bytes)
        needed = memory.predict(architecture).peak_bytes
        if parts is None or (parts > 1 and budget.when_too_large == "reject"):
            why = f"needs {format_bytes(needed)}, the memory budget is {format_bytes(budget.memory_bytes)}"
            self.reporter.note(f"{self.entry.title}: {why}; it is not trained")
            return self._row(None, [], why)
        grid = self.config.compare.learning_rates
        self._train([(place, 0) for place in range(len(grid))], parts, interruption)
        tried = {place: self.trainings.get(architecture, place * _SEEDS) for place in range(len(grid))}
        found = {place: result for place, result in tried.items() if result is not None}
        if not found:
            return self._row(None, [], next(iter(self.failures.values()), "was not trained"))
        place = max(found, key=lambda place: (found[place].score, -place))
        self.reporter.note(f"{self.entry.title}: learning rate {grid[place]:g}, the best of {len(grid)} on validation")
        self._train([(place, seed) for seed in range(self.seeds)], parts, interruption)
        results = [self.trainings.get(architecture, place * _SEEDS + seed) for seed in range(self.seeds)]
        finished = [result for result in results if result is not None]
        self._forget_weights({result.trial for result in finished})
        if interruption.is_requested:
            return self._row(None, [], "interrupted")
        return self._row(grid[place], finished, "; ".join(self.failures.values()))

    def _train(self, wanted: Sequence[tuple[int, int]], parts: int, interruption: Interruption) -> None:
        """Train with these learning rates and seeds, as far as that was not done."""
        architecture, grid = self.entry.architecture, self.config.compare.learning_rates
        steps = full_step_count(self.config.recipe, len(self.prepared.store.splits["train"]))
        prediction = self.prepared.memory.predict(architecture, micro_batches=parts)
        jobs = [
            Job(
                trial=place * _SEEDS + seed,
                architecture=architecture,
                stage="full",
                step_count=steps,
                seed=architecture_seed(self.config.seed, f"full, repetition {seed}" if seed else "full", architecture),
                predicted_peak_bytes=prediction.peak_bytes,
                micro_batches=parts,
                learning_rate=grid[place],
            )
            for place, seed in wanted
            if self.trainings.get(architecture, place * _SEEDS + seed) is None
        ]
        if not jobs or interruption.is_requested:
            return
        threads = self.config.threads if self.config.deterministic else None
        setup = hand_over(self.config, self.prepared, self.folder, thread_count=threads or 1)
        place = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:12]
        executor = build_executor(
            setup, self.machine, self.prepared, run_id=f"{self.config.name}-comparison-{place}", reporter=Quiet()
        )
        try:
            Dispatcher(
                executor=executor,
                budget_bytes=self.config.budget.memory_bytes,
                idle_bytes=self.prepared.memory.idle_bytes,
                policy=FailurePolicy(
                    was_alone=lambda job: True,
                    try_alone=lambda job: None,
                    record=self._record,
                    # A learning rate that is too high fails as the next higher one does.
                    same_failures=len(grid) + 1,
                ),
                runs_alone=lambda job: False,
                take=self._take,
                show=self._show,
                now=time.monotonic,
            ).run(ListedPlan(jobs), is_over=lambda: False, is_interrupted=lambda: interruption.is_requested)
        finally:
            executor.close()

    def _rate(self, job: int) -> float:
        return self.config.compare.learning_rates[job // _SEEDS]

    def _take(self, result: Result) -> None:
        self.trainings.add(result.trial, result)
        self.reporter.note(
            f"{self.entry.title}: learning rate {self._rate(result.trial):g}, seed {result.trial % _SEEDS}: validation "
            f"{self.config.search.objective} {result.score:.4f}, {format_seconds(result.seconds)}"
        )

    def _show(self, failure: Failure, verdict: str) -> None:
        said = f"learning rate {self._rate(failure.job.trial):g}: {verdict}: {failure.reason}"
        self.reporter.note(f"{self.entry.title}: {said}")

    def _record(self, failure: Failure) -> None:
        self.failures[failure.job.trial] = f"learning rate {self._rate(failure.job.trial):g}: {failure.reason}"

    def _forget_weights(self, kept: set[int]) -> None:
        """Remove those of learning rates that were not chosen."""
        for path in (self.folder / "full").glob("trial_*.safetensors"):
            if int(path.stem.removeprefix("trial_")) not in kept:
                path.unlink()

    def _row(self, learning_rate: float | None, results: Sequence[Result], remark: str) -> Row:
        memory, metric = self.prepared.memory, self.config.search.objective
        tests = [self._tested(result)[metric] for result in results]
        return Row(
            name=self.entry.name,
            title=self.entry.title,
            architecture=str(self.entry.architecture) if self.entry.architecture.genes else "",
            learning_rate=learning_rate,
            trainable_parameters=memory.parameter_count(self.entry.architecture),
            training_bytes=memory.predict(self.entry.architecture).training_bytes,
            measured_peak_bytes=max((result.measured_peak_bytes for result in results), default=None),
            validation=tuple(result.metrics[metric] for result in results),
            test=tuple(tests),
            seconds=statistics.fmean(result.seconds for result in results) if results else None,
            remark=remark,
        )

    def _tested(self, result: Result) -> dict[str, float]:
        """Metrics on test, asked once, of the exported and reloaded model."""
        path = self.folder / _TESTS
        known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if str(result.trial) not in known:
            model = self.folder / f"model_seed{result.trial % _SEEDS}"
            export_result(
                model,
                parts=ModelParts.of(self.prepared),
                weights=self.folder / "full" / f"trial_{result.trial}.safetensors",
                result=result,
                objective=self.config.search.objective,
                data=self.config.data,
            )
            known[str(result.trial)], _ = evaluate_exported(model, self.config.data, "test")
            write_atomically(path, json.dumps(known, indent=1).encode())
        metrics: dict[str, float] = known[str(result.trial)]
        return metrics


def _smallest_space(kind: type[Architecture]) -> SearchSpace:
    """Of a family whose encoders are not known yet: the least that its genes can be."""
    return SearchSpace(kind, {gene.name: (gene.smallest,) for gene in kind.genes})
