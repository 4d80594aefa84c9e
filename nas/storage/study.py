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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.common.errors import StudyError
from nas.config.diff import differences
from nas.search.space import Architecture, SearchSpace
from nas.search.trial import STAGES, Job, Result, Stage
from nas.storage.backends.open import open_storage
from nas.storage.records import Rejection, RejectionStatus, TrialFormat, rejection_attributes, result_attributes

FORMAT_VERSION = 1
"""The format of a stored study; increased when a study of an earlier version can no longer be read."""

_VERSION = "format_version"
_CONFIG = "config"
_OUT_OF_MEMORY = "out_of_memory:"


def _ignore(text: str) -> None:
    del text


class Study:
    """All candidates of one run.

    Only one driver may have a study open. Everything that a method has accepted is durable when it returns. Methods
    that write raise `StudyError` if another driver has taken the study over or its database fails, and `OSError`, with
    the name of the file, if the journal cannot be written; the study is then unchanged.

    Args:
        directory: The run directory, which must exist.
        space: The search space; the same for the life of the study.
        name: The name of the run, which must be unique in a database.
        storage: The URL of a database; None for a journal file in the run directory.
        config: The configuration of the search as nested plain values, stored with a new study and compared with that
            of an existing one; None compares nothing.
        note: Callback that receives a line of text before a long operation, such as waiting for a driver on
            another host.
        must_exist: Whether the study was created before; only used with `config`.

    Raises:
        StudyError: If another driver has the study open, it has another configuration or format, it is damaged or
            missing, or its database cannot be used.
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
    ) -> None:
        self._format = TrialFormat(space)
        self._results: dict[Stage, dict[int, Result]] = {stage: {} for stage in STAGES}
        self._ordered: dict[Stage, list[Result]] = {stage: [] for stage in STAGES}  # the same results by number
        self._rejections: list[Rejection] = []
        self._running: dict[int, Architecture] = {}
        self._trial_ids: dict[int, int] = {}  # the Optuna trials of the running candidates
        self._rounds: dict[int, int] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = open_storage(directory, storage, name, note)
        try:
            self._attributes = self._load()
            if config is not None:
                self._check_config(config, must_exist)
        except BaseException:
            self.close()
            raise
        self.requeued_count = len(self._running)
        """The number of candidates that an earlier driver left running."""

    # Opening

    def _load(self) -> dict[Stage, dict[str, Any]]:
        """Read the stored study and return the attributes of its Optuna studies."""
        with self._storage.writing() as storage:
            study_ids = self._storage.study_ids
            attributes = {stage: storage.get_study_user_attrs(study_ids[stage]) for stage in STAGES}
            trials = {stage: storage.get_all_trials(study_ids[stage], deepcopy=False) for stage in STAGES}
            first = attributes["one_shot"]
            if _VERSION not in first and _CONFIG not in first and not any(trials.values()):  # a new study
                storage.set_study_user_attr(study_ids["one_shot"], _VERSION, FORMAT_VERSION)
                attributes["one_shot"] = first = {**first, _VERSION: FORMAT_VERSION}
        if first.get(_VERSION) != FORMAT_VERSION:
            raise StudyError(
                f"{self._storage.where}: stored by another version of this program; expected format {FORMAT_VERSION}, "
                f"got {first.get(_VERSION, 'none')}; search in a new run directory (--run-dir)"
            )
        for stage in STAGES:
            for trial in trials[stage]:
                try:
                    self._load_trial(stage, trial)
                except (KeyError, TypeError, ValueError) as error:
                    raise StudyError(
                        f"{self._storage.where}: trial {trial.number} of {stage} was not written by this program "
                        f"({type(error).__name__}: {error})"
                    ) from error
            self._ordered[stage] = [result for _, result in sorted(self._results[stage].items())]
        self._rejections.sort(key=attrgetter("order"))
        return attributes

    def _load_trial(self, stage: Stage, trial: FrozenTrial) -> None:
        if stage == "one_shot" and "round" in trial.user_attrs:
            self._rounds[trial.number] = int(trial.user_attrs["round"])
        if trial.state == TrialState.COMPLETE:
            result = Result.from_dict(trial.user_attrs["result"])
            self._results[stage][result.trial] = result
        elif trial.state == TrialState.FAIL:
            self._rejections.append(self._format.rejection(trial, stage))
        elif trial.state == TrialState.RUNNING:
            self._running[trial.number] = self._format.architecture(trial)
            self._trial_ids[trial.number] = self._storage.storage.get_trial_id_from_study_id_trial_number(
                self._storage.study_ids[stage], trial.number
            )

    def _check_config(self, config: Mapping[str, Any], must_exist: bool) -> None:
        stored = self._attributes["one_shot"].get(_CONFIG)
        if stored is None and must_exist:
            raise StudyError(
                f"{self._storage.where}: the stored study of this run is missing; restore a copy of it, or search in a "
                "new run directory (--run-dir)"
            )
        if stored is None:
            self._set_attribute("one_shot", _CONFIG, config)
            return
        changed = differences(stored, config)
        if changed:
            lines = "\n".join(f"  - {line}" for line in changed)
            raise StudyError(
                f"{self._storage.where}: was started with a different configuration, so its scores are not "
                f"comparable:\n{lines}\nrestore the old values, or search in a new run directory (--run-dir)"
            )

    # Right to write

    def check_lease(self) -> None:
        """Check that this driver may write to the study.

        Raises:
            StudyError: If another driver has taken the study over.
        """
        self._storage.lease.check()

    def close(self) -> None:
        """Release the study, so that another driver can open it."""
        self._storage.close()

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing

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
        return trial

    def finish(self, result: Result) -> None:
        """Store a result."""
        if result.trial in self._results[result.stage]:
            raise ValueError(f"trial {result.trial} already has a result at stage {result.stage}")
        attributes = result_attributes(result)
        if result.stage == "one_shot":
            self._end(result.trial, TrialState.COMPLETE, attributes, result.score)
        else:
            trial = self._format.new_trial(
                result.architecture, TrialState.COMPLETE, attributes, score=result.score, seconds=result.seconds
            )
            self._add(result.stage, trial)
        self._results[result.stage][result.trial] = result
        bisect.insort(self._ordered[result.stage], result, key=attrgetter("trial"))

    def reject(self, job: Job, *, status: RejectionStatus, reason: str, measured_peak_bytes: int | None = None) -> None:
        """Store that a started candidate ended without a score and is not to be tried again.

        Args:
            job: The job of the candidate.
            status: `infeasible` if it does not fit, as it turned out when it ran; else `failed`.
            reason: The reason in words.
            measured_peak_bytes: The peak that it had reached, if known.
        """
        rejection = Rejection(
            job.trial, job.architecture, job.stage, status, reason, job.predicted_peak_bytes, measured_peak_bytes
        )
        attributes = rejection_attributes(rejection)
        if job.stage == "one_shot":
            self._end(job.trial, TrialState.FAIL, attributes)
        else:
            self._add(job.stage, self._format.new_trial(job.architecture, TrialState.FAIL, attributes))
        bisect.insort(self._rejections, rejection, key=attrgetter("order"))

    def reject_infeasible(self, architecture: Architecture, reason: str, predicted_peak_bytes: int) -> None:
        """Store that an architecture cannot fit; it gets a number and is never run."""
        rejection = Rejection(-1, architecture, "one_shot", "infeasible", reason, predicted_peak_bytes)
        attributes = rejection_attributes(rejection)
        del attributes["trial"]  # the number of the Optuna trial, which its storage gives it
        number = self._add("one_shot", self._format.new_trial(architecture, TrialState.FAIL, attributes))
        bisect.insort(self._rejections, replace(rejection, trial=number), key=attrgetter("order"))

    def _add(self, stage: Stage, trial: FrozenTrial) -> int:
        """Store a trial that has ended, in one append; returns its number in the Optuna study."""
        with self._storage.writing() as storage:
            return storage.get_trial_number_from_id(storage.create_new_trial(self._storage.study_ids[stage], trial))

    def _end(self, trial: int, state: TrialState, attributes: Mapping[str, Any], score: float | None = None) -> None:
        """End a running trial in one append; the state, which makes the attributes count, is written last."""
        trial_id = self._trial_ids[trial]
        with self._storage.writing() as storage, self._storage.transaction():
            for key, value in attributes.items():
                storage.set_trial_user_attr(trial_id, key, value)
            storage.set_trial_state_values(trial_id, state, None if score is None else [score])
        del self._running[trial], self._trial_ids[trial]

    def mark_out_of_memory(self, job: Job) -> None:
        """Store that a job ran out of memory and is to be retried alone."""
        self._set_attribute(job.stage, f"{_OUT_OF_MEMORY}{job.key.name}", True)

    def _set_attribute(self, stage: Stage, key: str, value: Any) -> None:
        stored = json.loads(json.dumps(value))
        with self._storage.writing() as storage:
            storage.set_study_user_attr(self._storage.study_ids[stage], key, stored)
        self._attributes[stage] = {**self._attributes[stage], key: stored}

    # Reading

    def results(self, stage: Stage) -> list[Result]:
        """Return the results of one stage, by number of the candidate."""
        return self._ordered[stage].copy()

    def result(self, stage: Stage, trial: int) -> Result | None:
        """Return the result of a candidate at one stage; None if it has none."""
        return self._results[stage].get(trial)

    def count(self, stage: Stage) -> int:
        """Return the number of results of one stage."""
        return len(self._ordered[stage])

    @property
    def rejections(self) -> list[Rejection]:
        """Candidates that ended without a score, by stage and number."""
        return self._rejections.copy()

    @property
    def running(self) -> dict[int, Architecture]:
        """Candidates that were started and have no score yet: running now, or left by a driver that died."""
        return self._running.copy()

    @property
    def rounds(self) -> Mapping[int, int]:
        """The round of proposals of every candidate that was started."""
        return MappingProxyType(self._rounds)

    def round_of(self, trial: int) -> int:
        """Return the round of proposals to which a candidate belongs."""
        return self._rounds[trial]

    def architectures(self) -> Iterator[Architecture]:
        """Yield every architecture that has a number."""
        yield from (result.architecture for result in self._ordered["one_shot"])
        yield from (rejection.architecture for rejection in self._rejections)
        yield from self._running.values()

    def was_out_of_memory(self, job: Job) -> bool:
        """Return whether a job ran out of memory before, in this session or an earlier one."""
        return f"{_OUT_OF_MEMORY}{job.key.name}" in self._attributes[job.stage]
