"""Values of the command line that replace those of the search file."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.common.units import exact_seconds
from nas.config.load import parse_config
from nas.config.places import check_places
from nas.config.reader_registry import READERS
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
        data: The manifest or folder of the data set, where it is now.
        images: The folder or ZIP file of the images.
        precision: The precision of training and evaluation, or `auto`.
        image_encoder: The image encoder.
        text_encoder: The text encoder.
    """

    time_seconds: float | None = None
    trials: int | None = None
    memory_bytes: int | None = None
    strategy: str | None = None
    seed: int | None = None
    deterministic: bool | None = None
    warm_start: Path | None = None
    precision: str | None = None
    data: str | None = None
    images: str | None = None
    image_encoder: str | None = None
    text_encoder: str | None = None

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
            budget["time"] = None if self.time_seconds is None else exact_seconds(self.time_seconds)
            budget["trials"] = self.trials
        if self.memory_bytes is not None:
            budget["memory"] = f"{self.memory_bytes}B"
        if self.strategy is not None:
            search["strategy"] = self.strategy
        search["initial_architectures"] += [architecture.as_dict() for architecture in initial_architectures]
        if self.seed is not None:
            values["seed"] = self.seed
        if self.precision is not None:
            values["recipe"]["precision"] = self.precision
        if self.deterministic is not None:
            values["deterministic"] = self.deterministic
        for key, path in self._places(config).items():
            section, _, name = key.partition(".")
            values[section][name] = path
        return parse_config(values, source="the command line", base_directory=Path.cwd())

    def check_places(self, config: Config) -> None:
        """Check that the given paths lead somewhere.

        Args:
            config: The configuration to which they were applied.

        Raises:
            ConfigError: If one does not; names every one by its option.
        """
        keys = self._places(config).keys()
        given = keys if self.images is not None else keys - {"data.images"}
        check_places(config, "the command line", among=given)

    def fixed_places(self, config: Config, known: Mapping[str, str]) -> dict[str, str]:
        """Return the absolute paths of a configuration as written, with those of the command line.

        Args:
            config: The configuration before these values are applied.
            known: Its absolute paths; see `nas.config.places.fixed_places`.
        """
        given = self._places(config)
        kept = {key: text for key, text in known.items() if key not in given}
        return kept | {key: text for key, text in given.items() if os.path.isabs(os.path.expanduser(text))}

    def _places(self, config: Config) -> dict[str, str]:
        """Return the given paths by their dotted key."""
        data = config.data
        images = self.images or self._moved_images(config)
        given = {
            "data.manifest" if READERS[data.reader].uses_manifest else "data.folder": self.data,
            "data.images": images,
            "encoders.image": self.image_encoder,
            "encoders.text": self.text_encoder,
        }
        return {key: text for key, text in given.items() if text is not None}

    def _moved_images(self, config: Config) -> str | None:
        """Return the images of a manifest that was moved with the folder that both are in; None if they stay."""
        before, images = config.data.manifest, config.data.images
        if self.data is None or before is None or images is None:
            return None
        place = os.path.relpath(images, os.path.dirname(before))
        if place.startswith(os.pardir):
            return None
        moved = os.path.normpath(os.path.join(os.path.dirname(self.data), place))
        return moved if os.path.exists(os.path.expanduser(moved)) or not os.path.exists(images) else None
