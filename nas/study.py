"""Remembers: what was asked, what came out, in an Optuna journal file that survives `kill -9`.

One Optuna study a stage, so that scores of different worth are never ranked together: `inherited` holds every candidate
and gives it its number, `trained` and `full` refer to that number.
"""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from nas.errors import StudyError
from nas.results import STAGES, Job, Result, Stage
from nas.space import GENES, Architecture, SearchSpace

JOURNAL = "journal.log"
LOCK = "driver.lock"

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Rejection:
    """A candidate without a score at a stage: `infeasible` (cannot fit, never run) or `failed` (run, not finished)."""

    trial: int
    architecture: Architecture
    stage: Stage
    status: str
    reason: str


class Study:
    """All candidates of one run directory.

    Only one driver may have a study open. Everything that a method has accepted is on disk when it returns.

    Args:
        directory: The run directory; must exist.
        space: Of the search; the same for the life of the study.

    Raises:
        StudyError: If another process has the study open.
    """

    def __init__(self, directory: Path, space: SearchSpace) -> None:
        self._lock = _lock(directory)
        journal = directory / JOURNAL
        repair_journal(journal)
        # This driver alone works here, so a lock of the journal was left by one that died while it wrote.
        journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
        self._studies = self._open_studies(journal)
        self._distributions: dict[str, Any] = {
            gene: optuna.distributions.CategoricalDistribution(space.choices[gene]) for gene in GENES
        }
        self._results: dict[Stage, dict[int, Result]] = {stage: {} for stage in STAGES}
        self._rejections: list[Rejection] = []
        self._running: dict[int, tuple[Architecture, optuna.trial.Trial]] = {}
        for stage in STAGES:
            for trial in self._studies[stage].get_trials(deepcopy=False):
                self._recall(stage, trial)

    def _open_studies(self, journal: Path) -> dict[Stage, optuna.Study]:
        try:
            storage = JournalStorage(JournalFileBackend(str(journal)))
            return {
                stage: optuna.create_study(storage=storage, study_name=stage, direction="maximize", load_if_exists=True)
                for stage in STAGES
            }
        except (ValueError, KeyError) as error:
            self._lock.close()
            raise StudyError(f"{journal}: is damaged before its last line and cannot be read: {error}") from error

    def close(self) -> None:
        """Let another driver open the study."""
        self._lock.close()

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, architecture: Architecture) -> int:
        """Give a candidate its number and remember that it is to be scored."""
        study = self._studies["inherited"]
        study.enqueue_trial(architecture.as_dict())
        trial = study.ask(self._distributions)
        self._running[trial.number] = (architecture, trial)
        return trial.number

    def finish(self, result: Result) -> None:
        """Remember a result for good."""
        study = self._studies[result.stage]
        if result.stage == "inherited":
            _, trial = self._running[result.trial]
            trial.set_user_attr("result", result.as_dict())
            study.tell(trial, result.score)
            del self._running[result.trial]
        else:
            study.add_trial(
                optuna.trial.create_trial(
                    params=result.architecture.as_dict(),
                    distributions=self._distributions,
                    value=result.score,
                    user_attrs={"result": result.as_dict()},
                )
            )
        self._results[result.stage][result.trial] = result

    def reject_infeasible(self, architecture: Architecture, reason: str) -> None:
        """Remember that an architecture cannot fit; it gets a number and is never trained."""
        self._add_rejection("inherited", None, architecture, "infeasible", reason)

    def fail(self, job: Job, reason: str) -> None:
        """Remember that a job did not finish and is not to be tried again."""
        if job.stage != "inherited":
            self._add_rejection(job.stage, job.trial, job.architecture, "failed", reason)
            return
        _, live = self._running[job.trial]
        for name, value in {"status": "failed", "reason": reason, "trial": job.trial}.items():
            live.set_user_attr(name, value)
        self._studies["inherited"].tell(live, state=TrialState.FAIL)
        del self._running[job.trial]
        self._rejections.append(Rejection(job.trial, job.architecture, "inherited", "failed", reason))

    def _add_rejection(
        self, stage: Stage, trial: int | None, architecture: Architecture, status: str, reason: str
    ) -> None:
        study = self._studies[stage]
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.FAIL,
                params=architecture.as_dict(),
                distributions=self._distributions,
                user_attrs={"status": status, "reason": reason, "trial": trial},
            )
        )
        number = study.get_trials(deepcopy=False)[-1].number if trial is None else trial
        self._rejections.append(Rejection(number, architecture, stage, status, reason))

    def results(self, stage: Stage) -> list[Result]:
        """Finished results of one stage, by number of the candidate."""
        return [result for _, result in sorted(self._results[stage].items())]

    def result(self, stage: Stage, trial: int) -> Result | None:
        return self._results[stage].get(trial)

    @property
    def rejections(self) -> list[Rejection]:
        return list(self._rejections)

    @property
    def running(self) -> dict[int, Architecture]:
        """Candidates that were started and have no score yet: under way, or left behind by a driver that died."""
        return {number: architecture for number, (architecture, _) in self._running.items()}

    def architectures(self) -> Iterator[Architecture]:
        """Every architecture that has a number."""
        yield from (result.architecture for result in self.results("inherited"))
        yield from (rejection.architecture for rejection in self._rejections)
        yield from self.running.values()

    def _recall(self, stage: Stage, trial: FrozenTrial) -> None:
        if trial.state == TrialState.COMPLETE:
            result = Result.from_dict(trial.user_attrs["result"])
            self._results[stage][result.trial] = result
        elif trial.state == TrialState.FAIL:
            known = trial.user_attrs
            number = trial.number if known["trial"] is None else int(known["trial"])
            architecture = Architecture(**trial.params)
            self._rejections.append(Rejection(number, architecture, stage, known["status"], known["reason"]))
        else:
            # RUNNING, or WAITING where the driver died between numbering a candidate and asking for it.
            study = self._studies[stage]
            params = {**trial.system_attrs["fixed_params"], **trial.params}
            live = (
                study.ask(self._distributions)
                if trial.state == TrialState.WAITING
                else optuna.trial.Trial(study, trial._trial_id)
            )
            self._running[trial.number] = (Architecture(**{gene: params[gene] for gene in GENES}), live)


def _lock(directory: Path) -> IO[str]:
    file = (directory / LOCK).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise StudyError(
            f"{directory}: another process works on this run (process {owner}); wait for it or end it"
        ) from error
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def repair_journal(path: Path) -> None:
    """Cut off a last line that a crash left unfinished: nothing in it had been acknowledged."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        content = file.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            file.truncate(complete)
            file.flush()
            os.fsync(file.fileno())
