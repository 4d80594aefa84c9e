"""Where a study's trials lie: Optuna's journal file in the run directory, or any database that Optuna can use."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.study import StudyDirection
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from nas.common.errors import StudyError
from nas.search.trial import STAGES, Stage
from nas.storage.journal import Journal, damaged_line
from nas.storage.lease import Holder, Lease, LockFile, Place, is_process_gone

JOURNAL = "journal.log"
LOCK = "driver.lock"

_HOLDER = "driver"
_CONNECT_SECONDS = 10
_SQLITE_SECONDS = 60.0  # for a writer to wait for another, as the dashboard can be one
_EXAMPLES = "sqlite:///study.db or postgresql://user:password@host/database"


class Store(ABC):
    """An open storage with the lease of the one driver that may write to it.

    Args:
        where: Names it in messages.
        storage: Optuna's view of it.
        lease: Of this driver.
        was_abandoned: Whether the last driver died instead of closing it.
        study_ids: Of the Optuna studies, one a stage.
    """

    where: str
    storage: BaseStorage
    lease: Lease
    was_abandoned: bool
    study_ids: dict[Stage, int]

    @contextmanager
    def writing(self) -> Iterator[BaseStorage]:
        """The storage, to write to it; what was written is durable when the block ends.

        Raises:
            StudyError: If another driver has taken the study over, or the storage cannot be written.
            OSError: If the journal cannot be written; names it.
        """
        self.lease.check()
        try:
            yield self.storage
        except KeyError as error:
            raise StudyError(f"{self.where}: the study was deleted while the search was running") from error
        except (OptunaError, SQLAlchemyError) as error:
            raise StudyError(f"{self.where}: cannot be used: {_reason(error)}") from error

    def together(self) -> AbstractContextManager[None]:
        """Changes to existing trials that are made inside are kept or lost as one, where the storage can do so.

        In any other storage they are kept one after another, so the last one must be what makes the others count.
        """
        return nullcontext()

    @abstractmethod
    def close(self) -> None:
        """Let another driver open the study."""


class JournalStore(Store):
    """The journal file in a run directory.

    Args:
        directory: Of the run; must exist.
        name: Of the run.
        note: Told what takes long.

    Raises:
        StudyError: If another driver has it, it is damaged, or it belongs to a run of another name.
        OSError: If it cannot be read or written.
    """

    def __init__(self, directory: Path, name: str, note: Callable[[str], object]) -> None:
        path = directory / JOURNAL
        self.where = str(path)
        with ExitStack() as undo:
            place = LockFile(directory / LOCK)
            undo.callback(place.close)
            self.lease = Lease(place=place, study=str(directory), note=note)
            self.was_abandoned = self.lease.take()
            undo.callback(self.lease.release)
            self._journal = Journal(path)
            try:
                self.storage = JournalStorage(self._journal)
            except Exception as error:  # Optuna's replay of a record that it cannot understand has many
                reason = f"not a record of Optuna: {type(error).__name__} {error}"
                raise damaged_line(path, self._journal.read_count, reason) from error
            names = {study.study_name for study in self.storage.get_all_studies()}
            if names and _study_name(name, STAGES[0]) not in names:
                others = sorted({other.rpartition("/")[0] for other in names})
                raise StudyError(f"{path}: belongs to the run {', '.join(others)!r}, not to {name!r}")
            with self.writing() as storage:
                self.study_ids = {stage: _study_id(storage, name, stage) for stage in STAGES}
            self._close = undo.pop_all().close

    def together(self) -> AbstractContextManager[None]:
        return self._journal.together()

    def close(self) -> None:
        self._close()


class DatabaseStore(Store):
    """A database, which may hold the studies of many runs.

    Args:
        url: As Optuna and SQLAlchemy take it.
        name: Of the run; different for every run in the database.
        note: Told what takes long.

    Raises:
        StudyError: If the database cannot be reached or used, or another driver has the run.
    """

    def __init__(self, url: str, name: str, note: Callable[[str], object]) -> None:
        shown = without_password(url)
        self.where = f"--storage {shown}"
        self._storage = self.storage = _connected(url, shown)
        with ExitStack() as undo:
            undo.callback(self._disconnect)
            try:
                first = _study_id(self.storage, name, STAGES[0])
                self.lease = Lease(
                    place=_StudyRecord(self._storage, first), study=f"{self.where}, run {name}", note=note
                )
                self.was_abandoned = self.lease.take()
                undo.callback(self.lease.release)
                self.study_ids = {stage: _study_id(self.storage, name, stage) for stage in STAGES}
            except (OptunaError, SQLAlchemyError) as error:
                raise StudyError(f"{self.where}: cannot be used: {_reason(error)}") from error
            self._close = undo.pop_all().close

    def close(self) -> None:
        self._close()

    def _disconnect(self) -> None:
        self._storage.remove_session()
        self._storage.engine.dispose()


def open_store(directory: Path, url: str | None, name: str, note: Callable[[str], object]) -> Store:
    """The database at a URL; without one, the journal in the run directory. The classes say what can go wrong."""
    return JournalStore(directory, name, note) if url is None else DatabaseStore(url, name, note)


class _StudyRecord(Place):
    """A lease's record as an attribute of an Optuna study."""

    is_exclusive = False

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        self._storage = storage
        self._study_id = study_id

    def read(self) -> Holder | None:
        return Holder.from_dict(self._storage.get_study_user_attrs(self._study_id).get(_HOLDER))

    def write(self, holder: Holder | None) -> None:
        self._storage.set_study_user_attr(self._study_id, _HOLDER, None if holder is None else asdict(holder))

    def is_gone(self, holder: Holder) -> bool | None:
        return is_process_gone(holder)

    def leave_thread(self) -> None:
        self._storage.remove_session()


def _study_name(name: str, stage: Stage) -> str:
    return f"{name}/{stage}"


def _study_id(storage: BaseStorage, name: str, stage: Stage) -> int:
    study_name = _study_name(name, stage)
    try:
        return storage.get_study_id_from_name(study_name)
    except KeyError:
        try:
            return storage.create_new_study([StudyDirection.MAXIMIZE], study_name)
        except DuplicatedStudyError:  # by a second driver at this moment, of which one will be refused
            return storage.get_study_id_from_name(study_name)


def _connected(url: str, shown: str) -> RDBStorage:
    if url.startswith("postgresql:"):
        # SQLAlchemy 2.0 and 2.1 mean different drivers by this; the one that comes with this project is always meant.
        url = url.replace("postgresql", "postgresql+psycopg2", 1)
    try:
        return RDBStorage(url, engine_kwargs=_engine_arguments(url))
    except NoSuchModuleError as error:
        raise StudyError(f"--storage {shown}: no such kind of database; expected for instance {_EXAMPLES}") from error
    except ImportError as error:
        raise StudyError(
            f"--storage {shown}: its driver is not installed ({error.__cause__ or error}); PostgreSQL's comes with "
            "pip install 'pmf-nas[postgresql]'"
        ) from error
    except (ArgumentError, ValueError, KeyError, IndexError) as error:
        raise StudyError(
            f"--storage {shown}: is not the URL of a database; expected for instance {_EXAMPLES}"
        ) from error
    except (SQLAlchemyError, OptunaError, RuntimeError) as error:
        raise StudyError(f"--storage {shown}: cannot be used: {_reason(error)}") from error


def _engine_arguments(url: str) -> dict[str, object]:
    parsed = sqlalchemy.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in {None, "", ":memory:"}:
            raise StudyError(f"--storage {url}: keeps nothing; expected a file, for instance sqlite:///study.db")
        return {"connect_args": {"timeout": _SQLITE_SECONDS}}
    # A server that was restarted, or has closed an idle connection, costs a new connection and not the search.
    arguments: dict[str, object] = {"pool_pre_ping": True}
    if parsed.drivername == "postgresql+psycopg2" and "connect_timeout" not in parsed.query:
        arguments["connect_args"] = {"connect_timeout": _CONNECT_SECONDS}
    return arguments


def kept_url(url: str) -> str:
    """A URL as it is written down with a run: without the password, and with the whole path of a file.

    The database's own ways to find a password (PGPASSWORD, a password file) work as ever.

    Raises:
        StudyError: If it is not the URL of a database.
    """
    try:
        parsed = sqlalchemy.make_url(url).set(password=None)
    except (ArgumentError, ValueError) as error:
        shown = without_password(url)
        raise StudyError(
            f"--storage {shown}: is not the URL of a database; expected for instance {_EXAMPLES}"
        ) from error
    if parsed.get_backend_name() == "sqlite" and parsed.database not in {None, "", ":memory:"}:
        parsed = parsed.set(database=str(Path(str(parsed.database)).resolve()))
    query = {name: value for name, value in parsed.query.items() if name != "password"}
    return parsed.set(query=query).render_as_string(hide_password=False)


def without_password(url: str) -> str:
    """A URL that may be shown; also one that cannot be understood."""
    hidden = re.sub(r"://([^:/@]*):.*@", r"://\1:***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", hidden)


def _reason(error: BaseException) -> str:
    """What the database said, of all that others wrapped around it."""
    cause = error.__cause__ or error
    return " ".join(str(getattr(cause, "orig", None) or cause).split())
