"""Measure the latency of a trained model that the search has not measured, and of files of other formats."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

from nas.config.schema import Config
from nas.data.features.store import FeatureSplit
from nas.run.export import TrainedWeights
from nas.run.model_parts import ModelParts
from nas.run.prepare import SearchContext
from nas.run.reruns import read_simple_results, write_simple_result
from nas.run.roles import SolvedRole
from nas.search.trial import Result
from nas.training.evaluate import forward_seconds

_WARMUP_CALLS, _MIN_CALLS, _MAX_CALLS = 2, 5, 30
_ENOUGH_SECONDS = 2.0


def shortest_seconds(call: Callable[[], object]) -> float:
    """Return the shortest time of a call in seconds, of 5 to 30 calls within about two seconds.

    Args:
        call: The call, which returns when its work is done.
    """
    shortest, spent = math.inf, 0.0
    for index in range(_WARMUP_CALLS + _MAX_CALLS):
        started = time.perf_counter()
        call()
        if index >= _WARMUP_CALLS:
            seconds = time.perf_counter() - started
            shortest, spent = min(shortest, seconds), spent + seconds
            if spent > _ENOUGH_SECONDS and index >= _WARMUP_CALLS + _MIN_CALLS:
                break
    return shortest


def latency_seconds(
    result: Result, directory: Path, config: Config, parts: ModelParts, validation: FeatureSplit
) -> float | None:
    """Return the seconds of a forward pass from the encoder outputs; measured now unless the search has done so.

    Args:
        result: The result of the model.
        directory: The run directory.
        config: The configuration of the search.
        parts: The parts of the model besides its trained weights.
        validation: The validation samples, with which it is measured.

    Returns:
        The seconds; None for a model whose inputs the search did not need: the linear classifier beside fine-tuned
        encoders.

    Raises:
        StudyError: If the weights are missing or damaged.
    """
    if result.latency_seconds is not None:
        return result.latency_seconds
    model = TrainedWeights.of(directory, result, config.space).load(parts)
    if not validation.can_read(model.entry_layers()):
        return None
    size = min(config.search.latency_batch, len(validation))
    return forward_seconds(model, validation, result.architecture, size, precision=result.precision)


def with_latency(
    simple: Mapping[str, Result], directory: Path, config: Config, prepared: SearchContext
) -> Mapping[str, Result]:
    """Measure the latency of solved models once, where it is an objective or bounded, and store it.

    Args:
        simple: The simpler models that there are, by their roles.
        directory: The run directory.
        config: The configuration of the search.
        prepared: What the search is prepared with.

    Returns:
        The same models, with the latency of those that are solved.
    """
    found = dict(simple)
    if not config.search.wants_latency:
        return simple
    parts, validation = ModelParts.of(prepared), prepared.store.splits["validation"]
    for role, result in read_simple_results(directory).items():
        if role in get_args(SolvedRole) and result.latency_seconds is None:
            seconds = latency_seconds(result, directory, config, parts, validation)
            found[role] = replace(result, latency_seconds=seconds)
            write_simple_result(directory, found[role])
    return found
