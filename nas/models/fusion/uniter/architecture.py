"""The architectures of UNITER. Imports no torch."""

from dataclasses import dataclass

from nas.search.space import RAW, Architecture, EncoderSizes, EntryLayers, Gene


@dataclass(frozen=True)
class UNITERArchitecture(Architecture):
    """The tokens of the frozen image encoder, projected, and the words, in one text transformer, which is fine-tuned.

    Args:
        fusion_layer: The number of layers of the text encoder that read the words alone.
    """

    family = "uniter"
    title = "UNITER"
    source = (
        "UNITER (Chen et al., ECCV 2020): the tokens of the frozen image encoder, projected, and the words in one "
        "text transformer, which is fine-tuned."
    )
    genes = (Gene("fusion_layer", "L_f", 0, is_layer=True),)
    layers_counted = "of the text encoder"
    trains = ("text",)
    pretraining_objectives = ("matching", "masked_language")

    fusion_layer: int

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "UNITERArchitecture":
        """Return the paper's: every layer reads both."""
        del sizes
        return cls(0)

    @classmethod
    def default_choices(cls, sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
        """Return the choices of a search file without `space`: first layers spread over the text encoder."""
        count = cls.num_layers(sizes)
        return {"fusion_layer": tuple(sorted({0, count // 3, 2 * count // 3}))}

    @classmethod
    def num_layers(cls, sizes: EncoderSizes) -> int:
        return sizes.text_layers

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        return EntryLayers(sizes.image_layers, RAW)
