"""The architectures of VLMo. Imports no torch."""

from dataclasses import dataclass

from nas.search.pretraining import OBJECTIVES
from nas.search.space import Architecture, EncoderSizes, Gene


@dataclass(frozen=True)
class VLMoArchitecture(Architecture):
    """One transformer for both modalities, whose lower layers have an expert for each of them.

    One number says which experts a layer has, and so how many have a vision-language expert: the lower
    `modality_layers` have experts V and L, all others, at least one, a single expert VL. With 0 there is no other than
    VL. A layer in which both modalities use V, or only one of them VL, would be one of these two under another name.

    Args:
        modality_layers: The number of layers, from the lowest on, with an expert for each modality.
    """

    family = "vlmo"
    title = "VLMo"
    source = (
        "VLMo (Bao et al., NeurIPS 2022): the image transformer reads image and text, with feed-forward experts for "
        "each modality below, and for both above."
    )
    genes = (Gene("modality_layers", "L_m", 0, unit="layers"),)
    trains = ("image", "text")
    pretraining_objectives = OBJECTIVES
    pretrains_on_texts = True

    modality_layers: int

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "VLMoArchitecture":
        """Return the paper's: vision-language experts in the upper 2 of 12 layers, or 3 of 24."""
        return cls(max(sizes.image_layers - 1 - sizes.image_layers // 12, 0))

    @classmethod
    def default_choices(cls, sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
        """Return the choices of a search file without `space`: spread over the layers, and the default."""
        count, default = sizes.image_layers, cls.default(sizes).modality_layers
        return {"modality_layers": tuple(sorted({0, count // 3, 2 * count // 3, default, count - 1}))}

    @classmethod
    def largest_values(cls, sizes: EncoderSizes) -> dict[str, int]:
        return {**super().largest_values(sizes), "modality_layers": sizes.image_layers - 1}
