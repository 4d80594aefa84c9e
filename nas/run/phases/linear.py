"""Solve the linear classifier on the readouts of the frozen encoders: the simplest model that a search has to beat.

It is solved for each pair of readouts; the best pair on validation is kept, with the best penalty.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator

import torch

from nas.common.errors import StudyError
from nas.execution.worker_setup import WorkerSetup
from nas.memory.measurement import MemoryWatch, private_bytes, release_freed_memory
from nas.models.fusion.base import sizes_of
from nas.models.fusion.linear.architecture import LinearArchitecture
from nas.models.fusion.supernet import build_model
from nas.run.phases.context import PhaseContext
from nas.run.prepare import SearchContext
from nas.run.progress_lines import PHASE_TITLES, scores_text
from nas.run.reruns import LINEAR_RESULT, read_linear_result, write_simple_result
from nas.search.keys import LinearKey
from nas.search.trial import Result, job_seed
from nas.training.checkpoint import save_weights, training_facts
from nas.training.kept_logits import keep_logits
from nas.training.linear import LinearChoice, LinearProblem, choose_penalty, solver_bytes
from nas.training.losses import build_loss
from nas.training.stopping import StopRequested

LINEAR_PENALTY = "penalty"
"""The key of the penalty in the metadata of the weights."""


class LinearPhase:
    """Solves the linear classifier in this process, once for each run.

    Args:
        setup: The run directory and the number of threads.
        prepared: The encoders and their readouts.
    """

    def __init__(self, setup: WorkerSetup, prepared: SearchContext) -> None:
        self._setup = setup
        self._prepared = prepared

    def run(self, context: PhaseContext) -> Result | None:
        """Return the result of the linear classifier, of an earlier session if that has solved it.

        Args:
            context: The search.

        Returns:
            The result; None if the user has interrupted the search, or its time is over.

        Raises:
            StudyError: If the stored result is damaged or another search's.
            OSError: If the result cannot be stored.
        """
        stored = read_linear_result(self._setup.run_directory)
        if stored is not None:
            self._check_own(context, stored)
            if self._setup.weights_path(stored.key).exists():
                return stored
        clock = context.clock

        def should_stop() -> bool:
            return clock.is_interrupted or clock.is_over(clock.deadlines.total_seconds)

        if should_stop():
            return None
        context.reporter.note(f"Phase: {PHASE_TITLES['linear']}")
        try:
            with solver_threads(self._setup.thread_count):
                return self._solve(context, should_stop)
        except StopRequested:
            return None
        finally:
            release_freed_memory()  # this process may be a worker, too

    def _check_own(self, context: PhaseContext, stored: Result) -> None:
        seed = self._seed(context)
        is_linear = stored.key == LinearKey() and isinstance(stored.architecture, LinearArchitecture)
        if not is_linear or stored.seed != seed:
            raise StudyError(
                f"{self._setup.run_directory / LINEAR_RESULT}: holds another training; expected the linear classifier "
                f"with seed {seed}, got {stored.architecture} with seed {stored.seed}; delete it to solve the "
                "classifier again"
            )

    def _seed(self, context: PhaseContext) -> int:
        """Return the seed that names the search; nothing about the classifier is random."""
        return job_seed(context.config.seed, "full", LinearArchitecture())

    def _solve(self, context: PhaseContext, should_stop: Callable[[], bool]) -> Result:
        started, held_bytes = time.monotonic(), private_bytes()
        with MemoryWatch() as watch:
            architecture, choice = self._choose(context, should_stop)
        result = Result(
            key=LinearKey(),
            architecture=architecture,
            stage="full",
            score=choice.score,
            metrics=choice.metrics,
            step_count=choice.solution.step_count,
            supernet_steps=0,
            seed=self._seed(context),
            seconds=time.monotonic() - started,
            predicted_peak_bytes=self._needed_bytes(),
            measured_peak_bytes=max(watch.peak_bytes - held_bytes, 0),
        )
        self._save_weights(choice, result)
        keep_logits(self._setup.logits_path(result.key), choice.logits, result)
        write_simple_result(self._setup.run_directory, result)
        context.reporter.note(
            f"linear classifier on the frozen encoders: {scores_text(result, context.config.search.objective)} "
            f"({architecture.summary()}, L2 penalty {choice.penalty:.2g}, chosen on validation)"
        )
        return result

    def _choose(
        self, context: PhaseContext, should_stop: Callable[[], bool]
    ) -> tuple[LinearArchitecture, LinearChoice]:
        """Return the readouts and the solution with the best score on validation; of equals, those found first.

        The inputs are standardized, so that the best penalties of two pairs of readouts are near each other.
        """
        sizes = sizes_of(self._prepared.image_encoder, self._prepared.text_encoder)
        best: tuple[LinearArchitecture, LinearChoice] | None = None
        for pair in itertools.product(*LinearArchitecture.default_choices(sizes).values()):
            architecture = LinearArchitecture(*pair)
            near = None if best is None else best[1].penalty
            choice = self._choose_penalty(architecture, context, should_stop, near)
            if best is None or choice.rank > best[1].rank:
                best = architecture, choice
        assert best is not None, "every encoder has a readout"
        return best

    def _choose_penalty(
        self,
        architecture: LinearArchitecture,
        context: PhaseContext,
        should_stop: Callable[[], bool],
        near: float | None,
    ) -> LinearChoice:
        store, config = self._prepared.store, context.config
        train, validation = store.splits["train"], store.splits["validation"]
        num_classes = len(store.class_names)
        inputs = torch.cat(train.readouts(*architecture.readouts), dim=1)
        loss = build_loss(config.recipe, train.labels, num_classes)
        problem = LinearProblem(inputs, train.labels, num_classes, loss, correlated_count=inputs.shape[1])
        return choose_penalty(
            problem,
            torch.cat(validation.readouts(*architecture.readouts), dim=1),
            validation.labels,
            score=lambda metrics: config.search.score_of("full", metrics),
            near=near,
            should_stop=should_stop,
        )

    def _needed_bytes(self) -> int:
        store = self._prepared.store
        counts = [len(store.splits[name]) for name in ("train", "validation")]
        size = self._prepared.image_encoder.hidden_size + self._prepared.text_encoder.hidden_size
        return solver_bytes(counts[0], counts[1], size, len(store.class_names), correlated_count=size)

    def _save_weights(self, choice: LinearChoice, result: Result) -> None:
        """Write the classifier as the trained tensors of the family `linear`."""
        model = build_model(
            image_encoder=self._prepared.image_encoder,
            text_encoder=self._prepared.text_encoder,
            architecture=result.architecture,
            num_classes=len(self._prepared.store.class_names),
            seed=0,
        )
        model.load_state_dict(
            {"classifier.weight": choice.solution.weight.float(), "classifier.bias": choice.solution.bias.float()}
        )
        facts = training_facts(result) | {LINEAR_PENALTY: repr(choice.penalty)}
        save_weights(self._setup.weights_path(result.key), model, **facts)


@contextlib.contextmanager
def solver_threads(count: int) -> Iterator[None]:
    """Compute with a number of threads, as the workers do: it decides the order in which sums are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
