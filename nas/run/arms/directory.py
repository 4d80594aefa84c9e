"""Create, describe and open the directory of a search over arms.

Its `config.yaml` has the search file of every arm. The runs of the arms are in the folder `arms`, each an ordinary run
directory that exists once the arm was reached.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from nas.common.boundary import SMALL_FILE, reading
from nas.common.errors import ArgumentError, ConfigError, StudyError
from nas.common.files import write_atomically
from nas.common.precision import Precision
from nas.common.yaml_files import read_yaml
from nas.config.load import Arm, parse_config
from nas.config.overrides import Overrides
from nas.config.places import RecordedPlaces, portable
from nas.run.directory import ARMS, CONFIG, FORMAT_VERSION, check_format, with_added_keys

_EXPECTED = "the file that `search` wrote"


@dataclass(frozen=True)
class ArmsRun:
    """The contents of the `config.yaml` of a search over arms.

    Args:
        arms: The arms, in the order of the search file.
    """

    arms: tuple[Arm, ...]

    @property
    def names(self) -> list[str]:
        """The names of the arms."""
        return [arm.name for arm in self.arms]


def arm_directory(directory: Path, name: str) -> Path:
    """Return the run directory of an arm.

    Args:
        directory: The directory of the search over arms.
        name: The name of the arm.
    """
    return directory / ARMS / name


def is_arms_run(directory: Path) -> bool:
    """Return whether a directory holds a search over arms.

    Args:
        directory: The directory, which may hold anything.

    Raises:
        ConfigError: If its description is damaged.
    """
    path = directory / CONFIG
    return path.is_file() and ARMS in _read(path)


def read_arms_run(directory: Path) -> ArmsRun:
    """Read the description of a search over arms.

    Args:
        directory: Its directory.

    Raises:
        StudyError: If the directory holds no such search, or one of another format.
        ConfigError: If the description is damaged.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise StudyError(f"{directory}: holds no run; expected a file {CONFIG} in it")
    values = _read(path)
    with reading(path, expected=_EXPECTED, error=_damaged(path), problem="is damaged"):
        check_format(path, values)
        if ARMS not in values:
            raise StudyError(f"{directory}: holds a search of one arm; expected a search over several")
        places = RecordedPlaces(directory, Path(values["directory"]))
        found = [(str(entry["name"]), *places.resolve(with_added_keys(entry["search"]))) for entry in values[ARMS]]
        if not found or any(os.sep in name or name in ("", os.curdir, os.pardir) for name, _, _ in found):
            raise ValueError(f"{ARMS}: expected arms with the names of folders")
    arms = [
        Arm(name, parse_config(search, source=str(path), base_directory=directory.resolve()), fixed)
        for name, search, fixed in found
    ]
    return ArmsRun(tuple(arms))


def write_arms_run(directory: Path, run: ArmsRun) -> None:
    """Write the description of a search over arms.

    Args:
        directory: Its directory, which exists.
        run: The description.

    Raises:
        OSError: If the file cannot be written; an old one is then untouched.
    """
    values = {
        "format_version": FORMAT_VERSION,
        ARMS: [{"name": arm.name, "search": portable(arm.config.as_dict(), arm.fixed, directory)} for arm in run.arms],
        "directory": os.path.abspath(directory),
    }
    write_atomically(directory / CONFIG, yaml.safe_dump(values, sort_keys=False).encode())


def with_overrides(arms: Sequence[Arm], overrides: Overrides) -> ArmsRun:
    """Return the arms with the values of the command line.

    Args:
        arms: The arms.
        overrides: The values of the command line.

    Raises:
        ArgumentError: If a value cannot be that of several arms.
        ConfigError: If the result is not a valid configuration.
    """
    if overrides.warm_start is not None:
        raise ArgumentError(f"--warm-start {overrides.warm_start}: expected a search file with one arm")
    for modality in ("image", "text"):
        given = getattr(overrides, f"{modality}_encoder")
        names = {getattr(arm.config.encoders, modality) for arm in arms}
        if given is not None and len(names) > 1:
            raise ArgumentError(
                f"--{modality}-encoder {given}: expected a search with one {modality} encoder, got {len(names)}"
            )
    return ArmsRun(
        tuple(Arm(arm.name, overrides.apply(arm.config), overrides.fixed_places(arm.config, arm.fixed)) for arm in arms)
    )


def with_precision(run: ArmsRun, precision: Precision) -> ArmsRun:
    """Return the arms with a precision where the search file leaves it to the program: one for all, in all sessions.

    Args:
        run: The arms.
        precision: The precision.
    """
    chosen = Overrides(precision=precision)
    return ArmsRun(
        tuple(
            replace(arm, config=chosen.apply(arm.config)) if "recipe.precision" in arm.config.automatic else arm
            for arm in run.arms
        )
    )


def _read(path: Path) -> dict[str, Any]:
    values = read_yaml(path, expected=_EXPECTED, error=_damaged(path), max_bytes=SMALL_FILE)
    return values if isinstance(values, dict) else {}


def _damaged(path: Path) -> Callable[[str], ConfigError]:
    return lambda message: ConfigError(str(path), [message.removeprefix(f"{path}: ")])
