"""The architectures of ViLT. Imports no torch."""

from dataclasses import dataclass

from nas.search.space import Architecture, EncoderSizes, Gene

DEPTH = Gene("depth", "d", 1, unit="layers")


@dataclass(frozen=True)
class ViLTArchitecture(Architecture):
    """The embeddings of patches and words in one transformer, which starts from the image encoder and is fine-tuned.

    Args:
        depth: The number of layers, the first ones of the image encoder.
    """

    family = "vilt"
    title = "ViLT"
    source = (
        "ViLT (Kim et al., ICML 2021): the embeddings of patches and words in one transformer, which starts from the "
        "image encoder and is fine-tuned."
    )
    genes = (DEPTH,)
    trains = ("image", "text")
    pretraining_objectives = ("matching", "masked_language")

    depth: int

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "ViLTArchitecture":
        """Return the paper's: all layers of the image encoder."""
        return cls(sizes.image_layers)

    @classmethod
    def default_choices(cls, sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
        """Return the choices of a search file without `space`: a half, three quarters and all of the layers."""
        count = sizes.image_layers
        return {DEPTH.name: tuple(sorted({max(count // 2, 1), max(3 * count // 4, 1), count}))}

    @classmethod
    def largest_values(cls, sizes: EncoderSizes) -> dict[str, int]:
        return {**super().largest_values(sizes), DEPTH.name: sizes.image_layers}
