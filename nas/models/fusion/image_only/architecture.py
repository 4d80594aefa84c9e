"""The architecture of the fine-tuned image encoder. Imports no torch."""

from dataclasses import dataclass

from nas.models.fusion.base_architectures import SingleArchitecture


@dataclass(frozen=True)
class ImageOnlyArchitecture(SingleArchitecture):
    """The image encoder, fine-tuned, with a linear classifier."""

    family = "image_only"
    title = "image only"
    source = "The image encoder, fine-tuned, with a linear classifier; texts are not read."
    trains = ("image",)
