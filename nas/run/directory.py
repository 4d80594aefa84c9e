"""Create, describe and open run directories."""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from nas.common.boundary import SMALL_FILE, reading, shown
from nas.common.errors import ConfigError, StudyError
from nas.common.files import check_writable, write_atomically
from nas.common.output import complain
from nas.common.yaml_files import read_yaml
from nas.config.load import parse_config
from nas.config.overrides import Overrides
from nas.config.places import RecordedPlaces, portable, without_places
from nas.config.schema import Config
from nas.config.section import AUTO
from nas.execution.worker_setup import FROZEN_FILES
from nas.search.metric_registry import METRICS
from nas.search.trial import STAGES
from nas.storage.backends.journal import JOURNAL, LOCK
from nas.storage.lease import LockFile
from nas.storage.reader import StudyReader
from nas.storage.study import Study
from nas.storage.urls import stored_url
from nas.storage.write_log import WRITE_LOG

CONFIG = "config.yaml"
"""The file that makes a directory a run directory; written once the study exists."""

ARMS = "arms"
"""The folder with the runs of the arms of a search that has several, and the key of its `config.yaml` for them."""

CONTENTS = "contents.json"
"""The file with the digest of every sample of train and validation, from which changed samples are named."""

INPUT = "input"
"""The folder with the data of a search that was started from Python with data in memory."""

FORMAT_VERSION = 3
"""The layout of run directories, counted up whenever an older program or file could not be understood."""

_PACKAGES = ("torch", "transformers", "optuna", "ray", "numpy")


@dataclass(frozen=True)
class Run:
    """The contents of a run directory's `config.yaml`.

    Args:
        config: The resolved configuration of the search.
        class_names: The class names in the order of the logits.
        contents: The digests of the data and of each part of the encoders; see `nas.data.contents.Contents.summary`.
        identity: The name of the run in a database and on other nodes.
        storage: The URL of the database that holds the study, as `storable_url` returns it; None for a journal.
        fixed: The paths that are recorded as they were written instead of relative to the run directory; see
            `nas.config.places.fixed_places`.
    """

    config: Config
    class_names: tuple[str, ...]
    contents: Mapping[str, str]
    identity: str
    storage: str | None
    fixed: Mapping[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return everything that scores depend on besides the content of data and encoders, as plain values."""
        identity = {"class_names": list(self.class_names), "contents": dict(self.contents)}
        return {**without_places(self.config.as_dict()), **identity}


def new_identity(name: str) -> str:
    """Return the identity of a new run: its name and the present time to the millisecond, `demo-2026-11-30-181205-042`.

    Args:
        name: The name of the search.
    """
    return f"{name}-{datetime.now():%Y-%m-%d-%H%M%S-%f}"[:-3]


def is_run(directory: Path) -> bool:
    """Return whether a directory holds a run."""
    return (directory / CONFIG).exists()


def read_run(directory: Path) -> Run:
    """Read the description of a run.

    Args:
        directory: The run directory.

    Raises:
        StudyError: If the directory holds no run, one of another format, or one whose database has no URL.
        ConfigError: If its configuration is damaged.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise StudyError(f"{directory}: holds no run; expected a file {CONFIG} in it")
    expected = "the file that `search` wrote"
    values = read_yaml(path, expected=expected, error=_damaged(path), max_bytes=SMALL_FILE)
    with reading(path, expected=expected, error=_damaged(path), problem="is damaged"):
        check_format(path, values)
        if ARMS in values:
            raise StudyError(
                f"{directory}: holds a search over several encoders or families; expected the run of one of them, a "
                f"folder in {directory / ARMS}"
            )
        search, class_names, contents = values["search"], tuple(values["class_names"]), dict(values["contents"])
        identity, storage = str(values["identity"]), values["storage"]
        if storage is not None and not isinstance(storage, str):
            raise ValueError(f"storage: expected the URL of a database or null, got {shown(storage)}")
        if not all(isinstance(name, str) for name in class_names):
            raise ValueError(f"class_names: expected a list of names, got {shown(values['class_names'])}")
        search, fixed = RecordedPlaces(directory, Path(values["directory"])).resolve(with_added_keys(search))
    if storage is not None:
        stored_url(storage, directory)  # refuses what is no URL, before anything uses it
    config = parse_config(search, source=str(path), base_directory=directory.resolve())
    return Run(config, class_names, contents, identity, storage, fixed)


def with_added_keys(search: dict[str, Any]) -> dict[str, Any]:
    """Return the recorded search file of a run with the keys that older runs lack, as they were for all of these."""
    return {**search, "recipe": {"precision": "float32", **search["recipe"]}}


def _damaged(path: Path) -> Callable[[str], ConfigError]:
    """Return the function that builds the error for a damaged description from its message."""
    return lambda message: ConfigError(str(path), [message.removeprefix(f"{path}: ")])


def place_run(run: Run, overrides: Overrides) -> Run:
    """Return a run with the places of its data and encoders that the command line gives.

    Args:
        run: The run.
        overrides: The values of the command line; all but its places are applied as well.

    Raises:
        ConfigError: If the result is not a valid configuration, or a given place does not exist.
    """
    if overrides.precision == AUTO:  # that of the run
        overrides = replace(overrides, precision=None)
    config = overrides.apply(run.config)
    overrides.check_places(config)
    return replace(run, config=config, fixed=overrides.fixed_places(run.config, run.fixed))


def check_format(path: Path, values: dict[str, Any]) -> None:
    """Check that this version of the program understands the description of a run.

    Args:
        path: The file.
        values: Its content.

    Raises:
        StudyError: If it does not.
    """
    version = values.get("format_version", 1)
    if version != FORMAT_VERSION:
        raise StudyError(
            f"{path}: run directory of format {version}; expected format {FORMAT_VERSION}: another version of this "
            "program wrote it; search in a new directory (--run-dir)"
        )


def write_run(directory: Path, run: Run) -> None:
    """Write the description of a run, which makes the directory a run directory.

    Args:
        directory: The run directory, which exists.
        run: The description.

    Raises:
        OSError: If the file cannot be written; an old one is then untouched.
    """
    values = {
        "format_version": FORMAT_VERSION,
        "search": portable(run.config.as_dict(), run.fixed, directory),
        "directory": os.path.abspath(directory),
        "class_names": list(run.class_names),
        "contents": dict(run.contents),
        "identity": run.identity,
        "storage": run.storage,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    }
    write_atomically(directory / CONFIG, yaml.safe_dump(values, sort_keys=False).encode())


def open_study(
    directory: Path,
    run: Run,
    *,
    storage: str | None = None,
    note: Callable[[str], object] = lambda text: None,
    accepts_changes: bool = False,
) -> Study:
    """Open the study of a run for the one driver that may write to it.

    Args:
        directory: The run directory.
        run: The description of the run.
        storage: The database URL in place of the recorded one: with the password, or another place of the database.
        note: Callback that receives messages about long operations and accepted changes.
        accepts_changes: Whether to accept a study that lost or changed records; see `Study`.

    Raises:
        StudyError: If another driver has the study open, it is damaged or missing, it lost records, or it was started
            with another configuration.
    """
    study = Study(
        directory,
        run.config.space,
        name=run.identity,
        storage=_storage_of(directory, run, storage),
        config=run.settings(),
        note=note,
        must_exist=is_run(directory),
        accepts_changes=accepts_changes,
    )
    try:
        study.name_scores({stage: _score_title(run.config.search.score_name(stage)) for stage in STAGES})
    except BaseException:
        study.close()
        raise
    return study


def _score_title(metric: str) -> str:
    """Return the name of the score that a metric gives: studies are maximized."""
    return metric if METRICS[metric].higher_is_better else f"negative {metric}"


def read_study(
    directory: Path,
    run: Run,
    *,
    storage: str | None = None,
    warn: Callable[[str], object] = lambda text: complain(f"warning: {text}"),
) -> StudyReader:
    """Read the study of a run, without a lock and without write access.

    Args:
        directory: The run directory.
        run: The description of the run.
        storage: The database URL in place of the recorded one; see `open_study`.
        warn: Callback that receives a line about everything that the study has lost.

    Raises:
        StudyError: If it is missing or damaged, and the run has no copy of it.
    """
    return StudyReader(
        directory,
        run.config.space,
        name=run.identity,
        storage=_storage_of(directory, run, storage),
        config=run.settings(),
        warn=warn,
        needs_storage=storage is not None,
    )


def _storage_of(directory: Path, run: Run, storage: str | None) -> str | None:
    return storage if storage is not None or run.storage is None else stored_url(run.storage, directory)


def check_new_directory(directory: Path) -> None:
    """Check that a new run can be written to a directory, before hours of work are spent on it.

    Args:
        directory: The directory, which may exist.

    Raises:
        StudyError: If it holds other files.
        OSError: If it cannot be created or written.
    """
    if directory.exists() and any(not _is_leftover(path) for path in directory.iterdir()):
        raise StudyError(f"{directory}: is not empty and holds no run; expected an empty or new directory (--run-dir)")
    check_writable(directory)


def _is_leftover(path: Path) -> bool:
    """Return whether a file may be left by a start that was killed or whose budget was refused."""
    written = (CONFIG, CONTENTS, WRITE_LOG, INPUT, *FROZEN_FILES)
    return path.name in (LOCK, CONTENTS, WRITE_LOG, INPUT, *FROZEN_FILES) or path.name.startswith(
        (JOURNAL, *(f".{name}." for name in written))
    )


def create_directory(directory: Path) -> None:
    """Create the directory of a new run, without the journal that an earlier, failed start may have left.

    Args:
        directory: The directory, which `check_new_directory` has accepted.

    Raises:
        StudyError: If another process is starting a run in it.
        OSError: If it cannot be created.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(LockFile(directory / LOCK)):
        if not is_run(directory):
            for path in (*directory.glob(f"{JOURNAL}*"), *directory.glob(WRITE_LOG)):
                path.unlink()
