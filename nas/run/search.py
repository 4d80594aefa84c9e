"""A search from start to end: open or resume a run directory, search, then export and report."""

import os
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path

from nas.common.errors import StudyError
from nas.common.files import check_writable
from nas.common.interrupt import Interrupted, Interruption, interruptible
from nas.common.progress import Reporter
from nas.common.units import format_bytes, format_seconds
from nas.config.diff import differences
from nas.config.load import load_config, load_fixed_places
from nas.config.overrides import Overrides
from nas.config.places import check_places, without_places
from nas.config.schema import Config
from nas.execution.base import Executor
from nas.execution.worker_setup import WorkerSetup
from nas.memory.measurement import keep_freed_memory
from nas.run.checks import check_memory
from nas.run.choose_ensemble import choose_ensemble
from nas.run.contents import check_contents, write_contents
from nas.run.defaults import complete
from nas.run.directory import (
    CONFIG,
    Run,
    check_new_directory,
    create_directory,
    is_run,
    open_study,
    place_run,
    read_run,
    write_run,
)
from nas.run.ensemble import read_choice, write_choice
from nas.run.executors import ExecutionOptions, build_executor, write_worker_setup
from nas.run.finalize import BEST, DEFAULT, LINEAR, Finalizer, read_report
from nas.run.model_parts import ModelParts
from nas.run.phases.loop import Search
from nas.run.phases.race import Outcome
from nas.run.prepare import SearchContext, prepare
from nas.run.program_name import command_line
from nas.run.progress_lines import counts_text, plan_line
from nas.run.race_report import report_end
from nas.run.reliability import build_report
from nas.run.reruns import read_default_result, read_linear_result
from nas.run.select import best_architectures, latest_results, nothing_eligible, nothing_scored
from nas.run.surroundings import check_surroundings
from nas.run.time_budget import Deadlines, TimeAccount
from nas.search.trial import STAGES
from nas.storage.study import Study
from nas.storage.urls import storable_url, stored_url
from nas.training.kept_logits import logits_bytes


def apply_overrides(config: Config, overrides: Overrides) -> Config:
    """Return the configuration with the values of the command line, including those of a warm start.

    Raises:
        ConfigError: If the result is not a valid configuration.
        StudyError: If the run to start from cannot be used.
    """
    if overrides.warm_start is None:
        return overrides.apply(config)
    return overrides.apply(config, best_architectures(overrides.warm_start, config.space))


def start(
    source: Path,
    directory: Path,
    overrides: Overrides,
    options: ExecutionOptions,
    reporter: Reporter,
    *,
    concludes: bool = True,
) -> None:
    """Run a search in a new directory, or resume it in its existing one.

    Args:
        source: The search file.
        directory: The run directory.
        overrides: The values that replace those of the file.
        options: The workers, the cluster and the storage of the study.
        reporter: The receiver of messages.
        concludes: Whether the best model is compared with the default, exported and evaluated on test.

    Raises:
        NasError: If the search file, data, encoders or run directory cannot be used, or the directory holds another
            search.
        Interrupted: If the user has interrupted the search.
        OSError: If the directory cannot be created.
    """
    given = load_config(source)
    draft = apply_overrides(given, overrides)
    fixed = overrides.fixed_places(given, load_fixed_places(source))
    if is_run(directory):
        run = read_run(directory)
        config = _with_memory_of(run.config, complete(draft, source=str(source)), draft)
        _check_same(run, config, directory, source)
        reporter.note(f"{directory} holds this search; resuming it")
        _Session(directory, replace(run, config=config, fixed=fixed), options, reporter).resume(concludes=concludes)
        return
    check_new_directory(directory)
    check_surroundings(options, options.storage)
    config = complete(draft, source=str(source), reporter=reporter)
    prepared = prepare(
        config, source=str(source), cache_directory=options.cache, reporter=reporter, verify=options.verify
    )
    create_directory(directory)
    run = Run(
        config=config,
        class_names=prepared.store.class_names,
        contents=prepared.contents.summary(),
        identity=f"{config.name}-{uuid.uuid4().hex[:12]}",
        storage=None if options.storage is None else storable_url(options.storage, directory),
        fixed=fixed,
    )
    _Session(directory, run, options, reporter).search(prepared, concludes=concludes)


def resume(directory: Path, overrides: Overrides, options: ExecutionOptions, reporter: Reporter) -> None:
    """Resume a run, possibly with another budget.

    Args:
        directory: The run directory.
        overrides: The values that replace those of the run.
        options: The workers, the cluster and the storage of the study.
        reporter: The receiver of messages.

    Raises:
        NasError: If the run directory, data or encoders cannot be used, or data or encoders have changed.
        Interrupted: If the user has interrupted the search.
    """
    run = place_run(read_run(directory), overrides)
    _Session(directory, run, options, reporter).resume(concludes=True)


def _with_memory_of(run: Config, config: Config, draft: Config) -> Config:
    """Return a configuration with the memory budget of a run, if the search file leaves it to the program.

    Args:
        run: The configuration of the run, which may come from another machine.
        config: The complete configuration of the search file.
        draft: The same with its placeholders.
    """
    if "budget.memory" not in draft.automatic:
        return config
    return config.replace(budget=config.budget.replace(memory_bytes=run.budget.memory_bytes))


def _check_same(run: Run, config: Config, directory: Path, source: Path) -> None:
    """Check that a run has the configuration of a search file.

    Raises:
        StudyError: If it does not; names the keys.
    """
    changed = differences(without_places(run.config.as_dict()), without_places(config.as_dict()))
    if changed:
        raise StudyError(
            "\n".join(
                [
                    f"{directory}: holds a run whose configuration differs from {source}:",
                    *(f"  - {line}" for line in changed),
                    f"resume that run with `{command_line('resume', directory)}`, or search in a new directory "
                    "(--run-dir)",
                ]
            )
        )


class _Session:
    """One session of a run: from its directory to its final report.

    Args:
        directory: The run directory.
        run: The description of the run.
        options: The workers, the cluster and the storage of the study.
        reporter: The receiver of messages.
    """

    def __init__(self, directory: Path, run: Run, options: ExecutionOptions, reporter: Reporter) -> None:
        self._directory = directory
        self._run = run
        self._options = options
        self._reporter = reporter

    def resume(self, *, concludes: bool) -> None:
        """Prepare the search again, check that data and encoders are the same, and run it.

        Raises:
            ConfigError: If a path leads nowhere.
            StudyError: If data or encoders have changed.
        """
        check_writable(self._directory)
        storage, recorded = self._options.storage, self._run.storage
        if storage is None and recorded is not None:
            storage = stored_url(recorded, self._directory)
        check_surroundings(self._options, storage)
        check_places(self._run.config, str(self._directory / CONFIG))
        # Before anything that takes long: a study that is damaged or in use ends the session.
        with self._open_study() as study:
            prepared = prepare(
                self._run.config,
                source=str(self._directory / CONFIG),
                cache_directory=self._options.cache,
                reporter=self._reporter,
                verify=self._options.verify,
                check=partial(check_contents, self._directory, self._run.contents, self._run.config),
            )
            self._search(prepared, study, concludes=concludes)

    def search(self, prepared: SearchContext, *, concludes: bool) -> None:
        """Run the search, and conclude it if it has a result."""
        with self._open_study() as study:
            self._search(prepared, study, concludes=concludes)

    def _open_study(self) -> Study:
        # Damage is an error now rather than after the search.
        for check in (read_report, read_default_result, read_linear_result, read_choice):
            check(self._directory)
        storage = self._options.storage
        if storage is not None:  # a database may have been moved
            self._run = replace(self._run, storage=storable_url(storage, self._directory))
        return open_study(
            self._directory,
            self._run,
            storage=storage,
            note=self._reporter.note,
            accepts_changes=self._options.accepts_changes,
        )

    def _search(self, prepared: SearchContext, study: Study, *, concludes: bool) -> None:
        keep_freed_memory()
        config, reporter = self._run.config, self._reporter
        check_memory(config, prepared.memory)
        thread_count = config.threads if config.deterministic else os.cpu_count() or 1
        setup = write_worker_setup(config, prepared, self._directory, thread_count)
        write_contents(self._directory, prepared.contents)
        write_run(self._directory, self._run)
        if study.requeued_count:
            reporter.note(f"{study.requeued_count} candidate(s) of an interrupted session are requeued")
        account = self._time_account(study)
        outcome, interruption = self._run_search(prepared, setup, study, account, concludes=concludes)
        counts = {stage: study.count(stage) for stage in STAGES}
        reporter.note(
            f"Search: {counts_text(counts)}, {len(study.rejections)} infeasible or failed; "
            f"{format_seconds(account.spent_seconds)} used"
        )
        if interruption.is_requested:
            raise Interrupted
        if concludes:
            self._conclude(outcome, study, account, prepared)

    def _time_account(self, study: Study) -> TimeAccount:
        path = self._directory / "time.json"
        if not path.exists() and study.count("one_shot"):
            self._reporter.note(f"{path}: is missing; the time of earlier sessions is counted as zero")
        return TimeAccount(path)

    def _run_search(
        self, prepared: SearchContext, setup: WorkerSetup, study: Study, account: TimeAccount, *, concludes: bool
    ) -> tuple[Outcome, Interruption]:
        executor = build_executor(
            setup, self._options, prepared, run_id=self._run.identity, on_note=self._reporter.note
        )
        try:
            for line in _announcement(self._run.config, prepared, executor):
                self._reporter.note(line)
            with interruptible() as interruption:
                search = Search(
                    config=self._run.config,
                    prepared=prepared,
                    setup=setup,
                    study=study,
                    executor=executor,
                    account=account,
                    interruption=interruption,
                    reporter=self._reporter,
                )
                outcome = search.run(compares=concludes)
            if search.calibration_note is not None:
                self._reporter.note(search.calibration_note)
        finally:
            executor.close()
        return outcome, interruption

    def _conclude(self, outcome: Outcome, study: Study, account: TimeAccount, prepared: SearchContext) -> None:
        """Export and report the outcome, or explain why there is none.

        Raises:
            StudyError: If no candidate meets the constraints.
        """
        config = self._run.config
        if outcome.best is None:
            if results := latest_results(study):
                raise StudyError(nothing_eligible(self._directory, config, results))
            self._reporter.note(nothing_scored(self._directory))
            return
        reliability = build_report(
            config.search.objective,
            {stage: study.results(stage) for stage in STAGES},
            best=outcome.best_seeds or [outcome.best],
            default=outcome.default_seeds,
            race=None if outcome.race is None else report_end(outcome.race, config, prepared.store),
            phases=account.phases,
            title=config.space.architecture_class.title,
            linear=outcome.linear,
        )
        choice = choose_ensemble(config, self._directory, prepared, study, self._reporter)
        write_choice(self._directory, choice)
        finalizer = Finalizer(
            config,
            self._directory,
            parts=ModelParts.of(prepared),
            validation=prepared.store.splits["validation"],
            cache_directory=self._options.cache,
            reporter=self._reporter,
        )
        singles = {BEST: outcome.best, DEFAULT: outcome.default, LINEAR: outcome.linear}
        finalizer.conclude(singles, reliability, choice)


def _announcement(config: Config, prepared: SearchContext, executor: Executor) -> list[str]:
    """Return the lines about the resources of the search and their plan."""
    space, memory = config.space, prepared.memory
    slots = sum(device.slot_count for device in executor.devices)
    smallest, largest = (memory.predict(entry).peak_bytes for entry in (space.smallest, space.largest))
    lines = [
        f"Memory: {format_bytes(config.budget.memory_bytes)} per device, {slots} worker(s) on "
        f"{len(executor.devices)} device(s). Each training needs {format_bytes(smallest)} to {format_bytes(largest)}, "
        f"{format_bytes(memory.idle_bytes)} of it fixed overhead"
    ]
    plan = plan_line(Deadlines(config.budget))
    return [*lines, _disk_line(config, prepared), *([] if plan is None else [plan])]


def _disk_line(config: Config, prepared: SearchContext) -> str:
    """Return the line about what full trainings leave in the run directory."""
    store = prepared.store
    count = (config.search.finalists + 1) * (1 + config.search.rerun_seeds)
    weights = 4 * prepared.memory.parameter_count(config.space.largest)
    logits = logits_bytes(len(store.splits["validation"]), len(store.class_names))
    return (
        f"Disk: up to {count} full trainings keep their weights and validation logits in the run directory, at most "
        f"{format_bytes(count * (weights + logits))}"
    )
