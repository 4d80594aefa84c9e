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
from nas.encoders import save_tail
from nas.errors import BudgetError, ConfigError, StudyError
from nas.execution import FROZEN, Executor, WorkerSetup
from nas.files import write_atomically
from nas.fusion import first_fusing_layers
from nas.memory import keep_freed_memory
from nas.preparation import Prepared, prepare
from nas.progress import Reporter
from nas.results import STAGES
from nas.runner import Search
from nas.study import JOURNAL, LOCK, Study
from nas.units import format_bytes, format_seconds

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
        """A budget that was given replaces the file's whole budget of time and trials.

        Raises:
            ConfigError: If the result is not a configuration that a file could have held.
        """
        budget = config.budget
        if self.time_seconds is not None or self.trials is not None:
            budget = replace(budget, time_seconds=self.time_seconds, trials=self.trials)
        if self.memory_bytes is not None:
            budget = replace(budget, memory_bytes=self.memory_bytes)
        changed = replace(
            config,
            budget=budget,
            search=config.search if self.strategy is None else replace(config.search, strategy=self.strategy),
            seed=config.seed if self.seed is None else self.seed,
        )
        return parse_config(config_as_dict(changed), source="the command line", base_directory=Path.cwd())


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


@dataclass(frozen=True)
class Run:
    """What a run directory's `config.yaml` says.

    Args:
        config: Of the search, resolved.
        class_names: In the order of the logits.
        features: Name of the base features' folder: a hash of encoders, processing and data.
    """

    config: Config
    class_names: tuple[str, ...]
    features: str


def start(source: Path, directory: Path, overrides: Overrides, machine: Machine, reporter: Reporter) -> None:
    """Run a search in a new directory.

    Raises:
        NasError: For whatever the user can mend.
        OSError: If the directory cannot be made.
    """
    config = overrides.apply(load_config(source))
    if (directory / CONFIG).exists():
        raise StudyError(f"{directory}: holds a run already; go on with it by `resume {directory}`, or name another")
    if directory.exists() and any(not _is_left_over(path) for path in directory.iterdir()):
        raise StudyError(f"{directory}: is not empty; name another folder")
    prepared = prepare(config, source=str(source), cache_directory=machine.cache_directory, reporter=reporter)
    directory.mkdir(parents=True, exist_ok=True)
    _search(config, prepared, directory, machine, reporter)


def _is_left_over(path: Path) -> bool:
    """Whether a file is all that a start which was killed, or refused its budget, has left."""
    made_first = (LOCK, JOURNAL, *FROZEN)
    return path.name in made_first or path.name.startswith(tuple(f".{name}." for name in (CONFIG, *FROZEN)))


def resume(directory: Path, overrides: Overrides, machine: Machine, reporter: Reporter) -> None:
    """Go on with a run, possibly with another budget.

    Raises:
        NasError: For whatever the user can mend; among it data or encoders that have changed since.
    """
    run = read_run(directory)
    config = overrides.apply(run.config)
    source = str(directory / CONFIG)
    prepared = prepare(config, source=source, cache_directory=machine.cache_directory, reporter=reporter)
    if prepared.store.directory.name != run.features:
        raise StudyError(
            f"{directory}: its data or encoders have changed since it was started (features {run.features}, now "
            f"{prepared.store.directory.name}), so its scores do not hold; search in a new directory"
        )
    _search(config, prepared, directory, machine, reporter)


def read_run(directory: Path) -> Run:
    """What is known of a run.

    Raises:
        StudyError: If the directory holds no run.
        ConfigError: If its configuration was damaged.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise StudyError(f"{directory}: holds no run (a file {CONFIG} is expected there)")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        search, class_names, features = values["search"], tuple(values["class_names"]), str(values["features"])
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(str(path), [f"is damaged; expected what `search` wrote there ({reason})"]) from error
    return Run(parse_config(search, source=str(path), base_directory=directory.resolve()), class_names, features)


def _write_run(directory: Path, run: Run) -> None:
    values = {
        "search": config_as_dict(run.config),
        "class_names": list(run.class_names),
        "features": run.features,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    }
    write_atomically(directory / CONFIG, yaml.safe_dump(values, sort_keys=False).encode())


def _search(config: Config, prepared: Prepared, directory: Path, machine: Machine, reporter: Reporter) -> None:
    keep_freed_memory()
    with Study(directory, config.space) as study:
        _check_memory(config, prepared, machine, reporter)
        setup = hand_over(config, prepared, directory, machine.threads_per_worker)
        _write_run(directory, Run(config, prepared.store.class_names, prepared.store.directory.name))
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


def hand_over(config: Config, prepared: Prepared, directory: Path, thread_count: int) -> WorkerSetup:
    """What workers need, with the frozen weights of the fusing layers written where they map them from.

    Args:
        config: Of the search.
        prepared: Its encoders and features.
        directory: Of the run.
        thread_count: Threads of one worker.
    """
    encoders = (prepared.image_encoder, prepared.text_encoder)
    earliest = min(*config.space.choices["fusion_layer"], prepared.default.fusion_layer)
    setup = WorkerSetup(
        config=config,
        image_config=prepared.image_encoder.config,
        text_config=prepared.text_encoder.config,
        first_layers=first_fusing_layers(*encoders, earliest),
        feature_directory=prepared.store.directory.resolve(),
        run_directory=directory.resolve(),
        thread_count=thread_count,
    )
    for encoder, start, path in zip(encoders, setup.first_layers, setup.frozen_paths, strict=True):
        save_tail(encoder, start, path)
    return setup


def _check_memory(config: Config, prepared: Prepared, machine: Machine, reporter: Reporter) -> None:
    """Say what a candidate needs.

    Raises:
        BudgetError: If not even the smallest architecture fits.
    """
    space, budget = config.space, config.budget.memory_bytes
    smallest, largest = prepared.memory.predict(space.smallest), prepared.memory.predict(space.largest)
    if smallest.peak_bytes > budget:
        raise BudgetError(
            f"memory budget {format_bytes(budget)}: not even the smallest architecture ({space.smallest}) fits; its "
            f"training needs {format_bytes(smallest.peak_bytes)}"
        )
    fixed = smallest.process_bytes + smallest.supernet_bytes
    reporter.note(
        f"memory: {format_bytes(budget)} for {max(machine.worker_count, 1)} worker(s); a candidate needs "
        f"{format_bytes(smallest.peak_bytes)} to {format_bytes(largest.peak_bytes)}; {format_bytes(fixed)} of that are "
        "the process and the supernet"
    )


def build_executor(setup: WorkerSetup, worker_count: int) -> Executor:
    """Ray workers, or this process for 0 workers."""
    if worker_count == 0:
        from nas.execution.serial import SerialExecutor

        return SerialExecutor(setup)
    from nas.execution.ray_workers import RayExecutor  # Ray takes seconds to import; not every command needs it

    return RayExecutor(setup, worker_count)
