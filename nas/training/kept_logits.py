"""Validation logits of full trainings, kept so that an ensemble of them computes nothing again."""

from pathlib import Path

import torch
from torch import Tensor

from nas.common.boundary import MEBIBYTE
from nas.common.errors import StudyError
from nas.search.trial import Job, Result
from nas.training.checkpoint import load_tensors, save_tensors, training_facts

MAX_LOGITS_BYTES = 64 * MEBIBYTE
"""The bound of one file. Larger logits are not kept but computed from the weights where they are needed."""

_NAME = "logits"


def logits_bytes(sample_count: int, num_classes: int) -> int:
    """Return the bytes of the logits that a training keeps; 0 where they are too large to be kept.

    Args:
        sample_count: The number of validation samples.
        num_classes: The number of classes.
    """
    size = 4 * sample_count * num_classes
    return size if size <= MAX_LOGITS_BYTES else 0


def keep_logits(path: Path, logits: Tensor, training: Job | Result) -> None:
    """Write the validation logits of a training atomically, with a checksum, unless they are too large.

    Args:
        path: The file; its folder is created.
        logits: The logits, float32, (N, C).
        training: The training that they come from.

    Raises:
        OSError: If they cannot be written.
    """
    if logits_bytes(*logits.shape):
        save_tensors(path, {_NAME: logits}, **training_facts(training))


def read_logits(path: Path, training: Job | Result, shape: tuple[int, int | None]) -> Tensor | None:
    """Return the validation logits that a training has kept, float32, (N, C); for retrieval the embeddings, (N, 2E).

    Args:
        path: The file.
        training: The training.
        shape: The numbers of samples and classes; None for a width that is not known before, that of embeddings.

    Returns:
        The logits; None if the file is missing, damaged, or another training's, so that they have to be computed.
    """
    try:
        tensors, _ = load_tensors(path, **training_facts(training))
    except StudyError:
        return None
    logits = tensors.get(_NAME)
    if logits is None or logits.dtype != torch.float32 or logits.ndim != 2:
        return None
    return logits if len(logits) == shape[0] and shape[1] in (None, logits.shape[1]) else None
