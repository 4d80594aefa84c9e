"""A run directory: start a search in one, or go on with it."""

import importlib.metadata
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from nas.budget import TimeAccount
from nas.conclusion import ModelParts, conclude
from nas.config import Config, config_as_dict, load_config, parse_config
from nas.errors import ConfigError, NasError, StudyError
from nas.execution import Executor, WorkerSetup
from nas.files import write_atomically
from nas.preparation import prepare
from nas.progress import Reporter
from nas.results import STAGES
from nas.runner import Search
from nas.study import JOURNAL, Study
from nas.units import format_seconds

CONFIG = "config.yaml"
_PACKAGES = ("torch", "transformers", "optuna", "ray", "numpy")


@dataclass(frozen=True)
class Overrides:
    """What the command line says in place of the file; None leaves the file's word."""

    time_seconds: float | None = None
    trials: int | None = None
    memory_bytes: int | None = None
    strategy: str | None = None
    seed: int | None = None

    def apply(self, config: Config) -> Config:
        """A budget that was given replaces the file's whole budget of time and trials."""
        budget = config.budget
        if self.time_seconds is not None or self.trials is not None:
            budget = replace(budget, time_seconds=self.time_seconds, trials=self.trials)
        if self.memory_bytes is not None:
            budget = replace(budget, memory_bytes=self.memory_bytes)
        return replace(
            config,
            budget=budget,
            search=config.search if self.strategy is None else replace(config.search, strategy=self.strategy),
            seed=config.seed if self.seed is None else self.seed,
        )


@dataclass(frozen=True)
class Machine:
    """Where and how wide a search runs; shapes no result.

    Args:
        worker_count: Ray workers; 0 runs everything in this process.
        threads_per_worker: Threads of each.
        cache_directory: Of base features.
    """

    worker_count: int
    threads_per_worker: int
    cache_directory: Path


def default_cache_directory() -> Path:
    """`$XDG_CACHE_HOME/pmf-nas`, by default in the user's `.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pmf-nas"


def start(source: Path, directory: Path, overrides: Overrides, machine: Machine, reporter: Reporter) -> None:
    """Run a search in a new directory.

    Raises:
        NasError: For whatever the user can mend.
    """
    config = overrides.apply(load_config(source))
    if (directory / CONFIG).exists():
        raise StudyError(
            f"{directory}: holds a run already; go on with it by `resume {directory}`, or name another folder"
        )
    if directory.exists() and any(directory.iterdir()):
        raise StudyError(f"{directory}: is not empty; name another folder")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        _search(config, str(source), directory, machine, reporter)
    except NasError:
        # Nothing half-way is left behind by a configuration or data set that cannot be used.
        if not (directory / JOURNAL).exists():
            for path in directory.iterdir():
                path.unlink()
            directory.rmdir()
        raise


def resume(directory: Path, overrides: Overrides, machine: Machine, reporter: Reporter) -> None:
    """Go on with a run, possibly with another budget.

    Raises:
        NasError: For whatever the user can mend.
    """
    config = overrides.apply(read_config(directory))
    _search(config, str(directory / CONFIG), directory, machine, reporter)


def read_config(directory: Path) -> Config:
    """The resolved configuration of a run.

    Raises:
        StudyError: If the directory holds no run.
        ConfigError: If its configuration was damaged.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise StudyError(f"{directory}: holds no run (a file {CONFIG} is expected there)")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or "search" not in values:
        raise ConfigError(str(path), ["search: is missing; expected what `search` wrote there"])
    return parse_config(values["search"], source=str(path), base_directory=directory.resolve())


def _write_config(directory: Path, config: Config) -> None:
    values = {
        "search": config_as_dict(config),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    }
    write_atomically(directory / CONFIG, yaml.safe_dump(values, sort_keys=False).encode())


def _search(config: Config, source: str, directory: Path, machine: Machine, reporter: Reporter) -> None:
    prepared = prepare(config, source=source, cache_directory=machine.cache_directory, reporter=reporter)
    _write_config(directory, config)
    setup = WorkerSetup(
        config=config,
        image_checkpoint=prepared.image_checkpoint,
        text_checkpoint=prepared.text_checkpoint,
        feature_directory=prepared.store.directory.resolve(),
        run_directory=directory.resolve(),
        thread_count=machine.threads_per_worker,
    )
    with Study(directory, config.space) as study:
        account = TimeAccount(directory / "time.json")
        executor = build_executor(setup, machine.worker_count)
        try:
            search = Search(
                config=config,
                prepared=prepared,
                setup=setup,
                study=study,
                executor=executor,
                account=account,
                reporter=reporter,
            )
            outcome = search.run()
        finally:
            executor.close()
        scored, trained, full = (len(study.results(stage)) for stage in STAGES)
        reporter.note(
            f"search: {scored} architectures scored, {trained} trained, {full} trained in full, "
            f"{len(study.rejections)} infeasible or failed; {format_seconds(account.spent_seconds)} spent"
        )
    if outcome.best is None:
        reporter.note(f"no finalist was finished within the budget; go on with: resume {directory} --budget ...")
        return
    conclude(
        config,
        directory,
        best=outcome.best,
        default=outcome.default,
        parts=ModelParts.of(prepared, config),
        weights_path=setup.weights_path,
        reporter=reporter,
    )


def build_executor(setup: WorkerSetup, worker_count: int) -> Executor:
    """Ray workers, or this process for 0 workers."""
    if worker_count == 0:
        from nas.execution.serial import SerialExecutor

        return SerialExecutor(setup)
    from nas.execution.ray_workers import RayExecutor  # Ray takes seconds to import; not every command needs it

    return RayExecutor(setup, worker_count)
