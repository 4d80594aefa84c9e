"""The interface of all storage backends: an Optuna storage, and the lease of the one driver that may write to it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

from optuna.exceptions import DuplicatedStudyError, OptunaError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from sqlalchemy.exc import SQLAlchemyError

from nas.common.errors import StudyError
from nas.search.trial import STAGES, Stage
from nas.storage.lease import Lease

Access = Literal["create", "resume", "read"]
"""How a storage is opened: `create` creates what is missing; `resume` requires the study of the run, so that a wrong or
moved place is noticed; `read` in addition takes no lease and writes nothing, also while a driver writes."""


class StudyStorage(ABC):
    """An open storage of one run.

    A backend is created with the run directory, the URL of the storage, the name of the run, a callback that receives a
    line of text before a long operation, and the access. It raises `StudyMissing` if the study of the run is required
    and is not there, and `StudyError` if the storage cannot be used or another driver has it.

    Args:
        where: The name of the storage in messages.
        storage: The storage as Optuna sees it.
        lease: The lease of this driver; None for a reader.
        study_ids: The Optuna study of each stage.
    """

    where: str
    storage: BaseStorage
    lease: Lease | None
    study_ids: dict[Stage, int]

    def check_lease(self) -> None:
        """Check that this driver may write.

        Raises:
            StudyError: If another driver has taken the study over.
        """
        if self.lease is None:
            raise RuntimeError(f"{self.where}: was opened for reading only")
        self.lease.check()

    @contextmanager
    def writing(self) -> Iterator[BaseStorage]:
        """Yield the storage for writing; changes are durable when the block ends.

        Raises:
            StudyError: If another driver has taken the study over, or the storage cannot be written.
            OSError: If the journal cannot be written; names the file.
        """
        self.check_lease()
        with self.reading() as storage:
            yield storage

    @contextmanager
    def reading(self) -> Iterator[BaseStorage]:
        """Yield the storage for reading.

        Raises:
            StudyError: If the storage cannot be read.
        """
        try:
            yield self.storage
        except KeyError as error:
            raise StudyError(f"{self.where}: the study was deleted while the search was running") from error
        except (OptunaError, SQLAlchemyError) as error:
            raise StudyError(f"{self.where}: cannot be used: {error_reason(error)}") from error

    def transaction(self) -> AbstractContextManager[None]:
        """Return a block whose changes to existing trials are kept or lost together, if the storage can do that.

        Other storages keep the changes one after the other, so the last one must be the one that makes them count.
        """
        return nullcontext()

    @abstractmethod
    def close(self) -> None:
        """Release the lease, so that another driver can open the study."""


def optuna_study_name(name: str, stage: Stage) -> str:
    """Return the name of the Optuna study that holds one stage of a run."""
    return f"{name}/{stage}"


def find_studies(storage: BaseStorage, name: str, where: str) -> dict[Stage, int]:
    """Return the ids of the Optuna studies of a run.

    Args:
        storage: The storage.
        name: The name of the run.
        where: The name of the storage in messages.

    Raises:
        StudyMissing: If one of them is not there.
    """
    try:
        return {stage: storage.get_study_id_from_name(optuna_study_name(name, stage)) for stage in STAGES}
    except KeyError as error:
        raise StudyMissing(where, name) from error


class StudyMissing(StudyError):
    """The study of a run is not in its storage.

    Args:
        where: The name of the storage in messages.
        name: The name of the run.
    """

    def __init__(self, where: str, name: str) -> None:
        super().__init__(
            f"{where}: the stored study of this run is missing; expected studies named {name}/…; restore a copy of it, "
            "name the place of a database that was moved with --storage, or resume with --accept-changed, which writes "
            "it again from the log in the run directory"
        )


def find_or_create_study(storage: BaseStorage, name: str, stage: Stage) -> int:
    """Return the id of the Optuna study of one stage."""
    study_name = optuna_study_name(name, stage)
    try:
        return storage.get_study_id_from_name(study_name)
    except KeyError:
        try:
            return storage.create_new_study([StudyDirection.MAXIMIZE], study_name)
        except DuplicatedStudyError:  # created by a second driver at this moment, one of which will be refused
            return storage.get_study_id_from_name(study_name)


def error_reason(error: BaseException) -> str:
    """Return the message of the database, without what its libraries add to it."""
    cause = error.__cause__ or error
    return " ".join(str(getattr(cause, "orig", None) or cause).split())
