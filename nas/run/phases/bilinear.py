"""Solve the bilinear classifier: what interaction of image and text adds to the linear classifier.

It reads what the linear classifier reads and starts from it, so it comes right after it.
"""

from collections.abc import Callable
from functools import partial

from nas.common.units import format_bytes
from nas.config.schema import Config
from nas.execution.worker_setup import WorkerSetup
from nas.models.fusion.base import sizes_of
from nas.models.fusion.bilinear.architecture import BilinearArchitecture
from nas.models.fusion.linear.architecture import LinearArchitecture
from nas.run.phases.context import PhaseContext
from nas.run.phases.linear import LINEAR_PENALTY
from nas.run.phases.solved import LeftOutError, Solved, SolvedPhase
from nas.run.prepare import SearchContext
from nas.search.keys import BilinearKey
from nas.search.space import MODALITIES
from nas.search.trial import Result
from nas.training.bilinear import (
    LinearStart,
    ReadSamples,
    Whitening,
    bilinear_bytes,
    choose_bilinear,
    component_count,
    fit_whitening,
)
from nas.training.checkpoint import load_tensors, training_facts
from nas.training.linear import LinearChoice
from nas.training.losses import build_loss

_TIME_FRACTION = 0.1
"""The part of a time budget after which the classifier is left out."""
_SMALLEST_COUNT = 5
"""The number of components below which a smaller number for lack of memory is not tried."""


class BilinearPhase(SolvedPhase):
    """Solves the bilinear classifier in this process, once for each run.

    Args:
        setup: The run directory and the number of threads.
        prepared: The encoders and their readouts.
        linear: The result of the linear classifier.
    """

    key = BilinearKey()
    architecture_class = BilinearArchitecture

    def __init__(self, setup: WorkerSetup, prepared: SearchContext, linear: Result) -> None:
        super().__init__(setup, prepared)
        self._linear = linear

    def _check_time(self, context: PhaseContext) -> None:
        """Check that there is time left; that of the classifier counts over all sessions of the run.

        Raises:
            LeftOutError: If there is none.
        """
        super()._check_time(context)
        budget = context.config.budget.time_seconds
        if budget is not None and context.clock.account.phases.get("bilinear", 0.0) > _TIME_FRACTION * budget:
            raise LeftOutError(f"it takes more than {_TIME_FRACTION:.0%} of the time budget")

    def _solve(self, context: PhaseContext) -> Solved:
        count, needed_bytes = affordable_count(self._prepared, context.config.budget.memory_bytes)
        read = self._linear.architecture
        assert isinstance(read, LinearArchitecture)
        architecture = BilinearArchitecture(count, read.image_readout, read.text_readout)
        (image, text), choice = solve_bilinear(
            context.config, self._prepared, architecture, self._start(), partial(self._should_stop, context)
        )
        tensors = {
            "image_projection.weight": image.weight,
            "image_projection.bias": image.bias,
            "text_projection.weight": text.weight,
            "text_projection.bias": text.bias,
            "classifier.weight": choice.solution.weight,
            "classifier.bias": choice.solution.bias,
        }
        return Solved(architecture, choice, tensors, needed_bytes, "L2 penalty of the products")

    def _start(self) -> LinearStart:
        """Return the linear classifier as the start.

        Raises:
            LeftOutError: If its penalty is not known.
        """
        path = self._setup.weights_path(self._linear.key)
        tensors, facts = load_tensors(path, **training_facts(self._linear))
        if LINEAR_PENALTY not in facts:
            raise LeftOutError("the linear classifier was solved by a version that does not keep its penalty")
        return LinearStart(tensors["classifier.weight"], tensors["classifier.bias"], float(facts[LINEAR_PENALTY]))


def affordable_count(prepared: SearchContext, budget_bytes: int) -> tuple[int, int]:
    """Return the number of components that fits a memory budget, and what it needs in bytes.

    Args:
        prepared: The encoders and their readouts.
        budget_bytes: The memory budget.

    Raises:
        LeftOutError: If the least that is worth it does not fit.
    """
    store, sizes = prepared.store, sizes_of(prepared.image_encoder, prepared.text_encoder)
    counts = [len(store.splits[name]) for name in ("train", "validation")]
    widths = sizes.image_hidden_size, sizes.text_hidden_size
    count = component_count(counts[0], widths, BilinearArchitecture.default(sizes).components)
    while True:
        needed = bilinear_bytes(counts[0], counts[1], widths, len(store.class_names), count)
        if needed <= budget_bytes:
            return count, needed
        if count // 2 < _SMALLEST_COUNT:
            raise LeftOutError(
                f"it needs {format_bytes(needed)}, and the memory budget is {format_bytes(budget_bytes)}"
            )
        count //= 2


def solve_bilinear(
    config: Config,
    prepared: SearchContext,
    architecture: BilinearArchitecture,
    start: LinearStart,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[tuple[Whitening, Whitening], LinearChoice]:
    """Return the projections of both readouts and the classifier with the best score on validation.

    Args:
        config: The configuration of the search.
        prepared: The encoders and their readouts.
        architecture: The number of components, and the readouts.
        start: The linear classifier on the same readouts.
        should_stop: Function that returns whether to stop.

    Raises:
        LeftOutError: If a readout is constant.
        StopRequested: If `should_stop` has returned True.
    """
    splits = prepared.store.splits
    train, validation = (
        ReadSamples(*splits[split].readouts(*architecture.readouts), splits[split].labels)
        for split in ("train", "validation")
    )
    count = architecture.components
    whitenings = fit_whitening(train.image, count), fit_whitening(train.text, count)
    for modality, whitening in zip(MODALITIES, whitenings, strict=True):
        if not whitening.rank:
            raise LeftOutError(f"the {modality} readout is the same for all training samples")
    chosen = choose_bilinear(
        train,
        validation,
        whitenings=whitenings,
        start=start,
        loss=build_loss(config.recipe, train.labels, len(prepared.store.class_names)),
        score=lambda metrics: config.search.score_of("full", metrics),
        should_stop=should_stop,
    )
    return whitenings, chosen
