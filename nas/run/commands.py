"""A run directory: start a search in one, or go on with it."""

import contextlib
import errno
import importlib.metadata
import os
import platform
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from nas.common.errors import BudgetError, ConfigError, StudyError
from nas.common.files import default_cache_directory, write_atomically
from nas.common.interrupt import Interrupted, interruptible
from nas.common.progress import Reporter
from nas.common.units import format_bytes, format_seconds
from nas.config.diff import differences
from nas.config.load import config_as_dict, load_config, parse_config
from nas.config.schema import Config
from nas.execution.base import Executor
from nas.execution.placement import Placement
from nas.execution.worker import FROZEN, WorkerSetup
from nas.memory.measurement import keep_freed_memory
from nas.models.encoders.partial_checkpoint import save_tail
from nas.models.fusion.base import sizes_of
from nas.run.finalize import ModelParts, conclude
from nas.run.prepare import SearchContext, first_layers, prepare
from nas.run.reliability import gathered
from nas.run.search_loop import Search
from nas.run.time_budget import Deadlines, TimeAccount
from nas.search.objectives import Objectives
from nas.search.space import Architecture, SearchSpace
from nas.search.trial import STAGES, Result
from nas.storage.backends import JOURNAL, LOCK, kept_url, without_password
from nas.storage.lease import LockFile
from nas.storage.study import Study

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
    deterministic: bool | None = None
    warm_start: Path | None = None

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
        search = config.search if self.strategy is None else replace(config.search, strategy=self.strategy)
        if self.warm_start is not None:
            search = replace(
                search,
                initial_architectures=(*search.initial_architectures, *best_of_run(self.warm_start, config.space)),
            )
        changed = replace(
            config,
            budget=budget,
            search=search,
            seed=config.seed if self.seed is None else self.seed,
            deterministic=config.deterministic if self.deterministic is None else self.deterministic,
        )
        return parse_config(config_as_dict(changed), source="the command line", base_directory=Path.cwd())


def best_of_run(directory: Path, space: SearchSpace) -> list[Architecture]:
    """What an earlier run has found: its best of each stage, as far as they are in this space.

    Raises:
        StudyError: If the directory holds no run, another driver works on it, or nothing it has found is in the space.
    """
    run = read_run(directory)
    with open_study(directory, run) as study:
        bests = [_best_of(run.config, study.results(stage)) for stage in reversed(STAGES)]
    best = dict.fromkeys(result.architecture for result in bests if result is not None)
    found = [architecture for architecture in best if architecture in space]
    if not found:
        raise StudyError(f"--warm-start {directory}: nothing that was found there is in this space")
    return found


@dataclass(frozen=True)
class ExecutionOptions:
    """Where and how wide a search runs; shapes no result of a deterministic one.

    Args:
        worker_count: Ray workers; None for as many as cores, GPUs and memory have room for; 0 runs everything in this
            process.
        cache_directory: Of base features, on every node; None for the cache of the user.
        ray_address: Of a Ray cluster to join; None starts a private Ray on this machine.
        storage: URL of the database that keeps the study; None for a journal in the run directory, or, for a run that
            is there, for what it was started with.
    """

    worker_count: int | None = None
    cache_directory: Path | None = None
    ray_address: str | None = None
    storage: str | None = None

    @property
    def cache(self) -> Path:
        return self.cache_directory or default_cache_directory()


@dataclass(frozen=True)
class Run:
    """What a run directory's `config.yaml` says.

    Args:
        config: Of the search, resolved.
        class_names: In the order of the logits.
        features: Name of the base features' folder: a hash of encoders, processing and data.
        identity: Names the run, in a database and on other nodes.
        storage: URL of the database that keeps its study, without a password; None for a journal.
    """

    config: Config
    class_names: tuple[str, ...]
    features: str
    identity: str
    storage: str | None


def start(
    source: Path,
    directory: Path,
    overrides: Overrides,
    machine: ExecutionOptions,
    reporter: Reporter,
    *,
    concludes: bool = True,
) -> None:
    """Run a search in a new directory, or go on with the same search in its own.

    Args:
        source: The search file.
        directory: Of the run.
        overrides: Of the file.
        machine: Where to run.
        reporter: Told what happens.
        concludes: Whether the answer is compared with the default, exported, and asked for the test split.

    Raises:
        NasError: For whatever the user can mend; among it a directory that holds another search.
        Interrupted: If somebody asked for its end.
        OSError: If the directory cannot be made.
    """
    config = overrides.apply(load_config(source))
    if (directory / CONFIG).exists():
        run = read_run(directory)
        changed = differences(config_as_dict(run.config), config_as_dict(config))
        if changed:
            raise StudyError(
                "\n".join(
                    [
                        f"{directory}: holds a run of another configuration than {source}:",
                        *(f"  - {line}" for line in changed),
                        f"go on with that one by `resume {directory}`, or search in a new directory (--run-dir)",
                    ]
                )
            )
        reporter.note(f"{directory} holds this search already; it goes on")
        _go_on(directory, replace(run, config=config), machine, reporter, concludes=concludes)
        return
    if directory.exists() and any(not _is_left_over(path) for path in directory.iterdir()):
        raise StudyError(f"{directory}: is not empty; name another folder")
    _check_place(directory)
    prepared = prepare(config, source=str(source), cache_directory=machine.cache, reporter=reporter)
    directory.mkdir(parents=True, exist_ok=True)
    _clear_left_over(directory)
    run = Run(
        config=config,
        class_names=prepared.store.class_names,
        features=prepared.store.directory.name,
        identity=f"{config.name}-{uuid.uuid4().hex[:12]}",
        storage=None if machine.storage is None else kept_url(machine.storage),
    )
    _search(run, prepared, directory, machine, reporter, concludes=concludes)


def _check_place(directory: Path) -> None:
    """Make sure that a run can be written there, before features are built for hours.

    Raises:
        OSError: If it cannot.
    """
    place = next(path for path in (directory.resolve(), *directory.resolve().parents) if path.exists())
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


def _is_left_over(path: Path) -> bool:
    """Whether a file is all that a start which was killed, or refused its budget, has left."""
    written = (CONFIG, *FROZEN)
    return path.name in (LOCK, *FROZEN) or path.name.startswith((JOURNAL, *(f".{name}." for name in written)))


def _clear_left_over(directory: Path) -> None:
    """Remove the journal of a start that was killed, or refused its budget: it belongs to a run that never was.

    Raises:
        StudyError: If that start is still under way.
    """
    with contextlib.closing(LockFile(directory / LOCK)):
        if not (directory / CONFIG).exists():
            for path in directory.glob(f"{JOURNAL}*"):
                path.unlink()


def resume(directory: Path, overrides: Overrides, machine: ExecutionOptions, reporter: Reporter) -> None:
    """Go on with a run, possibly with another budget; see `start`.

    Raises:
        NasError: For whatever the user can mend; among it data or encoders that have changed since.
        Interrupted: If somebody asked for its end.
    """
    run = read_run(directory)
    _go_on(directory, replace(run, config=overrides.apply(run.config)), machine, reporter, concludes=True)


def _go_on(directory: Path, run: Run, machine: ExecutionOptions, reporter: Reporter, *, concludes: bool) -> None:
    source = str(directory / CONFIG)
    prepared = prepare(run.config, source=source, cache_directory=machine.cache, reporter=reporter)
    if prepared.store.directory.name != run.features:
        raise StudyError(
            f"{directory}: its data or encoders have changed since it was started (features {run.features}, now "
            f"{prepared.store.directory.name}), so its scores do not hold; search in a new directory"
        )
    _search(run, prepared, directory, machine, reporter, concludes=concludes)


def best_full(directory: Path, storage: str | None = None) -> Result | None:
    """The full training of a run that a search would answer with, or None; `storage` as in `open_study`."""
    run = read_run(directory)
    with open_study(directory, run, storage=storage) as study:
        return _best_of(run.config, study.results("full"))


def _best_of(config: Config, results: Sequence[Result]) -> Result | None:
    """Of one stage, the highest metric of those that meet the bounds; None if none does."""
    objectives = Objectives(config.search.objective, constraints=config.search.constraints)
    ranked = objectives.ranked([result for result in results if objectives.is_eligible(result)])
    return ranked[0] if ranked else None


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
        identity, storage = str(values["identity"]), values["storage"]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(str(path), [f"is damaged; expected what `search` wrote there ({reason})"]) from error
    config = parse_config(search, source=str(path), base_directory=directory.resolve())
    return Run(config, class_names, features, identity, storage)


def open_study(
    directory: Path, run: Run, *, storage: str | None = None, note: Callable[[str], object] = lambda text: None
) -> Study:
    """The study of a run.

    Args:
        directory: Of the run.
        run: What its file says.
        storage: In place of the URL that the run was started with, for instance with the password.
        note: Told what takes long.

    Raises:
        StudyError: If another driver has it open, it is damaged or gone, it was started with another configuration, or
            is kept in another place.
    """
    if storage is not None and kept_url(storage) != run.storage:
        kept = run.storage or "a journal"
        raise StudyError(f"--storage {without_password(storage)}: the run {directory} keeps its study in {kept}")
    return Study(
        directory,
        run.config.space,
        name=run.identity,
        storage=storage or run.storage,
        config=config_as_dict(run.config),
        note=note,
        must_exist=(directory / CONFIG).exists(),  # which is written once there is a study
    )


def _write_run(directory: Path, run: Run) -> None:
    values = {
        "search": config_as_dict(run.config),
        "class_names": list(run.class_names),
        "features": run.features,
        "identity": run.identity,
        "storage": run.storage,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    }
    write_atomically(directory / CONFIG, yaml.safe_dump(values, sort_keys=False).encode())


def _search(
    run: Run,
    prepared: SearchContext,
    directory: Path,
    machine: ExecutionOptions,
    reporter: Reporter,
    *,
    concludes: bool,
) -> None:
    keep_freed_memory()
    config = run.config
    with open_study(directory, run, storage=machine.storage, note=reporter.note) as study:
        _check_memory(config, prepared)
        thread_count = config.threads if config.deterministic else os.cpu_count() or 1
        setup = write_worker_setup(config, prepared, directory, thread_count)
        _write_run(directory, run)
        if study.put_back_count:
            reporter.note(f"{study.put_back_count} candidate(s) that an earlier session left running are put back")
        account = TimeAccount(directory / "time.json")
        executor = build_executor(setup, machine, prepared, run_id=run.identity, reporter=reporter)
        try:
            _announce(config, prepared, executor, reporter)
            with interruptible() as interruption:
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
                outcome = search.run(compares=concludes)
        finally:
            executor.close()
        scored, trained, full = (study.count(stage) for stage in STAGES)
        reporter.note(
            f"search: {scored} architectures scored, {trained} trained, {full} trained in full, "
            f"{len(study.rejections)} infeasible or failed; {format_seconds(account.spent_seconds)} spent"
        )
        reporter.note(search.correction.summary())
        if interruption.is_requested:
            raise Interrupted
        if not concludes:
            return
        if outcome.best is None:
            if full:
                bounds = ", ".join(map(str, config.search.constraints))
                raise StudyError(
                    f"{directory}: none of the {full} candidates that were trained in full meets {bounds}; "
                    f"results.csv has them all, export {directory} --trial N exports one anyway, and resume "
                    f"{directory} --budget ... looks for others, and trains those in full that rank above these"
                )
            reporter.note(f"no finalist was finished within the budget; go on with: resume {directory} --budget ...")
            return
        conclude(
            config,
            directory,
            best=outcome.best,
            default=outcome.default,
            evidence=gathered(
                config.search.objective,
                {stage: study.results(stage) for stage in STAGES},
                best=outcome.best_again or [outcome.best],
                default=[] if outcome.default is None else outcome.default_again or [outcome.default],
                phases=account.phases,
                title=config.space.architecture_class.title,
            ),
            parts=ModelParts.of(prepared),
            weights_path=setup.weights_path,
            reporter=reporter,
        )


def write_worker_setup(config: Config, prepared: SearchContext, directory: Path, thread_count: int) -> WorkerSetup:
    """What workers need, with the frozen weights of the fusing layers written where they map them from.

    Args:
        config: Of the search.
        prepared: Its encoders and features.
        directory: Of the run.
        thread_count: Threads of one worker.
    """
    encoders = (prepared.image_encoder, prepared.text_encoder)
    setup = WorkerSetup(
        config=config,
        image_config=prepared.image_encoder.config,
        text_config=prepared.text_encoder.config,
        first_layers=first_layers(config.space, sizes_of(*encoders)),
        feature_directory=prepared.store.directory.resolve(),
        run_directory=directory.resolve(),
        thread_count=thread_count,
    )
    for encoder, start, path in zip(encoders, setup.first_layers, setup.frozen_paths, strict=True):
        save_tail(encoder, start, path)
    return setup


def _check_memory(config: Config, prepared: SearchContext) -> None:
    """Make sure that something fits.

    Raises:
        BudgetError: If not even the smallest architecture does.
    """
    smallest, budget = config.space.smallest, config.budget.memory_bytes
    bounds = {constraint.quantity: constraint for constraint in config.search.constraints}
    fewest = prepared.memory.parameter_count(smallest)
    if (most := bounds.get("trainable_parameters")) is not None and not most.is_met(fewest):
        raise BudgetError(
            f"search.constraints: {most}: not even the smallest architecture ({smallest}) meets it; it has {fewest:,}"
        )
    needed = prepared.memory.predict(smallest).peak_bytes
    named = f"memory budget {format_bytes(budget)}"
    if (most := bounds.get("peak_memory")) is not None and most.bound < budget:
        budget, named = int(most.bound), f"search.constraints: {most}"
    if needed <= budget:
        return
    if config.budget.oversized == "accumulate":
        needed = prepared.memory.predict(smallest, micro_batches=config.recipe.batch_size).peak_bytes
        if needed <= budget:
            return
    hint = "" if config.budget.oversized == "accumulate" else "; budget.oversized: accumulate needs less"
    raise BudgetError(
        f"{named}: not even the smallest architecture ({smallest}) fits; its "
        f"training needs {format_bytes(needed)}{hint}"
    )


def _announce(config: Config, prepared: SearchContext, executor: Executor, reporter: Reporter) -> None:
    """Say what the search has at its disposal, and what of it is kept for what."""
    space, budget, memory = config.space, config.budget, prepared.memory
    slots = sum(device.slot_count for device in executor.devices)
    smallest, largest = memory.predict(space.smallest), memory.predict(space.largest)
    reporter.note(
        f"memory: {format_bytes(budget.memory_bytes)} a device, {slots} worker(s) on {len(executor.devices)} "
        f"device(s); a candidate needs {format_bytes(smallest.peak_bytes)} to {format_bytes(largest.peak_bytes)}; "
        f"{format_bytes(memory.idle_bytes)} of that are the process and the supernet"
    )
    if budget.time_seconds is not None:
        deadlines = Deadlines(budget)
        kept = deadlines.total_seconds - deadlines.candidates_seconds
        reporter.note(
            f"time: {format_seconds(deadlines.total_seconds)} in all sessions: supernet until "
            f"{format_seconds(deadlines.supernet_seconds)}, candidates until "
            f"{format_seconds(deadlines.candidates_seconds)}, {format_seconds(kept)} kept for finalists"
        )


def build_executor(
    setup: WorkerSetup, machine: ExecutionOptions, prepared: SearchContext, *, run_id: str, reporter: Reporter
) -> Executor:
    """Ray workers, or this process for 0 workers.

    Raises:
        ExecutionError: If there is no such cluster, or no node in it that can run workers.
    """
    config, memory = setup.config, prepared.memory
    if machine.worker_count == 0:
        from nas.execution.serial import SerialExecutor

        return SerialExecutor(setup)
    from nas.execution.ray.executor import RayExecutor  # Ray takes seconds to import; not every command needs it

    placement = Placement(
        worker_count=machine.worker_count,
        most_by_memory=config.budget.memory_bytes // memory.predict(prepared.default).peak_bytes,
        threads=config.threads if config.deterministic else None,
    )
    return RayExecutor(
        setup,
        placement=placement,
        address=machine.ray_address,
        run_id=run_id,
        cache_directory=machine.cache_directory,
        on_note=reporter.note,
    )
