"""Record the results and failures of a search: durably first, then in memory and on screen."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from nas.common.progress import Reporter
from nas.config.schema import Config
from nas.config.search_schema import objectives_of
from nas.execution.failure_policy import Verdict
from nas.execution.worker_setup import full_weights_path, trained_weights_path
from nas.memory.calibration import PeakCalibration
from nas.run.callbacks import CallbackList, TrialEvent
from nas.run.feasibility import Feasibility
from nas.run.history import HISTORY, History, HistoryPoint
from nas.run.progress_lines import STAGE_VERBS, failure_line, model_name, result_line, scores_text
from nas.run.recipe_file import RECIPE, RecipeFile
from nas.run.reruns import DISTILLED, RERUNS, RerunStore, write_simple_result
from nas.run.results_csv import keep_lost_results, write_results
from nas.search.costs import CostModel
from nas.search.keys import (
    CandidateKey,
    DefaultKey,
    DistilledKey,
    RecipeKey,
    RerunKey,
    SpeedKey,
    TeacherKey,
    VariantKey,
)
from nas.search.objectives import Objectives
from nas.search.recipe_tuning import SETTINGS
from nas.search.trial import STAGES, Failure, Result, Stage
from nas.storage.study import Study

RESULTS = "results.csv"
_RESULTS_SECONDS = 5.0
_RESULTS_SHARE = 20  # writing results.csv takes at most this part of the time


class ResultRecorder:
    """Records results and failures, and keeps what earlier sessions have measured.

    Args:
        config: The configuration of the search.
        directory: The run directory.
        study: The persistent record of all candidates.
        calibration: The correction of memory predictions; learns from measured peaks.
        reporter: The receiver of messages.
        costs: The costs of architectures: for constraints on them, and to show their parameters; None where unknown.
    """

    def __init__(
        self,
        config: Config,
        directory: Path,
        *,
        study: Study,
        calibration: PeakCalibration,
        reporter: Reporter,
        costs: CostModel | None = None,
    ) -> None:
        self._config = config
        self.directory = directory
        self._study = study
        self._objectives = objectives_of(config.search, costs)
        self.callbacks = CallbackList()
        """The receiver of results, failures and learning curves."""
        self._calibration = calibration
        self._reporter = reporter
        self._parameter_count = None if costs is None else costs.parameter_count
        self._results_due_at = -math.inf
        self._best: dict[Stage, Result] = {}
        self._has_measured_peaks = False
        self.reruns = RerunStore(directory / RERUNS)
        self.distilled = RerunStore(directory / DISTILLED)
        self.recipe = RecipeFile(directory / RECIPE)
        self.history = History(directory / HISTORY, config.search.objective, self._send_points)
        for stage in STAGES:
            for result in study.results(stage):
                self._learn(result)
        if (kept := keep_lost_results(directory / RESULTS, study)) is not None:
            reporter.note(kept)

    def _send_points(self, points: Sequence[HistoryPoint]) -> None:
        self.callbacks.on_points(points)

    def take(self, result: Result) -> None:
        """Store a result durably, then report it.

        Args:
            result: The result of a finished job.

        Raises:
            OSError: If it cannot be stored.
        """
        metric = self._config.search.objective
        if isinstance(result.key, SpeedKey | TeacherKey):
            return
        # First: if a kill parts the history from the result, the training is repeated and replaces its points.
        curve = self.history.add_result(result)
        match result.key:
            case DefaultKey():
                write_simple_result(self.directory, result)
                line = result_line("default", result, metric)
            case RecipeKey(setting=setting, seed=seed):
                self.recipe.add(result.key, result)
                full_weights_path(self.directory, result.key).unlink(missing_ok=True)  # only its score is needed
                line = f"Recipe, {SETTINGS[setting]}, seed {seed}: {scores_text(result, metric)}"
            case DistilledKey():
                self.distilled.add(result)
                line = f"{model_name(result.key)}: {scores_text(result, metric)}"
            case RerunKey():
                self.reruns.add(result)
                line = f"{model_name(result.key)}: {scores_text(result, metric)}"
            case VariantKey():
                self.reruns.add(result)
                line = result_line(model_name(result.key), result, metric)
            case _:
                self._study.finish(result, curve=curve, constraints=self._objectives.excesses(result))
                self._learn(result)
                if result.stage == "short":
                    self._keep_best_short_weights()
                line = result_line(model_name(result.key), result, metric)
        self._reporter.note(line)
        self.callbacks.on_trial(TrialEvent.of_result(self.directory, result))
        started = time.monotonic()
        if started >= self._results_due_at:
            self.write_results()
            ended = time.monotonic()
            self._results_due_at = ended + max(_RESULTS_SECONDS, _RESULTS_SHARE * (ended - started))

    def _keep_best_short_weights(self) -> None:
        """Delete the weights of short trainings, but for those of the best candidates, as many as finalists."""
        search = self._config.search
        ranked = Objectives(search.objective, constraints=search.constraints).ranked(self._study.results("short"))
        for result in ranked[search.finalists :]:
            trained_weights_path(self.directory, result.key, "short").unlink(missing_ok=True)

    def write_results(self) -> None:
        """Write `results.csv`, replacing the old file.

        Raises:
            OSError: If it cannot be written.
        """
        config = self._config
        genes_of, sizes = config.space.architecture_class, self._parameter_count
        write_results(self.directory / RESULTS, self._study, genes_of, config.search, sizes)

    def show_failure(self, failure: Failure, verdict: Verdict) -> None:
        """Report a failure and its consequence for the job.

        Args:
            failure: The failure.
            verdict: The decision of the failure policy.
        """
        self._reporter.note(failure_line(model_name(failure.job.key), failure, verdict))

    def record_failure(self, failure: Failure, feasibility: Feasibility) -> None:
        """Store a failure that ends its candidate.

        Args:
            failure: The failure.
            feasibility: The rule for what fits; learns about candidates that ran out of memory alone.
        """
        job = failure.job
        self.callbacks.on_trial(TrialEvent.of_failure(self.directory, failure))
        if failure.kind == "memory":
            feasibility.outgrew(job.architecture)
        if not isinstance(job.key, CandidateKey):
            return  # the report does without it
        self._study.reject(
            job,
            status="infeasible" if failure.kind == "memory" else "failed",
            reason=failure.reason,
            measured_peak_bytes=failure.measured_peak_bytes,
        )

    def _learn(self, result: Result) -> None:
        """Keep the best result of each stage, and correct later predictions by a measured peak."""
        best = self._best.get(result.stage)
        if best is None or result.score > best.score:
            self._best[result.stage] = result
        # Screening needs less memory than predicted, and a worker that keeps freed memory holds more.
        if result.stage != "one_shot" and not result.kept_freed_memory:
            self._calibration.observe(result.predicted_peak_bytes, result.measured_peak_bytes)
            self._has_measured_peaks = True

    @property
    def calibration_note(self) -> str | None:
        """The line about the accuracy of the memory predictions; None where no peak can be compared with them."""
        return self._calibration.summary() if self._has_measured_peaks else None

    def best_text(self) -> str:
        """Return a short text about the best result of the most expensive stage that has any."""
        for stage in reversed(STAGES):
            best = self._best.get(stage)
            if best is not None:
                scores = scores_text(best, self._config.search.objective)
                return f"best {STAGE_VERBS[stage]}: {model_name(best.key)} {scores}"
        return "no score yet"
