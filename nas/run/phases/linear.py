"""Solve the linear classifier on the readouts of the frozen encoders: the simplest model that a search has to beat.

It is solved for each pair of readouts; the best pair on validation is kept, with the best penalty.
"""

import itertools
from collections.abc import Callable
from functools import partial

import torch

from nas.config.schema import Config
from nas.models.fusion.base import sizes_of
from nas.models.fusion.linear.architecture import LinearArchitecture
from nas.run.phases.context import PhaseContext
from nas.run.phases.solved import Solved, SolvedPhase
from nas.run.prepare import SearchContext
from nas.search.keys import LinearKey
from nas.training.linear import LinearChoice, LinearProblem, choose_penalty, solver_bytes
from nas.training.losses import build_loss

LINEAR_PENALTY = "penalty"
"""The key of the penalty in the metadata of the weights."""


class LinearPhase(SolvedPhase):
    """Solves the linear classifier in this process, once for each run."""

    key = LinearKey()
    architecture_class = LinearArchitecture

    def _solve(self, context: PhaseContext) -> Solved:
        architecture, choice = solve_linear(context.config, self._prepared, partial(self._should_stop, context))
        return Solved(
            architecture,
            choice,
            {"classifier.weight": choice.solution.weight, "classifier.bias": choice.solution.bias},
            self._needed_bytes(),
            "L2 penalty",
            facts={LINEAR_PENALTY: repr(choice.penalty)},
        )

    def _needed_bytes(self) -> int:
        store = self._prepared.store
        counts = [len(store.splits[name]) for name in ("train", "validation")]
        size = self._prepared.image_encoder.hidden_size + self._prepared.text_encoder.hidden_size
        return solver_bytes(counts[0], counts[1], size, len(store.class_names), correlated_count=size)


def solve_linear(
    config: Config, prepared: SearchContext, should_stop: Callable[[], bool] = lambda: False
) -> tuple[LinearArchitecture, LinearChoice]:
    """Return the readouts and the solution with the best score on validation; of equals, those found first.

    The inputs are standardized, so that the best penalties of two pairs of readouts are near each other.

    Args:
        config: The configuration of the search.
        prepared: The encoders and their readouts.
        should_stop: Function that returns whether to stop.

    Raises:
        StopRequested: If `should_stop` has returned True.
    """
    sizes = sizes_of(prepared.image_encoder, prepared.text_encoder)
    best: tuple[LinearArchitecture, LinearChoice] | None = None
    for pair in itertools.product(*LinearArchitecture.default_choices(sizes).values()):
        architecture = LinearArchitecture(*pair)
        near = None if best is None else best[1].penalty
        choice = _choose_penalty(architecture, config, prepared, near=near, should_stop=should_stop)
        if best is None or choice.rank > best[1].rank:
            best = architecture, choice
    assert best is not None, "every encoder has a readout"
    return best


def _choose_penalty(
    architecture: LinearArchitecture,
    config: Config,
    prepared: SearchContext,
    *,
    near: float | None,
    should_stop: Callable[[], bool],
) -> LinearChoice:
    train, validation = prepared.store.splits["train"], prepared.store.splits["validation"]
    num_classes = len(prepared.store.class_names)
    inputs = torch.cat(train.readouts(*architecture.readouts), dim=1)
    loss = build_loss(config.recipe, train.labels, num_classes)
    return choose_penalty(
        LinearProblem(inputs, train.labels, num_classes, loss, correlated_count=inputs.shape[1]),
        torch.cat(validation.readouts(*architecture.readouts), dim=1),
        validation.labels,
        score=lambda metrics: config.search.score_of("full", metrics),
        near=near,
        should_stop=should_stop,
    )
