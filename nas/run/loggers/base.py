"""Open the loggers of a run, which `--log-to` names, and remember them for later sessions."""

import importlib.util
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nas.common.boundary import read_json, reading
from nas.common.errors import ArgumentError, StudyError
from nas.common.files import write_atomically
from nas.common.registry import load_object
from nas.run.callbacks import Callback
from nas.run.loggers.names import LOGGERS

LOGGERS_FILE = "loggers.json"
"""The file of a run directory with the names of its loggers."""

_CLASSES: Mapping[str, str] = {
    "tensorboard": "nas.run.loggers.tensorboard:TensorBoardLogger",
    "mlflow": "nas.run.loggers.mlflow:MLflowLogger",
    "wandb": "nas.run.loggers.wandb:WandbLogger",
}
_PACKAGES: Mapping[str, str] = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny", "wandb": "wandb"}
"""What pip calls the library of each logger, whose name is that of its module."""


class Logger(Callback):
    """A callback that writes to an experiment tracker. Created with the run directory."""

    @abstractmethod
    def close(self) -> None:
        """Write everything and close."""


def check_loggers(names: Sequence[str]) -> None:
    """Check that the libraries of loggers are installed.

    Args:
        names: The names of the loggers.

    Raises:
        ArgumentError: If one is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ArgumentError(
                f"--log-to {name}: {_PACKAGES[name]} is not installed; run pip install 'pmf-nas[loggers]', or pip "
                f"install {_PACKAGES[name]}"
            )


@contextmanager
def open_loggers(names: Sequence[str], directory: Path) -> Iterator[list[Callback]]:
    """Open the loggers of a session, and close them when the block ends.

    Args:
        names: The names that the session adds to those of earlier sessions.
        directory: The run directory.

    Yields:
        The loggers.

    Raises:
        ArgumentError: If the library of one is not installed.
        StudyError: If the record of earlier loggers is damaged.
        OSError: If it cannot be written.
    """
    known = recorded_loggers(directory)
    wanted = [*known, *(name for name in LOGGERS if name in names and name not in known)]
    check_loggers(wanted)
    if wanted != known:
        write_atomically(directory / LOGGERS_FILE, json.dumps({"loggers": wanted}).encode() + b"\n")
    with ExitStack() as closing:
        loggers: list[Callback] = []
        for name in wanted:
            build: Callable[[Path], Logger] = load_object(_CLASSES[name])
            logger = build(directory)
            closing.callback(logger.close)
            loggers.append(logger)
        yield loggers


def recorded_loggers(directory: Path) -> list[str]:
    """Return the names of the loggers of a run, in the order in which they were added.

    Args:
        directory: The run directory.

    Raises:
        StudyError: If their record is damaged.
    """
    path = directory / LOGGERS_FILE
    if not path.exists():
        return []
    expected = "the names of the loggers of a run"
    with reading(path, expected=expected, error=StudyError, problem="is damaged"):
        names = read_json(path, expected=expected, error=StudyError)["loggers"]
        if not isinstance(names, list) or not set(names) <= set(LOGGERS):
            raise ValueError(f"expected some of {', '.join(LOGGERS)}, got {names}")
    return names
