"""One session of a run: open its study, prepare the search, run it, then export and report."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from nas.common.errors import StudyError
from nas.common.files import check_writable
from nas.common.interrupt import Interrupted, interruptible
from nas.common.progress import Reporter
from nas.common.units import format_seconds
from nas.config.places import check_places
from nas.config.schema import Config
from nas.execution.base import Executor
from nas.memory.measurement import keep_freed_memory
from nas.run.announcement import announcement, used_up_line
from nas.run.answer import excluded_models
from nas.run.build_help import build_helpers
from nas.run.cache_records import record_use
from nas.run.callbacks import CallbackList
from nas.run.checks import check_memory
from nas.run.choose_ensemble import choose_ensemble
from nas.run.contents import check_contents, write_contents
from nas.run.directory import CONFIG, Run, create_directory, new_identity, open_study, write_run
from nas.run.distilled import compared
from nas.run.ensemble import read_choice, write_choice
from nas.run.executors import ExecutionOptions, build_executor, write_worker_setup
from nas.run.finalize import Finalizer, read_report
from nas.run.html_report.live import RunReport, write_summary_of
from nas.run.html_report.summary import read_summary
from nas.run.latency import with_latency
from nas.run.model_parts import ModelParts
from nas.run.phases.arm_trial import ArmTrial
from nas.run.phases.loop import Search
from nas.run.phases.race import Outcome
from nas.run.prepare import SearchContext, prepare
from nas.run.progress_lines import counts_text
from nas.run.race_report import report_end
from nas.run.reliability import build_report
from nas.run.reruns import further_count, read_simple_results
from nas.run.roles import BEST, DISTILLED
from nas.run.select import latest_results, nothing_eligible, nothing_scored
from nas.run.session_callbacks import session_callbacks
from nas.run.speed import read_speed
from nas.run.surroundings import check_surroundings
from nas.run.time_budget import TimeAccount, time_file
from nas.search.trial import STAGES
from nas.storage.study import Study
from nas.storage.urls import storable_url, stored_url

_Found = TypeVar("_Found")


def create_session(
    config: Config,
    directory: Path,
    options: ExecutionOptions,
    reporter: Reporter,
    *,
    source: str,
    fixed: Mapping[str, str],
) -> "tuple[Session, SearchContext]":
    """Prepare a new search, and create its run directory.

    Args:
        config: The complete configuration of the search.
        directory: The run directory, which `check_new_directory` has accepted.
        options: The workers, the cluster and the storage of the study.
        reporter: The receiver of messages.
        source: The name of the search file, for messages.
        fixed: The paths that are recorded as they were written; see `Run`.

    Returns:
        The session, and what its search is prepared with.

    Raises:
        NasError: If the data, the encoders or the run directory cannot be used.
        OSError: If the directory cannot be created.
    """
    prepared = prepare(
        config,
        source=source,
        cache_directory=options.cache,
        reporter=reporter,
        verify=options.verify,
        device=options.workers_device,
        helpers=build_helpers(config, options, reporter),
    )
    create_directory(directory)
    run = Run(
        config=config,
        class_names=prepared.store.class_names,
        contents=prepared.contents.summary(),
        identity=new_identity(config.name),
        storage=None if options.storage is None else storable_url(options.storage, directory),
        fixed=fixed,
    )
    return Session(directory, run, options, reporter), prepared


def _result_count(study: Study, directory: Path) -> int:
    """Return the number of results of a run, further seeds and distilled models included."""
    return sum(map(study.count, STAGES)) + further_count(directory)


class Session:
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

        Args:
            concludes: Whether the best model is compared with the default, exported and evaluated on test.

        Raises:
            ConfigError: If a path leads nowhere.
            StudyError: If data or encoders have changed.
            Interrupted: If the user has interrupted the search.
        """
        with self._reopened() as (study, context):
            self._search(context, study, concludes=concludes)

    def search(self, prepared: SearchContext, *, concludes: bool) -> None:
        """Run the search of a new run, and conclude it if it has a result; see `resume`.

        Args:
            prepared: The encoders, features and memory predictions; see `create_session`.
            concludes: Whether the best model is compared with the default, exported and evaluated on test.
        """
        with self._opened(prepared) as (study, context):
            self._search(context, study, concludes=concludes)

    def try_default(
        self, seeds: int, *, seconds: float, prepared: SearchContext | None = None
    ) -> tuple[ArmTrial, SearchContext]:
        """Train the family's default with some seeds, and solve the linear classifier; see `Search.try_default`.

        Args:
            seeds: The number of seeds.
            seconds: The time for it; infinite without a time budget.
            prepared: What the search of a new run is prepared with; None for a run that exists.

        Returns:
            The results so far, and what the search is prepared with.

        Raises:
            NasError: If data, encoders or the run directory cannot be used, or training fails the same way repeatedly.
            Interrupted: If the user has interrupted the search.
        """
        opened = self._reopened() if prepared is None else self._opened(prepared)
        with opened as (study, context):
            work = partial(Search.try_default, seeds=seeds, seconds=seconds)
            account = self._time_account(study)
            with session_callbacks(self._options, self._directory, self._reporter, account, ends=False) as callbacks:
                trial = self._run_work(context, study, account, work, lambda *parts: [], callbacks)
        if trial is None:
            raise Interrupted
        return trial, context

    @contextmanager
    def _opened(self, prepared: SearchContext) -> Iterator[tuple[Study, SearchContext]]:
        """Open the study of a new run."""
        with self._open_study() as study:
            yield study, prepared

    @contextmanager
    def _reopened(self) -> Iterator[tuple[Study, SearchContext]]:
        """Open the study of an existing run, and prepare its search again."""
        check_writable(self._directory)
        storage, recorded = self._options.storage, self._run.storage
        if storage is None and recorded is not None:
            storage = stored_url(recorded, self._directory)
        check_surroundings(self._options, storage)
        check_places(self._run.config, str(self._directory / CONFIG))
        # Before anything that takes long: a study that is damaged or in use ends the session.
        with self._open_study() as study:
            yield (
                study,
                prepare(
                    self._run.config,
                    source=str(self._directory / CONFIG),
                    cache_directory=self._options.cache,
                    reporter=self._reporter,
                    verify=self._options.verify,
                    check=partial(check_contents, self._directory, self._run.contents, self._run.config),
                    device=self._options.workers_device,
                    helpers=build_helpers(self._run.config, self._options, self._reporter),
                ),
            )

    def _open_study(self) -> Study:
        # Damage is an error now rather than after the search.
        for check in (read_report, read_simple_results, read_choice, read_speed, read_summary):
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
        reporter, account = self._reporter, self._time_account(study)
        known = _result_count(study, self._directory)

        def work(search: Search) -> Outcome:
            return search.run(compares=concludes)

        with (
            RunReport(self._directory, study, reporter) if concludes else nullcontext(),
            session_callbacks(self._options, self._directory, reporter, account, ends=True) as callbacks,
        ):
            announce = partial(announcement, self._run.config)
            outcome = self._run_work(prepared, study, account, work, announce, callbacks)
            counts = {stage: study.count(stage) for stage in STAGES}
            reporter.note(
                f"Search: {counts_text(counts)}, {len(study.rejections)} infeasible or failed; "
                f"{format_seconds(account.spent_seconds)} used"
            )
            if outcome is None:
                raise Interrupted
            if concludes:
                self._conclude(outcome, study, account, prepared)
        if concludes and known and known == _result_count(study, self._directory):
            reporter.note(used_up_line(self._directory, self._run.config.budget))

    def _time_account(self, study: Study) -> TimeAccount:
        path = time_file(self._directory)
        if not path.exists() and study.count("one_shot"):
            self._reporter.note(f"{path}: is missing; the time of earlier sessions is counted as zero")
        return TimeAccount(path)

    def _run_work(
        self,
        prepared: SearchContext,
        study: Study,
        account: TimeAccount,
        work: Callable[[Search], _Found],
        announce: Callable[[SearchContext, Executor], Sequence[str]],
        callbacks: CallbackList,
    ) -> _Found | None:
        """Write what workers need, start them, and run one part of the search; None if the user has interrupted it."""
        keep_freed_memory()
        config, reporter = self._run.config, self._reporter
        check_memory(config, prepared.memory)
        thread_count = config.threads if config.deterministic else os.cpu_count() or 1
        setup = write_worker_setup(config, prepared, self._directory, thread_count)
        write_contents(self._directory, prepared.contents)
        write_run(self._directory, self._run)
        write_summary_of(prepared, self._directory)
        self._record_cache(prepared)
        if study.requeued_count:
            reporter.note(f"{study.requeued_count} candidate(s) of an interrupted session are requeued")
        executor = build_executor(setup, self._options, prepared, run_id=self._run.identity, on_note=reporter.note)
        try:
            for line in announce(prepared, executor):
                reporter.note(line)
            with interruptible(reporter.announce) as interruption:
                search = Search(
                    config=config,
                    prepared=prepared,
                    setup=setup,
                    study=study,
                    executor=executor,
                    account=account,
                    interruption=interruption,
                    reporter=reporter,
                )
                search.send_events(callbacks)
                found = work(search)
            if search.calibration_note is not None:
                reporter.note(search.calibration_note)
        finally:
            executor.close()
        return None if interruption.is_requested else found

    def _record_cache(self, prepared: SearchContext) -> None:
        """Record that this run uses its cached features, so that `clean` leaves them."""
        if not prepared.store.directory.is_dir():
            return
        try:
            record_use(prepared.store.directory, self._directory)
        except OSError as error:  # of a cache that only others may write to
            self._reporter.note(f"{prepared.store.directory}: its use cannot be recorded: {error.strerror or error}")

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
        simple = with_latency(outcome.simple, self._directory, config, prepared)
        excluded = excluded_models(simple, config.search.constraints, prepared.memory)
        reliability = build_report(
            config.search.objective,
            {stage: study.results(stage) for stage in STAGES},
            seeds=outcome.seeds or {BEST: [outcome.best], **{role: [entry] for role, entry in simple.items()}},
            excluded=excluded,
            race=None if outcome.race is None else report_end(outcome.race, config, prepared.store, excluded),
            phases=account.phases,
            title=config.space.architecture_class.title,
        )
        choice = outcome.choice or choose_ensemble(config, self._directory, prepared, study, self._reporter)
        role = reliability.answer
        distilled = compared(outcome, role, config.search.constraints, prepared.memory)
        choice = replace(choice, best=outcome.best, role=role, simple=simple.get(role))
        if distilled is not None:
            choice = replace(choice, distilled=distilled.result)
            if distilled.is_answer:
                choice = replace(choice, role=DISTILLED, simple=distilled.result)
        write_choice(self._directory, choice)
        finalizer = Finalizer(
            config,
            self._directory,
            parts=ModelParts.of(prepared),
            validation=prepared.store.splits["validation"],
            parameter_count=prepared.memory.parameter_count,
            cache_directory=self._options.cache,
            reporter=self._reporter,
            evaluation_seconds=prepared.evaluation_seconds,
        )
        finalizer.conclude(simple, reliability, choice, distilled)
