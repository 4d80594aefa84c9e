"""Start and resume searches, of one arm or of several."""

import contextlib
from dataclasses import replace
from pathlib import Path

from nas.common.devices import fast_precision
from nas.common.errors import StudyError
from nas.common.files import check_writable
from nas.common.progress import Reporter
from nas.config.diff import differences
from nas.config.load import Arm, load_arms
from nas.config.overrides import Overrides
from nas.config.places import without_places
from nas.config.section import AUTO
from nas.run.arms.arms_search import ArmsSearch
from nas.run.arms.directory import (
    ArmsRun,
    is_arms_run,
    read_arms_run,
    with_overrides,
    with_precision,
    write_arms_run,
)
from nas.run.directory import CONFIG, check_new_directory, is_run
from nas.run.executors import ExecutionOptions
from nas.run.first_line import start_line
from nas.run.html_report.arms import ArmsReport
from nas.run.program_name import command_line
from nas.run.search import resume as resume_one
from nas.run.search import start as start_one
from nas.run.surroundings import check_surroundings
from nas.storage.backends.journal import LOCK
from nas.storage.lease import Holder, LockFile


def start(
    source: Path,
    directory: Path,
    overrides: Overrides,
    options: ExecutionOptions,
    reporter: Reporter,
    *,
    is_announced: bool = False,
) -> None:
    """Run the search of a file in a new directory, or resume it in its existing one.

    Args:
        source: The search file, which may list several encoders and families.
        directory: The run directory.
        overrides: The values that replace those of the file.
        options: The workers, the cluster and the storage of the study.
        reporter: The receiver of messages.
        is_announced: Whether the first line was shown.

    Raises:
        NasError: If the search file, data, encoders or run directory cannot be used, or the directory holds another
            search.
        Interrupted: If the user has interrupted the search.
        OSError: If the directory cannot be created.
    """
    arms = load_arms(source)
    if len(arms) == 1:
        start_one(source, directory, overrides, options, reporter, is_announced=is_announced)
        return
    run = with_overrides(arms, overrides)
    if is_run(directory):
        known = read_arms_run(directory)
        run = with_precision(run, known.arms[0].config.recipe.precision)
        _check_same(known, run, directory, str(source))
        reporter.note(f"{directory} holds this search; resuming it")
    else:
        check_new_directory(directory)
        check_surroundings(options, options.storage)
        if not is_announced:
            reporter.note(start_line(directory))
        run = with_precision(run, fast_precision(options.workers_device))
    _run(directory, run, options, reporter, source=str(source))


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
    if not is_arms_run(directory):
        resume_one(directory, overrides, options, reporter)
        return
    known = read_arms_run(directory)
    if overrides.precision == AUTO:  # that of the run
        overrides = replace(overrides, precision=None)
    run = with_overrides(known.arms, overrides)
    _check_same(known, run, directory, "the command line")
    for arm in run.arms:
        overrides.check_places(arm.config)
    _run(directory, run, options, reporter, source=str(directory / CONFIG))


def _run(directory: Path, run: ArmsRun, options: ExecutionOptions, reporter: Reporter, *, source: str) -> None:
    reporter.note(f"{len(run.arms)} arms: {', '.join(run.names)}")
    left_out = None
    if not is_run(directory):  # without an arm that can be searched, nothing is written
        left_out = ArmsSearch(directory, run, options, reporter, source=source).check()
    directory.mkdir(parents=True, exist_ok=True)
    check_writable(directory)
    with contextlib.closing(LockFile(directory / LOCK)) as lock:
        lock.write(Holder.current())
        write_arms_run(directory, run)
        search = ArmsSearch(directory, run, options, reporter, source=source)
        try:
            with ArmsReport(directory, reporter):
                search.run(search.check() if left_out is None else left_out)
        finally:
            lock.write(None)  # the process may go on, for instance a notebook's


def _check_same(known: ArmsRun, run: ArmsRun, directory: Path, source: str) -> None:
    """Check that a directory holds the arms of a search file.

    Raises:
        StudyError: If it does not; names the keys.
    """
    old, new = ({arm.name: _settings(arm) for arm in entry.arms} for entry in (known, run))
    lines = [f"arms: {', '.join(old)} → {', '.join(new)}"] if list(old) != list(new) else []
    for name in old if not lines else ():
        lines += [line for line in differences(old[name], new[name]) if line not in lines]
    if lines:
        raise StudyError(
            "\n".join(
                [
                    f"{directory}: holds a run whose configuration differs from {source}:",
                    *(f"  - {line}" for line in lines),
                    f"resume that run with `{command_line('resume', directory)}`, or search in a new directory "
                    "(--run-dir)",
                ]
            )
        )


def _settings(arm: Arm) -> dict[str, object]:
    return without_places(arm.config.as_dict())
