"""The objectives of a pretraining on pairs of image and text. Imports no torch."""

from typing import Literal, get_args

Objective = Literal["contrastive", "matching", "masked_language"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
