"""Remembers: what was asked, what came out, in an Optuna storage that survives `kill -9`.

One Optuna study a stage, so that scores of different worth are never ranked together: `<run>/one_shot` holds every
candidate and gives it its number, `<run>/short` and `<run>/full` refer to that number. A candidate with a score is
COMPLETE, one that ended without is FAIL with the user attributes `status` (infeasible or failed) and `reason`, one that
has not come to an end is RUNNING.

Optuna's own `ask` and `tell` look through all trials each time. Here the storage is written to directly, so that a
candidate costs two appends to the journal, one when it starts and one when it ends, however many there are.
"""

import bisect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.common.errors import StudyError
from nas.config.diff import differences
from nas.search.space import Architecture, SearchSpace
from nas.search.trial import STAGES, Job, Result, Stage
from nas.storage.backends import open_store

RejectionStatus = Literal["failed", "infeasible"]

_CONFIG = "config"
_VALUE = "value:"
_OUT_OF_MEMORY = "out_of_memory:"

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Rejection:
    """A candidate that came to an end without a score at a stage.

    Args:
        trial: Number of the candidate.
        architecture: What was to be run.
        stage: How.
        status: `infeasible` (cannot fit: predicted, or found out) or `failed` (run, not finished).
        reason: For people.
        predicted_peak_bytes: Of its training, alone.
        measured_peak_bytes: The same, measured; None if it was never run, or died unmeasured.
    """

    trial: int
    architecture: Architecture
    stage: Stage
    status: RejectionStatus
    reason: str
    predicted_peak_bytes: int
    measured_peak_bytes: int | None = None


class Study:
    """All candidates of one run.

    Only one driver may have a study open. Everything that a method has accepted is durable when it returns. Methods
    that write raise `StudyError` if another driver has taken the study over or its database fails, and `OSError`, with
    the name of the file, if the journal cannot be written; what was there before stays whole.

    Args:
        directory: The run directory; must exist.
        space: Of the search; the same for the life of the study.
        name: Of the run; where many runs share a database, different for each.
        storage: URL of a database; None for a journal file in the run directory.
        config: Of the search, as nested plain values; kept with a new study, compared with what is kept by an old one.
            None compares nothing.
        note: Told what takes long: waiting for a sign of life of a driver on another host.
        must_exist: Whether it was begun before; only looked at with `config`.

    Raises:
        StudyError: If another driver has the study open, it was started with another configuration, it is damaged or
            gone, or its database cannot be used.
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
        note: Callable[[str], object] = lambda text: None,
        must_exist: bool = False,
    ) -> None:
        self._distributions: dict[str, BaseDistribution] = {
            variable.name: CategoricalDistribution(variable.choices) for variable in space.variables
        }
        self._space = space
        self._results: dict[Stage, dict[int, Result]] = {stage: {} for stage in STAGES}
        self._ordered: dict[Stage, list[Result]] = {stage: [] for stage in STAGES}  # the same by number
        self._rejections: list[Rejection] = []
        self._running: dict[int, Architecture] = {}
        self._trial_ids: dict[int, int] = {}  # of those that are running
        self._rounds: dict[int, int] = {}
        self._interruptions: dict[int, int] = {}  # of those that are running
        self._store = open_store(directory, storage, name, note)
        try:
            self._attributes = self._recall()
            if config is not None:
                self._compare(config, must_exist)
            self._put_back()
        except BaseException:
            self.close()
            raise
        self.put_back_count = len(self._running)

    # Opening

    def _recall(self) -> dict[Stage, dict[str, Any]]:
        """Read everything that was remembered; returns the attributes of the Optuna studies."""
        with self._store.writing() as storage:
            attributes = {stage: storage.get_study_user_attrs(self._store.study_ids[stage]) for stage in STAGES}
            trials = {stage: storage.get_all_trials(self._store.study_ids[stage], deepcopy=False) for stage in STAGES}
        for stage in STAGES:
            for trial in trials[stage]:
                try:
                    self._recall_trial(stage, trial)
                except (KeyError, TypeError, ValueError) as error:
                    raise StudyError(
                        f"{self._store.where}: trial {trial.number} of {stage} was not written by this program, or by "
                        f"another version of it ({type(error).__name__}: {error})"
                    ) from error
            self._ordered[stage] = [result for _, result in sorted(self._results[stage].items())]
        self._rejections.sort(key=_place)
        return attributes

    def _recall_trial(self, stage: Stage, trial: FrozenTrial) -> None:
        known = trial.user_attrs
        if stage == "one_shot" and "round" in known:
            self._rounds[trial.number] = int(known["round"])
        if trial.state == TrialState.COMPLETE:
            result = Result.from_dict(known["result"])
            self._results[stage][result.trial] = result
        elif trial.state == TrialState.FAIL:
            self._rejections.append(
                Rejection(
                    trial=int(known.get("trial", trial.number)),
                    architecture=self._space.decode(trial.params),
                    stage=stage,
                    status=known["status"],
                    reason=known["reason"],
                    predicted_peak_bytes=known["predicted_peak_bytes"],
                    measured_peak_bytes=known["measured_peak_bytes"],
                )
            )
        elif trial.state == TrialState.RUNNING:
            self._running[trial.number] = self._space.decode(trial.params)
            self._trial_ids[trial.number] = trial._trial_id
            self._interruptions[trial.number] = int(known.get("interrupted", 0))

    def _compare(self, config: Mapping[str, Any], must_exist: bool) -> None:
        kept = self._attributes["one_shot"].get(_CONFIG)
        if kept is None and must_exist:
            raise StudyError(
                f"{self._store.where}: what was kept there of this run is gone; put back a copy of it, or search in a "
                "new run directory (--run-dir)"
            )
        if kept is None:
            self._set_attribute("one_shot", _CONFIG, config)
            return
        changed = differences(kept, config)
        if changed:
            raise StudyError(
                "\n".join(
                    [
                        f"{self._store.where}: was started with another configuration, so its scores do not hold for "
                        "this one:",
                        *(f"  - {line}" for line in changed),
                        "go back to the old values, or search in a new run directory (--run-dir)",
                    ]
                )
            )

    def _put_back(self) -> None:
        """Mark the candidates that a driver was running when it died; they are run again."""
        if not self._store.was_abandoned:
            return  # the driver had stopped them and said so
        with self._store.writing() as storage, self._store.together():
            for trial, trial_id in self._trial_ids.items():
                self._interruptions[trial] += 1
                storage.set_trial_user_attr(trial_id, "interrupted", self._interruptions[trial])

    # The driver's right to write

    def check_lease(self) -> None:
        """Make sure that no other driver has taken the study over.

        Raises:
            StudyError: If one has.
        """
        self._store.lease.check()

    def close(self) -> None:
        """Let another driver open the study."""
        self._store.close()

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Candidates

    def start(self, architecture: Architecture, round_index: int = 0) -> int:
        """Give a candidate its number and remember that it is to be scored.

        Args:
            architecture: The candidate.
            round_index: The round of proposals that it is of.

        Returns:
            Its number.
        """
        with self._store.writing() as storage:
            template = self._template(architecture, TrialState.RUNNING, {"round": round_index})
            trial_id = storage.create_new_trial(self._store.study_ids["one_shot"], template)
            trial = storage.get_trial_number_from_id(trial_id)
        self._running[trial], self._trial_ids[trial] = architecture, trial_id
        self._rounds[trial], self._interruptions[trial] = round_index, 0
        return trial

    def finish(self, result: Result) -> None:
        """Remember a result for good."""
        if result.trial in self._results[result.stage]:
            raise ValueError(f"trial {result.trial} has a result at stage {result.stage} already")
        attributes = {"result": result.as_dict()}
        if result.stage == "one_shot":
            self._end(result.trial, TrialState.COMPLETE, attributes, result.score)
        else:
            self._add(result.stage, result.architecture, TrialState.COMPLETE, attributes, result.score, result.seconds)
        self._results[result.stage][result.trial] = result
        bisect.insort(self._ordered[result.stage], result, key=attrgetter("trial"))

    def reject(self, job: Job, *, status: RejectionStatus, reason: str, measured_peak_bytes: int | None = None) -> None:
        """Remember that a candidate that was started came to an end without a score, and is not to be tried again.

        Args:
            job: The candidate and the stage.
            status: `infeasible` if it does not fit, as was found out when it ran; else `failed`.
            reason: For people.
            measured_peak_bytes: What it had reached, if that is known.
        """
        rejection = Rejection(
            job.trial, job.architecture, job.stage, status, reason, job.predicted_peak_bytes, measured_peak_bytes
        )
        if job.stage == "one_shot":
            self._end(job.trial, TrialState.FAIL, _why(rejection))
        else:
            self._add(job.stage, job.architecture, TrialState.FAIL, _why(rejection))
        bisect.insort(self._rejections, rejection, key=_place)

    def reject_infeasible(self, architecture: Architecture, reason: str, predicted_peak_bytes: int) -> None:
        """Remember that an architecture cannot fit; it gets a number and is never run."""
        attributes = {
            "status": "infeasible",
            "reason": reason,
            "predicted_peak_bytes": predicted_peak_bytes,
            "measured_peak_bytes": None,
        }
        trial = self._add("one_shot", architecture, TrialState.FAIL, attributes)
        rejection = Rejection(trial, architecture, "one_shot", "infeasible", reason, predicted_peak_bytes)
        bisect.insort(self._rejections, rejection, key=_place)

    def _template(self, architecture: Architecture, state: TrialState, attributes: Mapping[str, Any]) -> FrozenTrial:
        now = datetime.now()
        values = self._space.encode(architecture)
        return FrozenTrial(
            number=-1,  # number and id are given by the storage
            trial_id=-1,
            state=state,
            value=None,
            datetime_start=now,
            datetime_complete=now if state.is_finished() else None,
            params=values,
            distributions={name: self._distributions[name] for name in values},
            user_attrs=dict(attributes),
            system_attrs={},
            intermediate_values={},
        )

    def _add(
        self,
        stage: Stage,
        architecture: Architecture,
        state: TrialState,
        attributes: Mapping[str, Any],
        score: float | None = None,
        seconds: float = 0.0,
    ) -> int:
        """Keep a trial that has ended, in one append; returns its number in the Optuna study."""
        template = self._template(architecture, state, attributes)
        template.value = score
        assert template.datetime_complete is not None
        template.datetime_start = template.datetime_complete - timedelta(seconds=seconds)
        with self._store.writing() as storage:
            return storage.get_trial_number_from_id(storage.create_new_trial(self._store.study_ids[stage], template))

    def _end(self, trial: int, state: TrialState, attributes: Mapping[str, Any], score: float | None = None) -> None:
        """Give a running trial its end, in one append; the state, which makes the rest count, comes last."""
        trial_id = self._trial_ids[trial]
        with self._store.writing() as storage, self._store.together():
            for key, value in attributes.items():
                storage.set_trial_user_attr(trial_id, key, value)
            storage.set_trial_state_values(trial_id, state, None if score is None else [score])
        del self._running[trial], self._trial_ids[trial], self._interruptions[trial]

    # What is known

    def results(self, stage: Stage) -> list[Result]:
        """Finished results of one stage, by number of the candidate."""
        return self._ordered[stage].copy()

    def result(self, stage: Stage, trial: int) -> Result | None:
        return self._results[stage].get(trial)

    def count(self, stage: Stage) -> int:
        """How many results a stage has."""
        return len(self._ordered[stage])

    @property
    def rejections(self) -> list[Rejection]:
        """Candidates without a score, by stage and number."""
        return self._rejections.copy()

    @property
    def running(self) -> dict[int, Architecture]:
        """Candidates that were started and have no score yet: under way, or left behind by a driver that died."""
        return self._running.copy()

    @property
    def interruptions(self) -> Mapping[int, int]:
        """How many drivers have died while they ran a candidate; of those in `running`."""
        return MappingProxyType(self._interruptions)

    @property
    def rounds(self) -> Mapping[int, int]:
        """The round of proposals of every candidate that was started."""
        return MappingProxyType(self._rounds)

    def round_of(self, trial: int) -> int:
        """The round of proposals that a candidate is of."""
        return self._rounds[trial]

    def architectures(self) -> Iterator[Architecture]:
        """Every architecture that has a number."""
        yield from (result.architecture for result in self._ordered["one_shot"])
        yield from (rejection.architecture for rejection in self._rejections)
        yield from self._running.values()

    # The driver's own notes

    def mark_out_of_memory(self, job: Job) -> None:
        """Remember that a job ran out of memory; it is to be tried once more, alone."""
        self._set_attribute(job.stage, f"{_OUT_OF_MEMORY}{job.key.name}", True)

    def was_out_of_memory(self, job: Job) -> bool:
        """Whether a job ran out of memory before, in this session or an earlier one."""
        return f"{_OUT_OF_MEMORY}{job.key.name}" in self._attributes[job.stage]

    def set_value(self, key: str, value: Any) -> None:
        """Remember a value of the driver; anything that JSON can hold."""
        self._set_attribute("one_shot", f"{_VALUE}{key}", value)

    def get_value(self, key: str) -> Any:
        """A value of the driver, as JSON gives it back; None if it was never set."""
        return self._attributes["one_shot"].get(f"{_VALUE}{key}")

    def _set_attribute(self, stage: Stage, key: str, value: Any) -> None:
        kept = json.loads(json.dumps(value))
        with self._store.writing() as storage:
            storage.set_study_user_attr(self._store.study_ids[stage], key, kept)
        self._attributes[stage] = {**self._attributes[stage], key: kept}


def _place(rejection: Rejection) -> tuple[int, int]:
    """Where it stands among the others, whenever it was rejected."""
    return STAGES.index(rejection.stage), rejection.trial


def _why(rejection: Rejection) -> dict[str, Any]:
    """What a trial without a score is stored with."""
    return {
        "trial": rejection.trial,
        "status": rejection.status,
        "reason": rejection.reason,
        "predicted_peak_bytes": rejection.predicted_peak_bytes,
        "measured_peak_bytes": rejection.measured_peak_bytes,
    }
