"""LateConcat: its architectures. No torch here."""

from dataclasses import dataclass

from nas.models.fusion.base_architectures import SingleArchitecture


@dataclass(frozen=True)
class LateConcatArchitecture(SingleArchitecture):
    """A linear classifier on what both encoders say, which are fine-tuned."""

    family = "late_concat"
    title = "LateConcat"
    source = "A linear classifier on what two encoders say, which are fine-tuned."
    trains = ("image", "text")
