"""The architectures of ViLBERT. Imports no torch."""

from dataclasses import dataclass

from nas.search.space import Architecture, EncoderSizes, Gene

COATTENTIONS = Gene("coattentions", "K", 1)


@dataclass(frozen=True)
class ViLBERTArchitecture(Architecture):
    """Co-attention layers between the layers of both encoders, which are fine-tuned.

    Args:
        coattention_layer: The number of layers of the shallower encoder below the first co-attention layer.
        coattentions: The largest number of co-attention layers; at least 1. One stands before each further layer, so
            that there are no more than layers from the first on.
    """

    family = "vilbert"
    title = "ViLBERT"
    source = (
        "ViLBERT (Lu et al., NeurIPS 2019): two fine-tuned encoders, in whose co-attention layers each modality "
        "attends to the other."
    )
    genes = (Gene("coattention_layer", "L_c", 0, is_layer=True), COATTENTIONS)
    trains = ("image", "text")
    pretraining_objectives = ("matching", "masked_language")

    coattention_layer: int
    coattentions: int

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "ViLBERTArchitecture":
        """Return the paper's: a co-attention layer before each of the last 6 of 12 layers."""
        first = sizes.shallower // 2
        return cls(first, sizes.shallower - first)

    @classmethod
    def default_choices(cls, sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
        count = cls.default(sizes).coattentions
        return {**super().default_choices(sizes), COATTENTIONS.name: tuple(sorted({1, max(count // 2, 1), count}))}

    @classmethod
    def largest_values(cls, sizes: EncoderSizes) -> dict[str, int]:
        return {**super().largest_values(sizes), COATTENTIONS.name: sizes.shallower}

    def count(self, sizes: EncoderSizes) -> int:
        """Return the number of co-attention layers for two encoders."""
        return min(self.coattentions, sizes.shallower - self.coattention_layer)
