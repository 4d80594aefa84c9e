"""The interface of all storage backends: an Optuna storage, and the lease of the one driver that may write to it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from optuna.exceptions import DuplicatedStudyError, OptunaError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from sqlalchemy.exc import SQLAlchemyError

from nas.common.errors import StudyError
from nas.search.trial import Stage
from nas.storage.lease import Lease


class StudyStorage(ABC):
    """An open storage of one run.

    A backend is created with the run directory, the URL of the storage, the name of the run, and a callback that
    receives a line of text before a long operation. It raises `StudyError` if the storage cannot be used or
    another driver has it.

    Args:
        where: The name of the storage in messages.
        storage: The storage as Optuna sees it.
        lease: The lease of this driver.
        study_ids: The Optuna study of each stage.
    """

    where: str
    storage: BaseStorage
    lease: Lease
    study_ids: dict[Stage, int]

    @contextmanager
    def writing(self) -> Iterator[BaseStorage]:
        """Yield the storage for writing; changes are durable when the block ends.

        Raises:
            StudyError: If another driver has taken the study over, or the storage cannot be written.
            OSError: If the journal cannot be written; names the file.
        """
        self.lease.check()
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
