"""Storage backend: any database that Optuna can use, shared by the studies of many runs."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from nas.common.boundary import check_regular_file
from nas.common.errors import StudyError
from nas.search.trial import STAGES
from nas.storage.backends.base import (
    Access,
    StudyMissing,
    StudyStorage,
    error_reason,
    find_or_create_study,
    find_studies,
)
from nas.storage.lease import Holder, Lease, LeaseRecord, has_process_ended
from nas.storage.urls import EXAMPLES, redacted_url

HOLDER_ATTRIBUTE = "driver"
"""The attribute of an Optuna study that holds the record of the lease."""

_CONNECT_SECONDS = 10
_SQLITE_SECONDS = 60.0  # the time that a writer waits for another one, for instance the dashboard


class DatabaseStorage(StudyStorage):
    """A database.

    Args:
        directory: The run directory, which the database does not use.
        url: The URL in the form of Optuna and SQLAlchemy.
        name: The name of the run, which must be unique in the database.
        note: Callback that receives a line of text before a long operation.
        access: Whether tables and study are created, must exist, or are only read.

    Raises:
        StudyError: If the database cannot be reached or used, the study is missing, or another driver has the run.
    """

    def __init__(
        self, directory: Path, url: str | None, name: str, note: Callable[[str], object], access: Access
    ) -> None:
        del directory
        if url is None:
            raise ValueError("a database needs a URL")
        shown = redacted_url(url)
        self.where = f"--storage {shown}"
        if access != "create":
            url = _existing(url, self.where, name, is_read_only=access == "read")
        self._database = self.storage = _connect(url, shown, creates=access == "create")
        with ExitStack() as undo:
            undo.callback(self._disconnect)
            try:
                self._open(name, note, access, undo)
            except (OptunaError, SQLAlchemyError) as error:
                raise StudyError(f"{self.where}: cannot be used: {error_reason(error)}") from error
            self._close = undo.pop_all().close

    def _open(self, name: str, note: Callable[[str], object], access: Access, undo: ExitStack) -> None:
        """Find or create the studies of the run, and take its lease unless it is only read."""
        self.lease = None
        if access == "create":
            first = find_or_create_study(self.storage, name, STAGES[0])
        else:
            self.study_ids = find_studies(self.storage, name, self.where)
            first = self.study_ids[STAGES[0]]
        if access != "read":
            record = _StudyAttribute(self._database, first)
            self.lease = Lease(record=record, study=f"{self.where}, run {name}", note=note)
            self.lease.take()
            undo.callback(self.lease.release)
        if access == "create":
            self.study_ids = {stage: find_or_create_study(self.storage, name, stage) for stage in STAGES}

    def close(self) -> None:
        self._close()

    def _disconnect(self) -> None:
        self._database.remove_session()
        self._database.engine.dispose()


class _StudyAttribute(LeaseRecord):
    """The record of a lease as an attribute of an Optuna study."""

    is_exclusive = False

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        self._storage = storage
        self._study_id = study_id

    def read(self) -> Holder | None:
        return Holder.from_dict(self._storage.get_study_user_attrs(self._study_id).get(HOLDER_ATTRIBUTE))

    def write(self, holder: Holder | None) -> None:
        value = None if holder is None else asdict(holder)
        self._storage.set_study_user_attr(self._study_id, HOLDER_ATTRIBUTE, value)

    def has_ended(self, holder: Holder) -> bool | None:
        return has_process_ended(holder)

    def close_thread(self) -> None:
        self._storage.remove_session()


def check_database(url: str) -> None:
    """Check that a database can be reached and written, without creating or changing anything.

    Args:
        url: Its URL.

    Raises:
        StudyError: If it cannot.
    """
    shown = redacted_url(url)
    with _connection_errors(shown):
        url = _with_driver(url)
        arguments = _engine_arguments(url)
        parsed = sqlalchemy.make_url(url)
        parsed.get_dialect()
        if parsed.get_backend_name() == "sqlite":
            _check_file(Path(str(parsed.database)), shown)
            return
        engine = sqlalchemy.create_engine(url, **arguments)
        try:
            engine.connect().close()
        finally:
            engine.dispose()


def _check_file(path: Path, shown: str) -> None:
    place = path if path.exists() else path.parent
    problem = None
    if not path.exists() and not place.is_dir():
        problem = f"{place} is not a directory" if place.exists() else f"{place} does not exist"
    elif path.exists() and not path.is_file():
        problem = "is not a file"
    elif not os.access(place, os.W_OK):
        problem = f"{place} cannot be written"
    if problem is not None:
        raise StudyError(
            f"--storage {shown}: cannot be used: {problem}; expected a file in a writable directory (--storage names "
            "the present place of a database that was moved)"
        )


def _existing(url: str, where: str, name: str, *, is_read_only: bool) -> str:
    """Return a URL that creates no database, after checking that it leads to one with Optuna's tables.

    Args:
        url: The URL.
        where: The name of the storage in messages.
        name: The name of the run.
        is_read_only: Whether nothing is written.

    Raises:
        StudyMissing: If the file, or the tables, are missing.
        StudyError: If the database cannot be used.
    """
    with _connection_errors(redacted_url(url)):
        parsed = sqlalchemy.make_url(url)
        if parsed.get_backend_name() == "sqlite" and "uri" not in parsed.query:
            _engine_arguments(url)  # checks that it names a file
            path = Path(str(parsed.database)).absolute()
            if not path.exists():
                raise StudyMissing(where, name)
            check_regular_file(path, expected="the SQLite database of a study", error=StudyError)
            # A reader must finish a commit that a kill has interrupted, if it can.
            mode = "ro" if is_read_only and not _can_write(path) else "rw"
            query = {**parsed.query, "uri": "true", "mode": mode}
            parsed = parsed.set(database=f"file:{quote(str(path))}", query=query)
        url = parsed.render_as_string(hide_password=False)
        engine = sqlalchemy.create_engine(_with_driver(url), **_engine_arguments(url))
        try:
            if not sqlalchemy.inspect(engine).has_table("studies"):
                raise StudyMissing(where, name)
        finally:
            engine.dispose()
    return url


def _can_write(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _with_driver(url: str) -> str:
    """Return a URL with the driver that this project installs for PostgreSQL; SQLAlchemy 2.0 and 2.1 have others."""
    return url.replace("postgresql", "postgresql+psycopg2", 1) if url.startswith("postgresql:") else url


def _connect(url: str, shown: str, *, creates: bool) -> RDBStorage:
    url = _with_driver(url)
    with _connection_errors(shown):
        return RDBStorage(url, engine_kwargs=_engine_arguments(url), skip_table_creation=not creates)


@contextmanager
def _connection_errors(shown: str) -> Iterator[None]:
    """Turn the errors of a connection into `StudyError`.

    Args:
        shown: The URL without its password.
    """
    try:
        yield
    except NoSuchModuleError as error:
        raise StudyError(f"--storage {shown}: unknown kind of database; expected for example {EXAMPLES}") from error
    except ImportError as error:
        raise StudyError(
            f"--storage {shown}: the driver of the database is not installed ({error.__cause__ or error}); for "
            "PostgreSQL run pip install 'pmf-nas[postgresql]'"
        ) from error
    except (ArgumentError, ValueError, KeyError, IndexError) as error:
        raise StudyError(f"--storage {shown}: not the URL of a database; expected for example {EXAMPLES}") from error
    except (SQLAlchemyError, OptunaError, RuntimeError) as error:
        raise StudyError(f"--storage {shown}: cannot be used: {error_reason(error)}") from error


def _engine_arguments(url: str) -> dict[str, Any]:
    parsed = sqlalchemy.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in {None, "", ":memory:"}:
            raise StudyError(f"--storage {url}: stores nothing; expected a file, for example sqlite:///study.db")
        return {"connect_args": {"timeout": _SQLITE_SECONDS}}
    # After a restart of the server, or an idle connection that it has closed, the search connects again.
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if parsed.drivername == "postgresql+psycopg2" and "connect_timeout" not in parsed.query:
        arguments["connect_args"] = {"connect_timeout": _CONNECT_SECONDS}
    return arguments
