"""The architecture of MMBT. Imports no torch."""

from dataclasses import dataclass

from nas.models.fusion.base_architectures import SingleArchitecture


@dataclass(frozen=True)
class MMBTArchitecture(SingleArchitecture):
    """The image tokens as input of the text transformer, both encoders fine-tuned."""

    family = "mmbt"
    title = "MMBT"
    source = (
        "Multimodal bitransformer (Kiela et al., 2019, arXiv 1909.02950): the image tokens as input of the text "
        "transformer, both fine-tuned."
    )
    trains = ("image", "text")
