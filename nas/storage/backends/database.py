"""Storage backend: any database that Optuna can use, shared by the studies of many runs."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from nas.common.errors import StudyError
from nas.search.trial import STAGES
from nas.storage.backends.base import StudyStorage, error_reason, find_or_create_study
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

    Raises:
        StudyError: If the database cannot be reached or used, or another driver has the run.
    """

    def __init__(self, directory: Path, url: str | None, name: str, note: Callable[[str], object]) -> None:
        del directory
        if url is None:
            raise ValueError("a database needs a URL")
        shown = redacted_url(url)
        self.where = f"--storage {shown}"
        self._database = self.storage = _connect(url, shown)
        with ExitStack() as undo:
            undo.callback(self._disconnect)
            try:
                first = find_or_create_study(self.storage, name, STAGES[0])
                record = _StudyAttribute(self._database, first)
                self.lease = Lease(record=record, study=f"{self.where}, run {name}", note=note)
                self.lease.take()
                undo.callback(self.lease.release)
                self.study_ids = {stage: find_or_create_study(self.storage, name, stage) for stage in STAGES}
            except (OptunaError, SQLAlchemyError) as error:
                raise StudyError(f"{self.where}: cannot be used: {error_reason(error)}") from error
            self._close = undo.pop_all().close

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
    with _explained(shown):
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
        raise StudyError(f"--storage {shown}: cannot be used: {problem}; expected a file in a writable directory")


def _with_driver(url: str) -> str:
    # SQLAlchemy 2.0 and 2.1 have different default drivers; this project installs psycopg2.
    return url.replace("postgresql", "postgresql+psycopg2", 1) if url.startswith("postgresql:") else url


def _connect(url: str, shown: str) -> RDBStorage:
    with _explained(shown):
        url = _with_driver(url)
        return RDBStorage(url, engine_kwargs=_engine_arguments(url))


@contextmanager
def _explained(shown: str) -> Iterator[None]:
    """Turn the errors of the libraries of databases into one.

    Raises:
        StudyError: If the body raises one.
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
