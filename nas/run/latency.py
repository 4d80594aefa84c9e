"""Measure the latency of a trained model that the search has not measured."""

from pathlib import Path

from nas.config.schema import Config
from nas.data.features.store import FeatureSplit
from nas.run.export import TrainedWeights
from nas.run.model_parts import ModelParts
from nas.search.trial import Result
from nas.training.evaluate import forward_seconds


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
