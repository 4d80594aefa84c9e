"""The run of one arm: check it, try it, search it."""

from dataclasses import replace
from pathlib import Path

from nas.common.errors import BudgetError
from nas.common.progress import Reporter
from nas.common.units import format_bytes
from nas.config.encoders_schema import EncodersConfig
from nas.config.load import Arm
from nas.config.schema import BudgetConfig, Config
from nas.memory.prediction import MemoryModel
from nas.run.arms.directory import arm_directory
from nas.run.checks import check_memory
from nas.run.defaults import complete
from nas.run.directory import check_new_directory, is_run, read_run
from nas.run.executors import ExecutionOptions
from nas.run.phases.arm_trial import ArmTrial
from nas.run.prepare import SearchContext, predict_memory
from nas.run.session import Session, create_session
from nas.run.time_budget import TimeAccount, time_file
from nas.search.space import MODALITIES

_LEAST_SECONDS = 1e-3
"""The time budget of an arm whose time is over: 0 would be none."""


class ArmRun:
    """The run of one arm, an ordinary run directory that is made when the arm is reached.

    Args:
        directory: The directory of the search over arms.
        arm: The arm.
        options: The workers, the cluster and the storage of the study.
        reporter: The receiver of messages.
        source: The name of the search file, for messages.
    """

    def __init__(
        self, directory: Path, arm: Arm, options: ExecutionOptions, reporter: Reporter, *, source: str
    ) -> None:
        self.name = arm.name
        self.directory = arm_directory(directory, arm.name)
        self._arm = arm
        self._options = options
        self._reporter = reporter
        self._source = source

    @property
    def exists(self) -> bool:
        """Whether the arm was reached."""
        return is_run(self.directory)

    @property
    def spent_seconds(self) -> float:
        """The running time that the arm has used of the budget.

        Raises:
            StudyError: If its record is damaged.
        """
        return TimeAccount(time_file(self.directory)).spent_seconds

    @property
    def space_title(self) -> str:
        """The name of the fusion family for people."""
        return self._arm.config.space.architecture_class.title

    def check(self) -> None:
        """Check that the encoders can be loaded, the space fits them, and a training fits the memory budget.

        Nothing is computed from the data but the lengths of the texts.

        Raises:
            EncoderError: If an encoder cannot be loaded.
            ConfigError: If the space does not fit the encoders.
            BudgetError: If no training of an architecture, or none of the supernet, fits the memory budget.
            DataError: If the data cannot be used.
        """
        config = self._new_config()
        memory, _ = predict_memory(config, source=self._source, device=self._options.workers_device)
        check_memory(config, memory)
        _check_supernet(config, memory)

    def try_default(self, seeds: int, *, seconds: float) -> tuple[ArmTrial, SearchContext]:
        """Train the default of the arm with some seeds, and solve the linear classifier.

        Args:
            seeds: The number of seeds.
            seconds: The time for it; infinite without a time budget.

        Returns:
            The results so far, and what the search of the arm is prepared with.

        Raises:
            NasError: If the arm cannot be used, or training fails the same way repeatedly.
            Interrupted: If the user has interrupted the search.
        """
        session, prepared = self._session(self._arm.config.budget.time_seconds)
        return session.try_default(seeds, seconds=seconds, prepared=prepared)

    def search(self, time_seconds: float | None) -> None:
        """Search the arm, then export and report its best model.

        Args:
            time_seconds: The time budget of the arm, what it has used included; None without one.

        Raises:
            NasError: If the arm cannot be used, or training fails the same way repeatedly.
            Interrupted: If the user has interrupted the search.
        """
        session, prepared = self._session(time_seconds)
        if prepared is None:
            session.resume(concludes=True)
        else:
            session.search(prepared, concludes=True)

    def config(self) -> Config:
        """Return the configuration of the run, which exists."""
        return read_run(self.directory).config

    def _session(self, time_seconds: float | None) -> tuple[Session, SearchContext | None]:
        """Return a session of the run, and what its search is prepared with if it is new."""
        if self.exists:
            run = read_run(self.directory)
            config = run.config.replace(
                data=self._arm.config.data,
                encoders=self._encoders(run.config),
                search=run.config.search.replace(distill=self._arm.config.search.distill),
                budget=self._budget(run.config.budget, time_seconds),
            )
            placed = replace(run, config=config, fixed=self._arm.fixed)
            return Session(self.directory, placed, self._options, self._reporter), None
        check_new_directory(self.directory)
        config = self._new_config(self._reporter)
        config = config.replace(budget=self._budget(config.budget, time_seconds))
        return create_session(
            config, self.directory, self._options, self._reporter, source=self._source, fixed=self._arm.fixed
        )

    def _new_config(self, reporter: Reporter | None = None) -> Config:
        return complete(self._arm.config, source=self._source, reporter=reporter, device=self._options.workers_device)

    def _encoders(self, known: Config) -> EncodersConfig:
        """Return the present places of the encoders; that of one that the program chose is in the run."""
        draft = self._arm.config
        chosen = {name: getattr(known.encoders, name) for name in MODALITIES if f"encoders.{name}" in draft.automatic}
        return draft.encoders.replace(**chosen)

    def _budget(self, known: BudgetConfig, time_seconds: float | None) -> BudgetConfig:
        """Return the budget of the arm: that of all arms with its own time, and the memory that the program chose."""
        draft = self._arm.config
        is_chosen = "budget.memory" in draft.automatic
        return draft.budget.replace(
            time_seconds=None if time_seconds is None else max(time_seconds, _LEAST_SECONDS),
            memory_bytes=known.memory_bytes if is_chosen else draft.budget.memory_bytes,
        )


def _check_supernet(config: Config, memory: MemoryModel) -> None:
    """Check that a training step of the supernet fits the memory budget.

    Raises:
        BudgetError: If none does.
    """
    smallest, budget = config.space.smallest, config.budget
    parts = config.recipe.batch_size if budget.oversized == "accumulate" else 1
    needed = memory.predict_supernet(smallest, micro_batches=parts).peak_bytes
    if needed > budget.memory_bytes:
        raise BudgetError(
            f"memory budget {format_bytes(budget.memory_bytes)}: no step of the supernet fits; with the smallest "
            f"architecture ({smallest}) it needs {format_bytes(needed)}",
            needed_bytes=needed,
        )
