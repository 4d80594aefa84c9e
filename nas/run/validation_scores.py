"""Score the full trainings of a run on validation, from the logits that they have kept."""

from pathlib import Path

import torch
from torch import Tensor

from nas.config.schema import Config
from nas.execution.worker_setup import kept_logits_path
from nas.run.export import TrainedWeights
from nas.run.model_parts import ModelParts
from nas.run.prepare import SearchContext
from nas.search.keys import DistilledKey, RerunKey, SeededKey
from nas.search.racing import SeedScores
from nas.search.trial import Result
from nas.training.kept_logits import keep_logits, read_logits
from nas.training.seed_scores import seed_scores
from nas.training.split_logits import split_logits


def validation_scores(result: Result, directory: Path, config: Config, prepared: SearchContext) -> SeedScores:
    """Return the score of a full training, and how it depends on the validation samples.

    Args:
        result: The result of the training.
        directory: The run directory.
        config: The configuration of the search.
        prepared: The encoders and features.

    Raises:
        StudyError: If neither its logits nor its weights are whole.
        OSError: If logits that were computed again cannot be kept.
    """
    validation = prepared.store.splits["validation"]
    logits = validation_logits(result, directory, config, prepared)
    return seed_scores(
        logits,
        torch.from_numpy(validation.labels),
        config.search.objective,
        groups=validation.image_of_sample,
        has_luck=isinstance(result.key, SeededKey | RerunKey | DistilledKey),
    )


def validation_logits(result: Result, directory: Path, config: Config, prepared: SearchContext) -> Tensor:
    """Return the validation logits of a full training, (N, C): the kept ones, or else from its weights.

    For retrieval these are the embeddings of the pairs, (N, 2E).

    Args:
        result: The result of the training.
        directory: The run directory.
        config: The configuration of the search.
        prepared: The encoders and features.

    Raises:
        StudyError: If neither its logits nor its weights are whole.
        OSError: If logits that were computed again cannot be kept.
    """
    store, path = prepared.store, kept_logits_path(directory, result.key)
    validation = store.splits["validation"]
    logits = read_logits(path, result, (len(validation), len(store.class_names) or None))
    if logits is None:
        model = TrainedWeights.of(directory, result, config.space).load(ModelParts.of(prepared))
        logits = split_logits(model, validation, batch_size=config.recipe.batch_size, precision=result.precision)
        keep_logits(path, logits, result)
    return logits
