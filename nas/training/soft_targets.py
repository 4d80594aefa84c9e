"""The probabilities of a teacher, from which a model learns in addition to the labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.training.losses import class_probabilities


@dataclass(frozen=True)
class Distillation:
    """Targets of a teacher for one batch.

    Args:
        teacher_probabilities: The probabilities of the classes by the teacher, (B, C) per micro-batch.
        weight: The weight of the distillation loss; the loss on the labels has the rest.
        temperature: The temperature of the probabilities; see `Loss.distillation_sum`.
    """

    teacher_probabilities: Sequence[Tensor]
    weight: float
    temperature: float = 1.0


@dataclass(frozen=True)
class SoftTargets:
    """Targets of a teacher for all training samples, by which a model learns in addition to the labels.

    Args:
        probabilities: The probabilities of the teacher at the temperature, float32, (N, C), in the order of the split.
        weight: The weight of the loss on them, from 0 to 1; the loss on the labels has the rest.
        temperature: The temperature; see `Loss.distillation_sum`.
    """

    probabilities: Tensor
    weight: float
    temperature: float

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, *, temperature: float, weight: float) -> "SoftTargets":
        """Return the targets of a teacher with given logits.

        Args:
            logits: The logits of the teacher, (N, C).
            labels: Labels of the data, whose shape distinguishes one label from several; see `class_probabilities`.
            temperature: The divisor of the logits.
            weight: The weight of the loss on the targets.
        """
        return cls(class_probabilities(logits / temperature, labels), weight, temperature)

    def of_batch(self, indices: NDArray[np.int64], micro_batches: int, device: torch.device) -> Distillation:
        """Return the targets of one batch.

        Args:
            indices: The indices of its samples in the split, (B,).
            micro_batches: The number of micro-batches, as in `BatchSelection.reads`.
            device: The device of the model.
        """
        parts = np.array_split(indices, min(micro_batches, len(indices)))
        targets = [self.probabilities[torch.tensor(part)].to(device) for part in parts]
        return Distillation(targets, self.weight, self.temperature)
