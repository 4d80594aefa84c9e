"""What a distillation consists of: the teacher, and how a model learns from it. Imports no torch.

Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, 2015.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

TEMPERATURE = 2.0
"""The divisor of the logits of teacher and student; Hinton et al. found 2.5 to 4 best for small students."""

WEIGHT = 0.5
"""The weight of the loss on the teacher's probabilities; the loss on the labels has the rest."""

SEEDS = 2
"""The number of trainings of a distilled model: with one, nothing would be known about the luck of its seed."""


def teacher_digest(members: Sequence[Mapping[str, Any]]) -> str:
    """Return a short name of a teacher, and of what is learned from it: eight hexadecimal digits.

    Args:
        members: The results and the weights of the members, as plain values.
    """
    content = json.dumps([list(members), TEMPERATURE, WEIGHT], sort_keys=True)
    return f"{zlib.crc32(content.encode()):08x}"
