"""The architectures of MBT. Imports no torch."""

from dataclasses import dataclass

from nas.search.space import Architecture, EncoderSizes, Gene, GeneValue


@dataclass(frozen=True)
class MBTArchitecture(Architecture):
    """Bottleneck tokens between both encoders, which are fine-tuned.

    Args:
        fusion_layer: The number of layers of the shallower encoder below the first fusing layer.
        bottlenecks: The number of bottleneck tokens, the only exchange between the modalities; at least 1.
    """

    family = "mbt"
    title = "MBT"
    source = (
        "Multimodal bottleneck transformer (Nagrani et al., NeurIPS 2021): two fine-tuned encoders that "
        "exchange a few bottleneck tokens."
    )
    genes = (Gene("fusion_layer", "L_f", 0, is_layer=True), Gene("bottlenecks", "B", 1, unit="tokens"))
    trains = ("image", "text")

    fusion_layer: int
    bottlenecks: GeneValue

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "MBTArchitecture":
        """Return the paper's default: fusion from layer 8 of 12 on, 4 bottlenecks."""
        return cls(2 * sizes.shallower // 3, 4)
