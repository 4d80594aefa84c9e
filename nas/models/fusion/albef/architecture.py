"""The architectures of ALBEF. Imports no torch."""

from dataclasses import dataclass

from nas.search.pretraining import OBJECTIVES
from nas.search.space import Architecture, EncoderSizes, Gene


@dataclass(frozen=True)
class ALBEFArchitecture(Architecture):
    """An image encoder, and a text encoder whose upper layers attend to the image.

    Momentum and alpha of momentum distillation are no genes: they change how a model is pretrained, not what it
    computes, and every architecture can be pretrained with any of them. They are keys of `pretraining`.

    Args:
        fusion_layer: The number of layers of the text encoder below the first one with cross-attention.
    """

    family = "albef"
    title = "ALBEF"
    source = (
        "ALBEF (Li et al., NeurIPS 2021): the upper layers of the text encoder attend to the image, both encoders "
        "fine-tuned."
    )
    genes = (Gene("fusion_layer", "L_f", 0, is_layer=True),)
    layers_counted = "of the text encoder"
    trains = ("image", "text")
    pretraining_objectives = OBJECTIVES

    fusion_layer: int

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "ALBEFArchitecture":
        """Return the paper's: cross-attention in the upper half of the text encoder, 6 of 12 layers."""
        return cls(sizes.text_layers // 2)

    @classmethod
    def default_choices(cls, sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
        """Return the choices of a search file without `space`: first layers spread over the text encoder."""
        count, default = sizes.text_layers, cls.default(sizes).fusion_layer
        return {"fusion_layer": tuple(sorted({0, count // 3, default, 2 * count // 3, count - 1}))}

    @classmethod
    def num_layers(cls, sizes: EncoderSizes) -> int:
        return sizes.text_layers
