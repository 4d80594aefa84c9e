"""The architecture of the fine-tuned text encoder. Imports no torch."""

from dataclasses import dataclass

from nas.models.fusion.base_architectures import SingleArchitecture


@dataclass(frozen=True)
class TextOnlyArchitecture(SingleArchitecture):
    """The text encoder, fine-tuned, with a linear classifier."""

    family = "text_only"
    title = "text only"
    source = "The text encoder, fine-tuned, with a linear classifier; images are not read."
    trains = ("text",)
