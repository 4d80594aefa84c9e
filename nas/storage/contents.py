"""The content of a study, as a driver or a reader sees it: results, rejections, and candidates that have not ended."""

from collections.abc import Iterator, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nas.common.boundary import reading
from nas.common.errors import StudyError
from nas.config.diff import differences
from nas.search.space import Architecture, SearchSpace
from nas.search.trial import STAGES, Job, Result, Stage
from nas.storage.backends.base import StudyStorage
from nas.storage.records import Rejection, TrialFormat
from nas.storage.write_log import SUPERNET_KEY, Records

FORMAT_VERSION = 1
"""The format of a stored study; increased when a study of an earlier version can no longer be read."""

VERSION = "format_version"
CONFIG = "config"
SUPERNET = "supernet"
OUT_OF_MEMORY = "out_of_memory:"
"""Keys of attributes of Optuna studies; the last is a prefix."""


Record = tuple[str, dict[str, Any]]


class StudyContents:
    """All candidates of one run.

    Args:
        space: The search space; the same for the life of the study.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._format = TrialFormat(space)
        self._results: dict[Stage, dict[int, Result]] = {stage: {} for stage in STAGES}
        self._ordered: dict[Stage, list[Result]] = {stage: [] for stage in STAGES}  # the same results by number
        self._rejections: list[Rejection] = []
        self._running: dict[int, Architecture] = {}
        self._trial_ids: dict[int, int] = {}  # the Optuna trials of the running candidates
        self._rounds: dict[int, int] = {}
        self._attributes: dict[Stage, dict[str, Any]] = {stage: {} for stage in STAGES}

    # Loading

    def _load(self, storage: StudyStorage) -> None:
        """Read the stored study.

        Raises:
            StudyError: If it has another format, or was not written by this program.
        """
        with storage.reading() as stored:
            study_ids = storage.study_ids
            self._attributes = {stage: dict(stored.get_study_user_attrs(study_ids[stage])) for stage in STAGES}
            trials = {stage: stored.get_all_trials(study_ids[stage], deepcopy=False) for stage in STAGES}
        first = self._attributes["one_shot"]
        is_new = VERSION not in first and CONFIG not in first and not any(trials.values())
        if not is_new and first.get(VERSION) != FORMAT_VERSION:
            raise StudyError(
                f"{storage.where}: stored by another version of this program; expected format {FORMAT_VERSION}, "
                f"got {first.get(VERSION, 'none')}; search in a new run directory (--run-dir)"
            )
        self._format.keep_form(trial for stage in STAGES for trial in trials[stage])
        for stage in STAGES:
            for trial in trials[stage]:
                with reading(
                    f"{storage.where}: trial {trial.number} of {stage}",
                    expected="a candidate of a search",
                    error=StudyError,
                    problem="was not written by this program",
                ):
                    self._load_trial(stage, trial, storage)
        self._sort()

    def _load_trial(self, stage: Stage, trial: FrozenTrial, storage: StudyStorage) -> None:
        if stage == "one_shot" and "round" in trial.user_attrs:
            self._rounds[trial.number] = int(trial.user_attrs["round"])
        if trial.state == TrialState.COMPLETE:
            result = Result.from_dict(trial.user_attrs["result"])
            if result.stage != stage:
                raise ValueError(f"it holds a result of {result.stage}")
            self._results[stage][result.trial] = result
        elif trial.state == TrialState.FAIL:
            self._rejections.append(self._format.rejection(trial, stage))
        elif trial.state == TrialState.RUNNING:
            self._running[trial.number] = self._format.architecture(trial)
            self._trial_ids[trial.number] = storage.storage.get_trial_id_from_study_id_trial_number(
                storage.study_ids[stage], trial.number
            )
        else:
            raise ValueError(f"its state is {trial.state.name}")

    def _sort(self) -> None:
        for stage in STAGES:
            self._ordered[stage] = [result for _, result in sorted(self._results[stage].items())]
        self._rejections.sort(key=attrgetter("order"))

    def _check_config(self, where: str, config: Mapping[str, Any]) -> None:
        """Check that a stored configuration equals that of this session.

        Raises:
            StudyError: If it does not; names the keys.
        """
        changed = differences(self._attributes["one_shot"][CONFIG], config)
        if changed:
            lines = "\n".join(f"  - {line}" for line in changed)
            raise StudyError(
                f"{where}: was started with a different configuration, so its scores are not "
                f"comparable:\n{lines}\nrestore the old values in config.yaml or on the command line, or search in a "
                "new run directory (--run-dir)"
            )

    # Records, which `nas.storage.write_log` keeps as well

    def records(self) -> Records:
        """Return everything that the study holds, with candidates in the order of their numbers first."""
        records: Records = {}
        created = {entry.trial: entry for entry in self._rejections if entry.stage == "one_shot"}
        for trial in sorted(self._rounds.keys() | created.keys()):
            if trial in self._rounds:
                ended = self._results["one_shot"].get(trial) or created.get(trial)
                architecture = self._running[trial] if ended is None else ended.architecture
                records.update([start_record(trial, architecture, self._rounds[trial])])
            else:
                records.update([rejection_record(created[trial])])
        records.update(result_record(result) for stage in STAGES for result in self._ordered[stage])
        records.update(rejection_record(entry) for entry in self._rejections)
        for stage, attributes in self._attributes.items():
            marked = (key.removeprefix(OUT_OF_MEMORY) for key in attributes if key.startswith(OUT_OF_MEMORY))
            records.update(mark_record(stage, name) for name in marked)
        if self.supernet is not None:
            records.update([supernet_record(self.supernet)])
        return records

    def _merge(self, records: Records) -> None:
        """Replace or add what records hold, in memory only.

        Raises:
            KeyError, TypeError, ValueError: If they are not those of a study.
        """
        rejections = {entry.order: entry for entry in self._rejections}
        for key, values in records.items():
            kind, *rest = key.split(" ", 2)
            if kind == "start":
                self._rounds[int(rest[0])] = int(values["round"])
                self._running[int(rest[0])] = Architecture.from_dict(values["architecture"])
            elif kind == "result":
                result = Result.from_dict(values)
                self._results[result.stage][result.trial] = result
            elif kind == "rejection":
                entry = Rejection.from_dict(values)
                rejections[entry.order] = entry
            elif kind == "mark":
                marked = next(stage for stage in STAGES if stage == rest[0])
                self._attributes[marked][f"{OUT_OF_MEMORY}{rest[1]}"] = True
            elif kind == SUPERNET_KEY:
                self._attributes["one_shot"][SUPERNET] = str(values["checksum"])
        self._rejections = list(rejections.values())
        ended = {trial for stage, trial in rejections if stage == 0} | self._results["one_shot"].keys()
        self._running = {trial: architecture for trial, architecture in self._running.items() if trial not in ended}
        self._sort()

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

    @property
    def supernet(self) -> str | None:
        """The checksum of the supernet that scores were computed with; None before there are any."""
        return self._attributes["one_shot"].get(SUPERNET)

    def was_out_of_memory(self, job: Job) -> bool:
        """Return whether a job ran out of memory before, in this session or an earlier one."""
        return f"{OUT_OF_MEMORY}{job.key.name}" in self._attributes[job.stage]


def start_record(trial: int, architecture: Architecture, round_index: int) -> Record:
    """Return the record of a started candidate: its key and its values."""
    return f"start {trial}", {"architecture": architecture.as_dict(), "round": round_index}


def result_record(result: Result) -> Record:
    """Return the record of a result: its key and its values."""
    return f"result {result.stage} {result.trial}", result.as_dict()


def rejection_record(rejection: Rejection) -> Record:
    """Return the record of a candidate without a score: its key and its values."""
    return f"rejection {rejection.stage} {rejection.trial}", rejection.as_dict()


def mark_record(stage: Stage, name: str) -> Record:
    """Return the record of a job that ran out of memory: its key and its values."""
    return f"mark {stage} {name}", {}


def supernet_record(checksum: str) -> Record:
    """Return the record of the supernet that scores are computed with: its key and its values."""
    return SUPERNET_KEY, {"checksum": checksum}
