"""Solve the bilinear classifier: what interaction of image and text adds to the linear classifier.

It reads what the linear classifier reads and starts from it, so it comes right after it.
"""

import time

from nas.common.errors import StudyError
from nas.common.units import format_bytes
from nas.execution.worker_setup import WorkerSetup
from nas.memory.measurement import MemoryWatch, private_bytes, release_freed_memory
from nas.models.fusion.base import sizes_of
from nas.models.fusion.bilinear.architecture import BilinearArchitecture
from nas.models.fusion.linear.architecture import LinearArchitecture
from nas.models.fusion.supernet import build_model
from nas.run.phases.context import PhaseContext
from nas.run.phases.linear import LINEAR_PENALTY, solver_threads
from nas.run.prepare import SearchContext
from nas.run.progress_lines import PHASE_TITLES, scores_text
from nas.run.reruns import BILINEAR_RESULT, read_bilinear_result, write_simple_result
from nas.search.keys import BilinearKey
from nas.search.space import MODALITIES
from nas.search.trial import Result, job_seed
from nas.training.bilinear import (
    LinearStart,
    ReadSamples,
    Whitening,
    bilinear_bytes,
    choose_bilinear,
    component_count,
    fit_whitening,
)
from nas.training.checkpoint import load_tensors, save_weights, training_facts
from nas.training.kept_logits import keep_logits
from nas.training.linear import LinearChoice, LinearSolution
from nas.training.losses import build_loss
from nas.training.stopping import StopRequested

_TIME_FRACTION = 0.1
"""The part of a time budget after which the classifier is left out."""
_SMALLEST_COUNT = 5
"""The number of components below which a smaller number for lack of memory is not tried."""


class _LeftOutError(Exception):
    """The classifier is left out, for the reason in the message."""


class BilinearPhase:
    """Solves the bilinear classifier in this process, once for each run.

    Args:
        setup: The run directory and the number of threads.
        prepared: The encoders and their readouts.
    """

    def __init__(self, setup: WorkerSetup, prepared: SearchContext) -> None:
        self._setup = setup
        self._prepared = prepared

    def run(self, context: PhaseContext, linear: Result) -> Result | None:
        """Return the result of the bilinear classifier, of an earlier session if that has solved it.

        Args:
            context: The search.
            linear: The result of the linear classifier.

        Returns:
            The result; None if the user has interrupted the search, or the classifier is left out, which is shown.

        Raises:
            StudyError: If the stored result is damaged or another search's.
            OSError: If the result cannot be stored.
        """
        stored = read_bilinear_result(self._setup.run_directory)
        if stored is not None:
            self._check_own(context, stored)
            if self._setup.weights_path(stored.key).exists():
                return stored
        if context.clock.is_interrupted:
            return None
        try:
            self._check_time(context)
            context.reporter.note(f"Phase: {PHASE_TITLES['bilinear']}")
            with solver_threads(self._setup.thread_count):
                return self._solve(context, linear)
        except StopRequested:
            return None
        except _LeftOutError as reason:
            context.reporter.note(f"bilinear classifier: left out, because {reason}")
            return None
        finally:
            release_freed_memory()  # this process may be a worker, too

    def _check_own(self, context: PhaseContext, stored: Result) -> None:
        is_bilinear = stored.key == BilinearKey() and isinstance(stored.architecture, BilinearArchitecture)
        if not is_bilinear or stored.seed != job_seed(context.config.seed, "full", stored.architecture):
            raise StudyError(
                f"{self._setup.run_directory / BILINEAR_RESULT}: holds another training; expected the bilinear "
                f"classifier of this search, got {stored.architecture} with seed {stored.seed}; delete it to solve the "
                "classifier again"
            )

    def _check_time(self, context: PhaseContext) -> None:
        """Check that there is time left; that of the classifier counts over all sessions of the run.

        Raises:
            _LeftOutError: If there is none.
        """
        clock, budget = context.clock, context.config.budget.time_seconds
        if clock.is_over(clock.deadlines.total_seconds):
            raise _LeftOutError("the time budget is spent")
        if budget is not None and clock.account.phases.get("bilinear", 0.0) > _TIME_FRACTION * budget:
            raise _LeftOutError(f"it takes more than {_TIME_FRACTION:.0%} of the time budget")

    def _solve(self, context: PhaseContext, linear: Result) -> Result:
        started, held_bytes = time.monotonic(), private_bytes()
        count, needed_bytes = self._affordable_count(context)
        assert isinstance(linear.architecture, LinearArchitecture)
        architecture = BilinearArchitecture(count, linear.architecture.image_readout, linear.architecture.text_readout)
        with MemoryWatch() as watch:
            whitenings, chosen = self._choose(context, linear, architecture)
        result = Result(
            key=BilinearKey(),
            architecture=architecture,
            stage="full",
            score=chosen.score,
            metrics=chosen.metrics,
            step_count=chosen.solution.step_count,
            supernet_steps=0,
            seed=job_seed(context.config.seed, "full", architecture),  # names the search; nothing is random
            seconds=time.monotonic() - started,
            predicted_peak_bytes=needed_bytes,
            measured_peak_bytes=max(watch.peak_bytes - held_bytes, 0),
        )
        self._save_weights(whitenings, chosen.solution, result)
        keep_logits(self._setup.logits_path(result.key), chosen.logits, result)
        write_simple_result(self._setup.run_directory, result)
        context.reporter.note(
            f"bilinear classifier on the frozen encoders: {scores_text(result, context.config.search.objective)} "
            f"({architecture.summary()}, L2 penalty of the products {chosen.penalty:.2g}, chosen on validation)"
        )
        return result

    def _affordable_count(self, context: PhaseContext) -> tuple[int, int]:
        """Return the number of components that fits the memory budget, and what it needs in bytes.

        Raises:
            _LeftOutError: If the least that is worth it does not fit.
        """
        budget = context.config.budget.memory_bytes
        store, encoders = self._prepared.store, (self._prepared.image_encoder, self._prepared.text_encoder)
        counts = [len(store.splits[name]) for name in ("train", "validation")]
        sizes, default = sizes_of(*encoders), BilinearArchitecture.default(sizes_of(*encoders)).components
        widths = sizes.image_hidden_size, sizes.text_hidden_size
        count = component_count(counts[0], widths, default)
        while True:
            needed = bilinear_bytes(counts[0], counts[1], widths, len(store.class_names), count)
            if needed <= budget:
                return count, needed
            if count // 2 < _SMALLEST_COUNT:
                raise _LeftOutError(f"it needs {format_bytes(needed)}, and the memory budget is {format_bytes(budget)}")
            count //= 2

    def _choose(
        self, context: PhaseContext, linear: Result, architecture: BilinearArchitecture
    ) -> tuple[tuple[Whitening, Whitening], LinearChoice]:
        """Return the projections of both readouts and the classifier.

        Raises:
            _LeftOutError: If a readout is constant.
            StopRequested: If the user has interrupted the search.
        """
        config, count = context.config, architecture.components
        train, validation = (self._read("train", architecture), self._read("validation", architecture))
        whitenings = fit_whitening(train.image, count), fit_whitening(train.text, count)
        for modality, whitening in zip(MODALITIES, whitenings, strict=True):
            if not whitening.rank:
                raise _LeftOutError(f"the {modality} readout is the same for all training samples")
        tensors, facts = load_tensors(self._setup.weights_path(linear.key), **training_facts(linear))
        if LINEAR_PENALTY not in facts:
            raise _LeftOutError("the linear classifier was solved by a version that does not keep its penalty")
        start = LinearStart(tensors["classifier.weight"], tensors["classifier.bias"], float(facts[LINEAR_PENALTY]))

        def should_stop() -> bool:
            self._check_time(context)
            return context.clock.is_interrupted

        chosen = choose_bilinear(
            train,
            validation,
            whitenings=whitenings,
            start=start,
            loss=build_loss(config.recipe, train.labels, len(self._prepared.store.class_names)),
            score=lambda metrics: config.search.score_of("full", metrics),
            should_stop=should_stop,
        )
        return whitenings, chosen

    def _read(self, split: str, architecture: BilinearArchitecture) -> ReadSamples:
        samples = self._prepared.store.splits[split]
        return ReadSamples(*samples.readouts(*architecture.readouts), samples.labels)

    def _save_weights(self, whitenings: tuple[Whitening, Whitening], solution: LinearSolution, result: Result) -> None:
        """Write projections and classifier as the trained tensors of the family `bilinear`."""
        model = build_model(
            image_encoder=self._prepared.image_encoder,
            text_encoder=self._prepared.text_encoder,
            architecture=result.architecture,
            num_classes=len(self._prepared.store.class_names),
            seed=0,
        )
        image, text = whitenings
        tensors = {
            "image_projection.weight": image.weight,
            "image_projection.bias": image.bias,
            "text_projection.weight": text.weight,
            "text_projection.bias": text.bias,
            "classifier.weight": solution.weight.float(),
            "classifier.bias": solution.bias.float(),
        }
        model.load_state_dict(tensors)
        save_weights(self._setup.weights_path(result.key), model, **training_facts(result))
