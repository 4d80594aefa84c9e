"""Storage backend: Optuna's journal file in the run directory, locked by the operating system."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from optuna.storages import JournalStorage

from nas.common.boundary import check_regular_file, reason_of
from nas.common.errors import StudyError
from nas.search.trial import STAGES
from nas.storage.backends.base import (
    Access,
    StudyMissing,
    StudyStorage,
    find_or_create_study,
    find_studies,
    optuna_study_name,
)
from nas.storage.journal_file import Journal, damaged_line
from nas.storage.lease import Lease, LockFile

JOURNAL = "journal.log"
LOCK = "driver.lock"


class JournalFileStorage(StudyStorage):
    """The journal file in a run directory.

    Args:
        directory: The run directory, which must exist.
        url: None; only databases have one.
        name: The name of the run.
        note: Callback that receives a line of text before a long operation.
        access: Whether the journal is created, must exist, or is only read.

    Raises:
        StudyError: If another driver has the journal, it is damaged or missing, or it belongs to a run with another
            name.
        OSError: If it cannot be read or written.
    """

    def __init__(
        self, directory: Path, url: str | None, name: str, note: Callable[[str], object], access: Access
    ) -> None:
        del url
        path = directory / JOURNAL
        self.where = str(path)
        with ExitStack() as undo:
            self.lease = None
            if access != "read":
                record = LockFile(directory / LOCK)
                undo.callback(record.close)
                self.lease = Lease(record=record, study=str(directory), note=note)
                self.lease.take()
                undo.callback(self.lease.release)
            if path.exists():
                check_regular_file(path, expected="the journal of a study", error=StudyError)
            elif access != "create":
                raise StudyMissing(self.where, name)
            self._journal = Journal(path, is_read_only=access == "read")
            try:
                self.storage = JournalStorage(self._journal)
            except Exception as error:  # Optuna raises many kinds of errors for a record that it cannot replay
                reason = f"not a record of Optuna: {reason_of(error)}"
                raise damaged_line(path, self._journal.read_count, reason) from error
            self._check_names(name)
            if access == "create":
                with self.writing() as storage:
                    self.study_ids = {stage: find_or_create_study(storage, name, stage) for stage in STAGES}
            else:
                self.study_ids = find_studies(self.storage, name, self.where)
            self._close = undo.pop_all().close

    def _check_names(self, name: str) -> None:
        """Check that the studies in the journal, if any, are those of this run.

        Raises:
            StudyError: If they are not.
        """
        expected = {optuna_study_name(name, stage) for stage in STAGES}
        others = sorted({study.study_name for study in self.storage.get_all_studies()} - expected)
        runs = {other.rpartition("/")[0] for other in others}
        if name in runs:
            raise StudyError(
                f"{self.where}: stored by another version of this program; expected the stages {', '.join(STAGES)}, "
                f"got {', '.join(others)}; search in a new run directory (--run-dir)"
            )
        if runs:
            raise StudyError(
                f"{self.where}: belongs to another run; expected {name!r}, got {', '.join(sorted(runs))!r}"
            )

    def transaction(self) -> AbstractContextManager[None]:
        return self._journal.transaction()

    def close(self) -> None:
        self._close()
