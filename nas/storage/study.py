"""Persistent record of all candidates of a run, in an Optuna storage that survives `kill -9`.

Every stage has its own Optuna study, so that scores of different fidelity are never ranked together. `<run>/one_shot`
contains every candidate and gives it its number; `<run>/short` and `<run>/full` refer to that number. A candidate with
a score is COMPLETE. One that ended without a score is FAIL, with the user attributes `status` (infeasible or failed)
and `reason`. One that has not ended is RUNNING.

Optuna's `ask` and `tell` read all trials each time. This module writes to the storage directly, so that a candidate
costs two appends to the journal, one when it starts and one when it ends, whatever the number of candidates.
"""

import bisect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from nas.search.space import Architecture, SearchSpace
from nas.search.trial import STAGES, Job, Result, Stage
from nas.storage.backends.base import Access, StudyMissing
from nas.storage.backends.open import open_storage
from nas.storage.contents import (
    CONFIG,
    FORMAT_VERSION,
    OUT_OF_MEMORY,
    SUPERNET,
    VERSION,
    Record,
    StudyContents,
    mark_record,
    rejection_record,
    result_record,
    start_record,
    supernet_record,
)
from nas.storage.integrity import Comparison, check_restorable
from nas.storage.records import CONSTRAINTS, Rejection, RejectionStatus, rejection_attributes, result_attributes
from nas.storage.write_log import SUPERNET_KEY, WRITE_LOG, Records, WriteLog, read_write_log


def _ignore(text: str) -> None:
    del text


class Study(StudyContents):
    """The candidates of one run, open for the one driver that may write to it; see `nas.storage.reader` for reading.

    Everything that a method has accepted is durable when it returns. Methods that write raise `StudyError` if another
    driver has taken the study over or its database fails, and `OSError`, with the name of the file, if the journal
    cannot be written; the study is then unchanged.

    Args:
        directory: The run directory, which must exist.
        space: The search space; the same for the life of the study.
        name: The name of the run, which must be unique in a database.
        storage: The URL of a database; None for a journal file in the run directory.
        config: The configuration of the search as nested plain values, stored with a new study and compared with that
            of an existing one; None compares nothing.
        note: Callback that receives a line of text before a long operation, such as waiting for a driver on
            another host.
        must_exist: Whether the study was created before.
        accepts_changes: Whether to accept a study that lost or changed records: missing ones are restored
            from the log in the run directory, changed ones are kept.

    Raises:
        StudyError: If another driver has the study open, it has another configuration or format, it is damaged or
            missing, it lost records, or its database cannot be used.
        OSError: If the run directory cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        space: SearchSpace,
        *,
        name: str,
        storage: str | None = None,
        config: Mapping[str, Any] | None = None,
        note: Callable[[str], object] = _ignore,
        must_exist: bool = False,
        accepts_changes: bool = False,
    ) -> None:
        super().__init__(space)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._log: WriteLog | None = None
        logged = read_write_log(directory / WRITE_LOG, name)
        # A study that is lost as a whole can be written again from its log.
        access: Access = "resume" if must_exist and not (accepts_changes and logged.records) else "create"
        self._storage = open_storage(directory, storage, name, note, access)
        try:
            self._load(self._storage)
            if VERSION not in self._attributes["one_shot"]:
                self._set_attribute("one_shot", VERSION, FORMAT_VERSION)
            records = self.records()
            found = Comparison(logged, records, requires_log=must_exist)
            if found and not accepts_changes:
                raise found.error(self._storage.where, directory / WRITE_LOG)
            if config is not None:
                self._store_config(config, name, must_exist=access == "resume")
            if found:
                self._restore(found.missing)
                records = self.records()
                note(found.outcome(self._storage.where, directory / WRITE_LOG))
            self._log = WriteLog(directory / WRITE_LOG, name, None if found or logged.problem else logged, records)
        except BaseException:
            self.close()
            raise
        self.requeued_count = len(self._running)
        """The number of candidates that an earlier driver left running."""

    def _store_config(self, config: Mapping[str, Any], name: str, *, must_exist: bool) -> None:
        """Store the configuration of a new study, or compare that of an existing one."""
        if CONFIG in self._attributes["one_shot"]:
            self._check_config(self._storage.where, config)
        elif must_exist:
            raise StudyMissing(self._storage.where, name)
        else:
            self._set_attribute("one_shot", CONFIG, config)

    def _restore(self, missing: Records) -> None:
        """Write records that the study has lost to it again.

        Raises:
            StudyError: If the numbers of candidates cannot be the same again.
        """
        check_restorable(missing, self.records(), self._storage.where)
        for key, values in missing.items():
            kind, *rest = key.split(" ", 2)
            if kind == "start":
                self.start(Architecture.from_dict(values["architecture"]), values["round"])
            elif kind == "result":
                self.finish(Result.from_dict(values))
            elif kind == "rejection":
                self._reject(Rejection.from_dict(values))
            elif kind == SUPERNET_KEY:
                self.set_supernet(values["checksum"])
            else:
                self._mark(next(stage for stage in STAGES if stage == rest[0]), rest[1])

    # Right to write

    def check_lease(self) -> None:
        """Check that this driver may write to the study.

        Raises:
            StudyError: If another driver has taken the study over.
        """
        self._storage.check_lease()

    def close(self) -> None:
        """Release the study, so that another driver can open it."""
        if self._log is not None:
            self._log.close()
            self._log = None
        self._storage.close()

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing

    def name_scores(self, names: Mapping[Stage, str]) -> None:
        """Store the name of the score of each stage, for Optuna's figures, unless it is stored already.

        Args:
            names: The names.
        """
        for stage, name in names.items():
            with self._storage.writing() as storage:
                study = optuna.Study(storage.get_study_name_from_id(self._storage.study_ids[stage]), storage)
                if study.metric_names != [name]:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", ExperimentalWarning)
                        study.set_metric_names([name])

    def start(self, architecture: Architecture, round_index: int = 0) -> int:
        """Store a new candidate that is to be scored.

        Args:
            architecture: The architecture of the candidate.
            round_index: The round of proposals to which it belongs.

        Returns:
            The number of the candidate.
        """
        with self._storage.writing() as storage:
            template = self._format.new_trial(architecture, TrialState.RUNNING, {"round": round_index})
            trial_id = storage.create_new_trial(self._storage.study_ids["one_shot"], template)
            trial = storage.get_trial_number_from_id(trial_id)
        self._running[trial], self._trial_ids[trial] = architecture, trial_id
        self._rounds[trial] = round_index
        self._logged(start_record(trial, architecture, round_index))
        return trial

    def finish(
        self, result: Result, *, curve: Mapping[int, float] = MappingProxyType({}), constraints: Sequence[float] = ()
    ) -> None:
        """Store a result.

        Args:
            result: The result.
            curve: The learning curve of its training, the loss by the number of the step, for Optuna's figures.
            constraints: How far it is beyond each constraint of the search, for Optuna's figures; 0 or less where one
                is met.
        """
        if result.trial in self._results[result.stage]:
            raise ValueError(f"trial {result.trial} already has a result at stage {result.stage}")
        attributes = result_attributes(result)
        if result.stage == "one_shot":
            self._end(result.trial, TrialState.COMPLETE, attributes, result.score, constraints)
        else:
            trial = self._format.new_trial(
                result.architecture,
                TrialState.COMPLETE,
                attributes,
                score=result.score,
                seconds=result.seconds,
                curve=curve,
                constraints=constraints,
            )
            self._add(result.stage, trial)
        self._results[result.stage][result.trial] = result
        bisect.insort(self._ordered[result.stage], result, key=attrgetter("trial"))
        self._logged(result_record(result))

    def reject(self, job: Job, *, status: RejectionStatus, reason: str, measured_peak_bytes: int | None = None) -> None:
        """Store that a started candidate ended without a score and is not to be tried again.

        Args:
            job: The job of the candidate.
            status: `infeasible` if it does not fit, as it turned out when it ran; else `failed`.
            reason: The reason in words.
            measured_peak_bytes: The peak that it had reached, if known.
        """
        peaks = job.predicted_peak_bytes, measured_peak_bytes
        self._reject(Rejection(job.trial, job.architecture, job.stage, status, reason, *peaks))

    def reject_infeasible(self, architecture: Architecture, reason: str, predicted_peak_bytes: int) -> None:
        """Store that an architecture cannot fit; it gets a number and is never run."""
        self._reject(Rejection(-1, architecture, "one_shot", "infeasible", reason, predicted_peak_bytes))

    def _reject(self, rejection: Rejection) -> None:
        attributes = rejection_attributes(rejection)
        if rejection.trial in self._running and rejection.stage == "one_shot":
            self._end(rejection.trial, TrialState.FAIL, attributes)
        elif rejection.stage == "one_shot":
            del attributes["trial"]  # the number of the Optuna trial, which its storage gives it
            number = self._add("one_shot", self._format.new_trial(rejection.architecture, TrialState.FAIL, attributes))
            rejection = replace(rejection, trial=number)
        else:
            self._add(rejection.stage, self._format.new_trial(rejection.architecture, TrialState.FAIL, attributes))
        bisect.insort(self._rejections, rejection, key=attrgetter("order"))
        self._logged(rejection_record(rejection))

    def _add(self, stage: Stage, trial: FrozenTrial) -> int:
        """Store a trial that has ended, in one append; returns its number in the Optuna study."""
        with self._storage.writing() as storage:
            return storage.get_trial_number_from_id(storage.create_new_trial(self._storage.study_ids[stage], trial))

    def _end(
        self,
        trial: int,
        state: TrialState,
        attributes: Mapping[str, Any],
        score: float | None = None,
        constraints: Sequence[float] = (),
    ) -> None:
        """End a running trial in one append; the state, which makes the attributes count, is written last."""
        trial_id = self._trial_ids[trial]
        with self._storage.writing() as storage, self._storage.transaction():
            for key, value in attributes.items():
                storage.set_trial_user_attr(trial_id, key, value)
            if constraints:
                storage.set_trial_system_attr(trial_id, CONSTRAINTS, list(constraints))
            storage.set_trial_state_values(trial_id, state, None if score is None else [score])
        del self._running[trial], self._trial_ids[trial]

    def mark_out_of_memory(self, job: Job) -> None:
        """Store that a job ran out of memory and is to be retried alone."""
        self._mark(job.stage, job.key.name)

    def _mark(self, stage: Stage, name: str) -> None:
        self._set_attribute(stage, f"{OUT_OF_MEMORY}{name}", True)
        self._logged(mark_record(stage, name))

    def set_supernet(self, checksum: str) -> None:
        """Store the supernet that scores are computed with.

        Args:
            checksum: The checksum of its weights.
        """
        if self.supernet != checksum:
            self._set_attribute("one_shot", SUPERNET, checksum)
            self._logged(supernet_record(checksum))

    def _logged(self, record: Record) -> None:
        """Add what the study has stored to the log."""
        if self._log is not None:
            self._log.append(*record)

    def _set_attribute(self, stage: Stage, key: str, value: Any) -> None:
        stored = json.loads(json.dumps(value))
        with self._storage.writing() as storage:
            storage.set_study_user_attr(self._storage.study_ids[stage], key, stored)
        self._attributes[stage] = {**self._attributes[stage], key: stored}
