"""Values of the command line that replace those of the search file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.config.load import parse_config
from nas.config.schema import Config
from nas.search.space import Architecture


@dataclass(frozen=True)
class Overrides:
    """Values that replace those of a configuration; None keeps the value of the file.

    Args:
        time_seconds: The time budget. If it or `trials` is given, both replace the time and the trials of the file.
        trials: The budget in trials.
        memory_bytes: The memory budget per device.
        strategy: The search strategy.
        seed: The seed of the search.
        deterministic: Whether the result depends on the configuration only.
        warm_start: The directory of an earlier run whose best architectures are scored first. `nas.run` reads them and
            passes them to `apply`.
    """

    time_seconds: float | None = None
    trials: int | None = None
    memory_bytes: int | None = None
    strategy: str | None = None
    seed: int | None = None
    deterministic: bool | None = None
    warm_start: Path | None = None

    def apply(self, config: Config, initial_architectures: Sequence[Architecture] = ()) -> Config:
        """Return the configuration with these values.

        Args:
            config: The configuration of the search file.
            initial_architectures: Architectures to score after those that the file names.

        Raises:
            ConfigError: If the result is not a valid configuration; lists every problem.
        """
        values = config.as_dict()
        budget, search = values["budget"], values["search"]
        if self.time_seconds is not None or self.trials is not None:
            budget["time"] = None if self.time_seconds is None else f"{self.time_seconds:f}s"
            budget["trials"] = self.trials
        if self.memory_bytes is not None:
            budget["memory"] = f"{self.memory_bytes}B"
        if self.strategy is not None:
            search["strategy"] = self.strategy
        search["initial_architectures"] += [architecture.as_dict() for architecture in initial_architectures]
        if self.seed is not None:
            values["seed"] = self.seed
        if self.deterministic is not None:
            values["deterministic"] = self.deterministic
        return parse_config(values, source="the command line", base_directory=Path.cwd())
