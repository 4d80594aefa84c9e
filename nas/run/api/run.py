"""A run as an object: its results as tables, its exported models, and its continuation."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

from nas.common.errors import ArgumentError, NasError, StudyError
from nas.common.progress import Reporter
from nas.config.choices import ANSWERS, AnswerKind
from nas.run.api.display import run_as_html, run_as_text
from nas.run.api.messages import python_errors
from nas.run.api.options import Budget, PathLike, ResumeOptions
from nas.run.api.trials import Row, column_names, front_rows, read_studies, trial_rows
from nas.run.arguments import parse_pick
from nas.run.arms.directory import is_arms_run, read_arms_run
from nas.run.arms.report import answering_run, read_arms_report
from nas.run.arms.state import STATE, ArmsState
from nas.run.directory import read_run
from nas.run.export_run import export_run
from nas.run.finalize import RELIABILITY, ROLES, read_report
from nas.run.html_report import figures
from nas.run.html_report.data import RunData, read_run_data
from nas.run.html_report.style import Figure
from nas.run.html_report.training_figures import learning_curves
from nas.run.loaded_model import LoadedModel, load
from nas.run.overview import lock_state, run_state
from nas.run.reliability import read_verdict
from nas.run.roles import BEST
from nas.run.select import best_latest


class Run:
    """A search and its results, read from its run directory whenever they are asked for, also while it is running.

    Args:
        directory: The run directory, which holds a run.
    """

    def __init__(self, directory: PathLike) -> None:
        self._directory = Path(directory)

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self._directory

    @property
    def state(self) -> str:
        """`running`, `finished`, or `stopped`, where `resume` continues; `unfinished` where only a database knows."""
        with python_errors():
            answering = self._answering
            held = lock_state(self._directory) if is_arms_run(self._directory) else None
            if held is not None:
                return held
            if answering is None:  # no arm is chosen yet
                return "stopped"
            return run_state(answering, read_run(answering))

    @property
    def report(self) -> dict[str, Any]:
        """The final report, as in `report.json`: for each exported model its metrics, costs and architecture.

        The answer of the search is `best`; it is empty before the search has ended.
        """
        with python_errors():
            return read_arms_report(self._directory) if is_arms_run(self._directory) else read_report(self._directory)

    @property
    def verdict(self) -> str:
        """The verdict in a sentence: what the answer beats beyond chance."""
        lines = self._verdict_lines
        if lines:
            return lines[0]
        return f"There is no verdict yet: the search is {self.state}; continue it with resume()."

    @property
    def reliability(self) -> list[str]:
        """How far to trust the result, one statement each; empty before the search has ended."""
        return self._verdict_lines[1:]

    @property
    def _verdict_lines(self) -> list[str]:
        with python_errors():
            answering = self._answering
            return [] if answering is None else read_verdict(answering / RELIABILITY)

    @property
    def trials(self) -> Any:
        """All candidates as a pandas data frame: one row for each candidate and stage.

        Columns: `trial`, `stage` (`one_shot`, `short`, `full`), `round`, `status`, one for each gene, `score` (higher
        is better; scores of different stages are not comparable), the metrics on validation, `training_steps`, `seed`,
        `seconds`, `trainable_parameters` (as far as `results.csv` has it), `predicted_peak_bytes`,
        `measured_peak_bytes`, `latency_seconds`, and the `reason` of candidates without a score; with several arms
        also `arm`.

        Raises:
            NasError: If pandas is not installed, or the study cannot be read.
        """
        with python_errors():
            return _as_frame(trial_rows(read_studies(self._directory)))

    @property
    def front(self) -> Any:
        """The candidates of the last stage that nothing beats in score, memory and latency, as `trials` has them."""
        with python_errors():
            return _as_frame(front_rows(read_studies(self._directory)))

    @property
    def best(self) -> Row | None:
        """The best candidate, as a row of `trials`; None if none has a score that meets the constraints.

        It is chosen on validation. After a race its training may be one with a further seed, which is no row of
        `trials`; `trial` is then the candidate's number, and None if the best is the family's default. The answer of
        the search, `report["best"]`, may be a simpler model or an ensemble.
        """
        with python_errors():
            answering = self._answering
            for entry in read_studies(self._directory):
                if entry.directory == answering:
                    found = best_latest(entry.directory, entry.config, entry.study)
                    return None if found is None else entry.row(found)
            return None

    @property
    def _answering(self) -> Path | None:
        """The run directory of the arm that answers; None if none is chosen yet."""
        if not is_arms_run(self._directory):
            return self._directory
        state = ArmsState(self._directory / STATE, read_arms_run(self._directory).names)
        return None if state.winner is None else answering_run(self._directory)

    def load(self, model: str = BEST, *, device: str = "auto", precision: str = "auto") -> LoadedModel:
        """Load an exported model of the run.

        Args:
            model: The model: `best` (the answer), `default`, `linear` or `bilinear`.
            device: The device to compute on; see `nas.load`.
            precision: The precision of products; see `nas.load`.

        Raises:
            NasError: If there is none yet, or it cannot be loaded.
        """
        with python_errors():
            if model not in ROLES:
                raise ArgumentError(f"model: no such model; expected one of {', '.join(ROLES)}, got {model!r}")
            folder = self._directory / model
            answering = self._answering
            if not folder.exists() and answering is not None:
                folder = answering / model
            if not folder.exists():
                raise StudyError(f"{folder}: is not exported yet; continue the search with resume()")
            return load(folder, device=device, precision=precision)

    def export(
        self,
        path: PathLike,
        *,
        pick: str | Sequence[str] = "answer",
        answer: AnswerKind | None = None,
        trial: int | None = None,
    ) -> Path:
        """Export the answer of the run, a candidate or a simpler model as a model folder.

        Args:
            path: The folder to write.
            pick: The rule: `answer`, `best`, `knee`, `smallest-within 0.01`, `linear` or `bilinear`.
            answer: `single`, `ensemble` or `auto`; None as the configuration says.
            trial: The number of a candidate, in place of a rule.

        Returns:
            The folder.

        Raises:
            NasError: If there is no such model, or the folder cannot be written.
        """
        with python_errors():
            if answer is not None and answer not in ANSWERS:
                raise ArgumentError(f"answer: not allowed; expected one of {', '.join(ANSWERS)}, got {answer!r}")
            how = parse_pick(pick.split() if isinstance(pick, str) else list(pick))
            is_single = trial is not None or how[0] != "answer"
            output = Path(path)
            export_run(
                answering_run(self._directory) if is_arms_run(self._directory) else self._directory,
                output,
                trial=trial,
                how=how,
                storage=None,
                answer="single" if is_single else answer,
            )
            return output

    def resume(
        self, budget: Budget | None = None, *, progress: bool | Reporter = True, **options: Unpack[ResumeOptions]
    ) -> "Run":
        """Resume the search; see `nas.resume`."""
        module = importlib.import_module("nas.run.api.search")  # which imports this one
        found: Run = module.resume(self._directory, budget, progress=progress, **options)
        return found

    def plot_history(self) -> Any:
        """Return a figure of plotly: the scores of all candidates in the order of their proposals, by stage."""
        return self._plot(figures.history)

    def plot_front(self, cost: figures.Cost = "memory") -> Any:
        """Return a figure of plotly: the metric of all candidates over a cost, and the front.

        Args:
            cost: The cost: `memory`, `parameters` or `latency`.

        Raises:
            NasError: If there is no such cost, or no candidate has it.
        """
        with python_errors():
            if cost not in figures.COSTS:
                expected = ", ".join(figures.COSTS)
                raise ArgumentError(f"cost: no such cost; expected one of {expected}, got {cost!r}")
        return self._plot(lambda data: figures.front(data, cost))

    def plot_importance(self) -> Any:
        """Return a figure of plotly: the importance of each gene for the metric after screening."""
        return self._plot(figures.importance)

    def plot_curves(self) -> Any:
        """Return a figure of plotly: the learning curves of the last trainings."""
        return self._plot(learning_curves)

    def plot_time(self) -> Any:
        """Return a figure of plotly: the time that each phase has used, and what was planned."""
        return self._plot(figures.time_by_phase)

    def _plot(self, draw: Callable[[RunData], Figure | None]) -> Any:
        """Return a figure of the run, of several arms that of the answering one.

        Raises:
            StudyError: If the run has nothing to show yet.
        """
        with python_errors():
            answering = self._answering
            found = None if answering is None else draw(read_run_data(answering))
            if found is None:
                raise StudyError(f"{self._directory}: too few results for this figure; continue with resume()")
            return figures.as_plotly(found)

    def __repr__(self) -> str:
        try:
            return run_as_text(self)
        except NasError as error:
            return f"Run({str(self._directory)!r}, cannot be read: {error})"

    def _repr_html_(self) -> str:
        """Return the run for a notebook: the verdict, and a table of the exported models."""
        return run_as_html(self)


def open_run(directory: PathLike) -> Run:
    """Return the run of a directory without running anything.

    Args:
        directory: The run directory.

    Raises:
        NasError: If it holds no run, or its description is damaged.
    """
    place = Path(directory)
    with python_errors():
        if is_arms_run(place):
            read_arms_run(place)
        else:
            read_run(place)
    return Run(place)


def _as_frame(rows: list[Row]) -> Any:
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise StudyError(
            "pandas: is not installed; expected it for tables; run pip install 'pmf-nas[pandas]'"
        ) from error
    return pandas.DataFrame(rows, columns=column_names(rows))
