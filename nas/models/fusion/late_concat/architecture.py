"""The architecture of LateConcat. Imports no torch."""

from dataclasses import dataclass

from nas.models.fusion.base_architectures import SingleArchitecture


@dataclass(frozen=True)
class LateConcatArchitecture(SingleArchitecture):
    """A linear classifier on both encoders, which are fine-tuned."""

    family = "late_concat"
    title = "LateConcat"
    source = "A linear classifier on the outputs of two fine-tuned encoders."
    trains = ("image", "text")
