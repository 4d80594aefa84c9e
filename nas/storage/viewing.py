"""One or several runs as an Optuna storage that can only be read, also while their drivers write."""

import copy
import os
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from optuna.storages import BaseStorage, JournalStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from nas.common.boundary import check_regular_file
from nas.common.errors import StudyError
from nas.storage.backends.base import StudyMissing, find_studies, optuna_study_name
from nas.storage.backends.journal import JOURNAL
from nas.storage.backends.open import open_storage
from nas.storage.journal_file import Journal


@dataclass(frozen=True)
class RunToView:
    """One run.

    Args:
        directory: The run directory.
        name: The name of the run in its storage.
        url: The URL of its database; None for the journal in the run directory.
        title: The name to show; by default that of the run.
    """

    directory: Path
    name: str
    url: str | None
    title: str | None = None


class _FollowedJournal(Journal):
    """A journal file that is read on as its driver writes to it.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, is_read_only=True)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            self._read_appended(descriptor)
        finally:
            os.close(descriptor)
        return super().read_logs(log_number_from)


class ReadOnlyStorage(BaseStorage):
    """The studies of some runs, and nothing else of their storages; the numbers of studies and trials are its own.

    Args:
        runs: The runs.

    Raises:
        StudyError: If the study of one is missing, damaged, or cannot be reached.
        OSError: If a journal cannot be read.
    """

    def __init__(self, runs: Sequence[RunToView]) -> None:
        self._storages: list[BaseStorage] = []
        self._studies: list[tuple[int, int, str]] = []
        """The storage of each study by its number, the study's number in it, and the name that is shown."""
        with ExitStack() as undo:
            for index, run in enumerate(runs):
                storage = self._open(run, undo)
                self._storages.append(storage)
                where = str(run.directory)
                for stage, study_id in find_studies(storage, run.name, where).items():
                    self._studies.append((index, study_id, optuna_study_name(run.title or run.name, stage)))
            self._undo = undo.pop_all()

    @staticmethod
    def _open(run: RunToView, undo: ExitStack) -> BaseStorage:
        if run.url is not None:
            opened = open_storage(run.directory, run.url, run.name, lambda text: None, "read")
            undo.callback(opened.close)
            return opened.storage
        path = run.directory / JOURNAL
        if not path.exists():
            raise StudyMissing(str(path), run.name)
        check_regular_file(path, expected="the journal of a study", error=StudyError)
        return JournalStorage(_FollowedJournal(path))

    def close(self) -> None:
        """Close the databases."""
        self._undo.close()

    # Reading

    def _find(self, study_id: int) -> tuple[BaseStorage, int]:
        if not 0 <= study_id < len(self._studies):
            raise KeyError(f"no study {study_id}")
        index, own_id, _ = self._studies[study_id]
        return self._storages[index], own_id

    def _shown(self, trial: FrozenTrial, index: int) -> FrozenTrial:
        if len(self._storages) > 1:
            trial = copy.copy(trial)
            trial._trial_id = trial._trial_id * len(self._storages) + index
        return trial

    def get_study_id_from_name(self, study_name: str) -> int:
        return next(number for number, (*_, name) in enumerate(self._studies) if name == study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        self._find(study_id)
        return self._studies[study_id][2]

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        storage, own_id = self._find(study_id)
        return storage.get_study_directions(own_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        storage, own_id = self._find(study_id)
        return storage.get_study_user_attrs(own_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        storage, own_id = self._find(study_id)
        return storage.get_study_system_attrs(own_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        return [
            FrozenStudy(
                study_name=name,
                direction=None,
                directions=self.get_study_directions(number),
                user_attrs=self.get_study_user_attrs(number),
                system_attrs=self.get_study_system_attrs(number),
                study_id=number,
            )
            for number, (*_, name) in enumerate(self._studies)
        ]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        own_id, index = divmod(trial_id, len(self._storages))
        return self._shown(self._storages[index].get_trial(own_id), index)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        storage, own_id = self._find(study_id)
        trials = storage.get_all_trials(own_id, deepcopy=deepcopy, states=states)
        return [self._shown(trial, self._studies[study_id][0]) for trial in trials]

    def remove_session(self) -> None:
        for storage in self._storages:
            storage.remove_session()

    # Writing, which the driver of a run does alone

    def _refuse(self, *arguments: Any, **options: Any) -> NoReturn:
        del arguments, options
        raise StudyError("the studies of a run: are shown for reading only; `search` and `resume` write to them")

    create_new_study = delete_study = set_study_user_attr = set_study_system_attr = _refuse
    create_new_trial = set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refuse
    set_trial_user_attr = set_trial_system_attr = _refuse
