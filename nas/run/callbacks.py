"""Callbacks of a search: code of the user, or a logger, that is called while the search runs. Imports no torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nas.common.interrupt import Interrupted
from nas.common.progress import Reporter
from nas.run.history import HistoryPoint, TrainingName
from nas.search.space import Architecture
from nas.search.trial import Failure, Result

EndOutcome = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True)
class StageEvent:
    """The start of a phase of a search.

    Args:
        directory: The run directory.
        stage: The phase: `linear`, `bilinear`, `speed`, `recipe`, `supernet`, `candidates`, `finalists`, `race`, ...
        spent_seconds: The running time of the search before the phase, over all sessions.
    """

    directory: Path
    stage: str
    spent_seconds: float


@dataclass(frozen=True)
class TrialEvent:
    """A model that was scored or trained, or could not be.

    Args:
        directory: The run directory.
        trial: The candidate as in `results.csv`: its number, or the name of another model, such as `default`.
        stage: `one_shot`, `short`, `full`, `recipe` or `rerun`.
        seed: The seed of the training.
        genes: The architecture: the name of each gene → its value.
        metrics: The metrics on validation; empty after a failure.
        steps: The number of training steps.
        seconds: The time in the worker; 0 after a failure.
        peak_bytes: The measured peak of the worker's memory; None if it is not known.
        failure: Why there is no score; None if there is one.
    """

    directory: Path
    trial: str
    stage: str
    seed: int
    genes: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    peak_bytes: int | None = None
    failure: str | None = None

    @classmethod
    def of_result(cls, directory: Path, result: Result) -> "TrialEvent":
        """Return the event of a result."""
        name = TrainingName.of(result.key, result.stage, result.seed)
        return cls(
            directory,
            name.trial,
            name.stage,
            result.seed,
            _genes(result.architecture),
            dict(result.metrics),
            result.step_count,
            result.seconds,
            result.measured_peak_bytes,
        )

    @classmethod
    def of_failure(cls, directory: Path, failure: Failure) -> "TrialEvent":
        """Return the event of a failure that ends a candidate."""
        job = failure.job
        name = TrainingName.of(job.key, job.stage, job.seed)
        genes = _genes(job.architecture)
        return cls(
            directory,
            name.trial,
            name.stage,
            job.seed,
            genes,
            peak_bytes=failure.measured_peak_bytes,
            failure=failure.reason,
        )


def _genes(architecture: Architecture) -> dict[str, Any]:
    return {gene.name: gene.plain(getattr(architecture, gene.name)) for gene in architecture.genes}


@dataclass(frozen=True)
class EndEvent:
    """The end of a session.

    Args:
        directory: The run directory.
        outcome: `finished`; `interrupted` by the user; or `failed` with an error.
        spent_seconds: The running time of the search over all sessions.
    """

    directory: Path
    outcome: EndOutcome
    spent_seconds: float


class Callback:
    """Base class of callbacks, whose methods do nothing; override those that are needed.

    Methods are called in the process of the search, one at a time; the search waits for them. An exception in one ends
    nothing: it is reported once for each callback and method, later events are still sent, and the search goes on.
    """

    def on_stage(self, event: StageEvent) -> None:
        """Receive the start of a phase."""

    def on_trial(self, event: TrialEvent) -> None:
        """Receive a model that was scored or trained, after its result is durable, or a failure that ends it."""

    def on_points(self, points: Sequence[HistoryPoint]) -> None:
        """Receive new points of learning curves, and evaluations, after they were written to `history.jsonl`.

        A training that starts again sends the numbers of its steps again.
        """

    def on_end(self, event: EndEvent) -> None:
        """Receive the end of the session, also after an interruption or an error."""


class CallbackList(Callback):
    """Sends every event to several callbacks.

    Args:
        callbacks: The callbacks.
        reporter: The receiver of messages about their exceptions.
    """

    def __init__(self, callbacks: Sequence[Callback] = (), reporter: Reporter | None = None) -> None:
        self._callbacks = tuple(callbacks)
        self._reporter = reporter
        self._reported: set[tuple[int, str]] = set()

    def on_stage(self, event: StageEvent) -> None:
        self._send("on_stage", event)

    def on_trial(self, event: TrialEvent) -> None:
        self._send("on_trial", event)

    def on_points(self, points: Sequence[HistoryPoint]) -> None:
        self._send("on_points", points)

    def on_end(self, event: EndEvent) -> None:
        self._send("on_end", event)

    def _send(self, method: str, event: object) -> None:
        for index, callback in enumerate(self._callbacks):
            try:
                getattr(callback, method)(event)
            except Exception as error:
                if self._reporter is not None and (index, method) not in self._reported:
                    self._reported.add((index, method))
                    reason = " ".join(f"{type(error).__name__}: {error}".split())
                    self._reporter.note(
                        f"Callback {type(callback).__name__}.{method} failed: {reason}; the search goes on, and "
                        "further failures of it are not shown"
                    )


@contextmanager
def ending(callbacks: Callback, directory: Path, spent_seconds: Callable[[], float]) -> Iterator[None]:
    """Send the end of a session when the block ends.

    Args:
        callbacks: The receiver.
        directory: The run directory.
        spent_seconds: Function that returns the running time of the search.
    """
    outcome: EndOutcome = "failed"
    try:
        yield
        outcome = "finished"
    except (Interrupted, KeyboardInterrupt):
        outcome = "interrupted"
        raise
    finally:
        callbacks.on_end(EndEvent(directory, outcome, spent_seconds()))
