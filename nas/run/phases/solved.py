"""The frame of classifiers that are solved to their optimum in this process, each once for a run, and stored."""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from nas.common.errors import StudyError
from nas.execution.worker_setup import WorkerSetup
from nas.memory.measurement import MemoryWatch, private_bytes, release_freed_memory
from nas.models.fusion.supernet import build_model
from nas.run.phases.context import PhaseContext, PhaseWatch
from nas.run.prepare import SearchContext
from nas.run.progress_lines import PHASE_TITLES, scores_text
from nas.run.reruns import read_simple_result, simple_result_path, write_simple_result
from nas.search.keys import BilinearKey, LinearKey
from nas.search.space import Architecture
from nas.search.trial import Result, job_seed
from nas.training.checkpoint import save_weights, training_facts
from nas.training.kept_logits import keep_logits
from nas.training.linear import LinearChoice
from nas.training.stopping import StopRequested


class LeftOutError(Exception):
    """The classifier is left out, for the reason in the message."""


@dataclass(frozen=True)
class Solved:
    """A solved classifier.

    Args:
        architecture: Its architecture.
        choice: The solution that validation prefers, with its scores and logits.
        tensors: The trained tensors of its model.
        needed_bytes: The predicted peak memory of solving it.
        penalty_name: What the penalty is called.
        facts: What is kept with the weights beside the facts of every training.
    """

    architecture: Architecture
    choice: LinearChoice
    tensors: Mapping[str, Tensor]
    needed_bytes: int
    penalty_name: str
    facts: Mapping[str, str] = field(default_factory=dict)


class SolvedPhase(ABC):
    """Solves a classifier in this process, once for each run.

    Args:
        setup: The run directory and the number of threads.
        prepared: The encoders and their readouts.
    """

    key: ClassVar[LinearKey | BilinearKey]
    """The key of the classifier."""
    architecture_class: ClassVar[type[Architecture]]
    """The class of its architecture."""

    def __init__(self, setup: WorkerSetup, prepared: SearchContext) -> None:
        self._setup = setup
        self._prepared = prepared

    def run(self, context: PhaseContext) -> Result | None:
        """Return the result of the classifier, of an earlier session if that has solved it.

        Args:
            context: The search.

        Returns:
            The result; None if the user has interrupted the search, or the classifier is left out, which is shown.

        Raises:
            StudyError: If the stored result is damaged or another search's.
            OSError: If the result cannot be stored.
        """
        stored = read_simple_result(self._setup.run_directory, self.key.name)
        if stored is not None:
            self._check_own(context, stored)
            if self._setup.weights_path(stored.key).exists():
                return stored
        if context.clock.is_interrupted:
            return None
        title = PHASE_TITLES[self.key.name]
        try:
            self._check_time(context)
            left = PhaseWatch(context.clock, self.key.name).left_seconds()
            context.reporter.progress(title, 0, None, left_seconds=left)
            with _solver_threads(self._setup.thread_count):
                return self._run(context)
        except StopRequested:
            return None
        except LeftOutError as reason:
            context.reporter.note(f"{title}: left out, because {reason}")
            return None
        finally:
            release_freed_memory()  # this process may be a worker, too

    @abstractmethod
    def _solve(self, context: PhaseContext) -> Solved:
        """Return the classifier.

        Raises:
            LeftOutError: If it cannot be solved within memory and time.
            StopRequested: If the user has interrupted the search.
        """

    def _check_time(self, context: PhaseContext) -> None:
        """Check that there is time left.

        Raises:
            LeftOutError: If there is none.
        """
        clock = context.clock
        if clock.is_over(clock.deadlines.total_seconds):
            raise LeftOutError("the time budget is spent")

    def _should_stop(self, context: PhaseContext) -> bool:
        """Return whether the user has interrupted the search.

        Raises:
            LeftOutError: If there is no time left.
        """
        self._check_time(context)
        return context.clock.is_interrupted

    def _check_own(self, context: PhaseContext, stored: Result) -> None:
        is_own = stored.key == self.key and isinstance(stored.architecture, self.architecture_class)
        if not is_own or stored.seed != job_seed(context.config.seed, "full", stored.architecture):
            path = simple_result_path(self._setup.run_directory, self.key.name)
            raise StudyError(
                f"{path}: holds another training; expected the {PHASE_TITLES[self.key.name]} of this search, got "
                f"{stored.architecture} with seed {stored.seed}; delete it to solve the classifier again"
            )

    def _run(self, context: PhaseContext) -> Result:
        """Solve the classifier and store it."""
        started, held_bytes = time.monotonic(), private_bytes()
        with MemoryWatch() as watch:
            solved = self._solve(context)
        choice = solved.choice
        result = Result(
            key=self.key,
            architecture=solved.architecture,
            stage="full",
            score=choice.score,
            metrics=choice.metrics,
            step_count=choice.solution.step_count,
            supernet_steps=0,
            seed=job_seed(context.config.seed, "full", solved.architecture),  # names the search; nothing is random
            seconds=time.monotonic() - started,
            predicted_peak_bytes=solved.needed_bytes,
            measured_peak_bytes=max(watch.peak_bytes - held_bytes, 0),
        )
        self._save_weights(solved, result)
        keep_logits(self._setup.logits_path(result.key), choice.logits, result)
        write_simple_result(self._setup.run_directory, result)
        context.reporter.note(
            f"{PHASE_TITLES[self.key.name]} on the frozen encoders: "
            f"{scores_text(result, context.config.search.objective)} "
            f"({solved.architecture.summary()}, {solved.penalty_name} {choice.penalty:.2g}, chosen on validation)"
        )
        return result

    def _save_weights(self, solved: Solved, result: Result) -> None:
        """Write the classifier as the trained tensors of its family."""
        model = build_model(
            image_encoder=self._prepared.image_encoder,
            text_encoder=self._prepared.text_encoder,
            architecture=result.architecture,
            num_classes=len(self._prepared.store.class_names),
            seed=0,
        )
        model.load_state_dict({name: tensor.float() for name, tensor in solved.tensors.items()})
        save_weights(self._setup.weights_path(result.key), model, **training_facts(result), **solved.facts)


@contextlib.contextmanager
def _solver_threads(count: int) -> Iterator[None]:
    """Compute with a number of threads, as the workers do: it decides the order in which sums are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
