"""Start a search in a new run directory, or resume it in its own."""

from dataclasses import replace
from pathlib import Path

from nas.common.errors import StudyError
from nas.common.progress import Reporter
from nas.config.diff import differences
from nas.config.load import load_config, load_fixed_places
from nas.config.overrides import Overrides
from nas.config.places import without_places
from nas.config.schema import Config
from nas.run.announcement import resume_line
from nas.run.defaults import complete
from nas.run.directory import Run, check_new_directory, is_run, place_run, read_run
from nas.run.executors import ExecutionOptions
from nas.run.first_line import start_line
from nas.run.program_name import command_line
from nas.run.select import best_architectures
from nas.run.session import Session, create_session
from nas.run.surroundings import check_surroundings


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
    is_announced: bool = False,
) -> None:
    """Run a search in a new directory, or resume it in its existing one.

    Args:
        source: The search file.
        directory: The run directory.
        overrides: The values that replace those of the file.
        options: The workers, the cluster and the storage of the study.
        reporter: The receiver of messages.
        concludes: Whether the best model is compared with the default, exported and evaluated on test.
        is_announced: Whether the first line was shown.

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
        config = _with_machine_of(run.config, complete(draft, source=str(source), device=options.workers_device), draft)
        _check_same(run, config, directory, source)
        reporter.note(f"{directory} holds this search; resuming it")
        Session(directory, replace(run, config=config, fixed=fixed), options, reporter).resume(concludes=concludes)
        return
    check_new_directory(directory)
    check_surroundings(options, options.storage)
    if not is_announced:
        reporter.note(start_line(directory))
    config = complete(draft, source=str(source), reporter=reporter, device=options.workers_device)
    session, prepared = create_session(config, directory, options, reporter, source=str(source), fixed=fixed)
    session.search(prepared, concludes=concludes)


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
    reporter.note(resume_line(directory, run.config.budget))
    Session(directory, run, options, reporter).resume(concludes=True)


def _with_machine_of(run: Config, config: Config, draft: Config) -> Config:
    """Return a configuration with the memory budget and the precision of a run, where the file leaves them open.

    Args:
        run: The configuration of the run, which may come from another machine.
        config: The complete configuration of the search file.
        draft: The same with its placeholders.
    """
    if "budget.memory" in draft.automatic:
        config = config.replace(budget=config.budget.replace(memory_bytes=run.budget.memory_bytes))
    if "recipe.precision" in draft.automatic:
        config = config.replace(recipe=config.recipe.replace(precision=run.recipe.precision))
    return config


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
