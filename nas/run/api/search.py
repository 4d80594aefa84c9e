"""Start and resume searches from Python."""

import os
from pathlib import Path
from typing import Any, Unpack

from nas.common.progress import Reporter
from nas.run.api.messages import python_errors
from nas.run.api.options import (
    Budget,
    PathLike,
    ResumeOptions,
    SearchOptions,
    check_names,
    execution_of,
    overrides_of,
    reporter_of,
)
from nas.run.api.run import Run, open_run
from nas.run.api.search_source import ConfigLike, names_data, search_source
from nas.run.commands import resume as resume_search
from nas.run.commands import start


def run_search(
    config: ConfigLike | None = None,
    *,
    data: Any = None,
    budget: Budget | None = None,
    run_dir: PathLike | None = None,
    progress: bool | Reporter = True,
    **options: Unpack[SearchOptions],
) -> Run:
    """Run a search, or resume it if its run directory holds it, and return the run.

    Either a configuration that names its data, or data are needed. Columns, splits and encoders are then found as the
    command `init` finds them. Data frames and data sets are kept in the run directory, so that a search that was killed
    can be resumed by `nas.resume(run_dir)`, or by the command `resume`, without the program that started it.

    Args:
        config: The path of a search file, a dictionary with the same keys, or what `nas.load_config` returns. Paths in
            a dictionary are relative to the working directory.
        data: A pandas data frame with columns for images (paths, PIL pictures, arrays), texts, labels and optionally
            splits, a `Dataset` or `DatasetDict` of Hugging Face, or the path of a table or a folder.
        budget: A time (`"6m"`), a number of trials (`200`), or a list of both.
        run_dir: The run directory; None for `runs/NAME-SEED`.
        progress: Whether to show messages and progress on standard output, or a `Reporter` that receives them.
        options: See `ResumeOptions` and `SearchOptions`.

    Returns:
        The run, whose search has ended.

    Raises:
        NasError: If the configuration, the data, an option or the run directory cannot be used.
        KeyboardInterrupt: If the search was interrupted; everything finished is saved.
        TypeError: If there is no option of a name.
        OSError: If the run directory cannot be written.
    """
    check_names("run_search", options, SearchOptions)
    with python_errors():
        is_place = isinstance(data, str | os.PathLike) and names_data(config)
        overrides = overrides_of(budget, options, data=os.fspath(data) if is_place else None)
        execution = execution_of(options)
        with (
            reporter_of(progress) as reporter,
            search_source(config, data, options, overrides, run_dir, reporter.note) as source,
        ):
            if data is not None and not is_place:  # its place is in the file
                overrides = overrides_of(budget, {**options, "images": None})
            with python_errors(source.directory, source.path if source.is_temporary else None):
                start(source.path, source.directory, overrides, execution, reporter)
        return open_run(source.directory)


def resume(
    directory: PathLike,
    budget: Budget | None = None,
    *,
    progress: bool | Reporter = True,
    **options: Unpack[ResumeOptions],
) -> Run:
    """Resume a run, possibly with a larger budget, and return it; finished results are never lost.

    Args:
        directory: The run directory.
        budget: The budget of all sessions together: a time (`"8m"`), a number of trials (`300`), or a list of both;
            None for that of the run.
        progress: Whether to show messages and progress on standard output, or a `Reporter` that receives them.
        options: See `ResumeOptions`.

    Raises:
        NasError: If the run directory, data or encoders cannot be used, or data or encoders have changed.
        KeyboardInterrupt: If the search was interrupted; everything finished is saved.
        TypeError: If there is no option of a name.
    """
    check_names("resume", options, ResumeOptions)
    place = Path(directory)
    with python_errors(place):
        overrides, execution = overrides_of(budget, options), execution_of(options)
        with reporter_of(progress) as reporter:
            resume_search(place, overrides, execution, reporter)
    return open_run(place)
