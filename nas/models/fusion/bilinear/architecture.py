"""The architectures of Bilinear: the components of each modality, and a readout for each encoder. Imports no torch."""

from dataclasses import dataclass

from nas.models.fusion.readouts import IMAGE_READOUT, TEXT_READOUT, ReadoutGenes, readout_choices
from nas.search.space import Architecture, EncoderSizes, EntryLayers, Gene

COMPONENTS = Gene("components", "k", 1)
_DEFAULT_COMPONENTS = 40


@dataclass(frozen=True)
class BilinearArchitecture(ReadoutGenes, Architecture):
    """A linear classifier on both frozen encoders and on products of what is read out of them.

    Args:
        components: The number k of components of each modality; every one of the image's is multiplied with every one
            of the text's.
        image_readout: What is read out of the image encoder.
        text_readout: What is read out of the text encoder.
    """

    family = "bilinear"
    title = "Bilinear"
    source = (
        "A linear classifier on the outputs of two frozen encoders and on products of their projections (bilinear "
        "model; Tenenbaum and Freeman, Neural Computation 2000)."
    )
    genes = (COMPONENTS, IMAGE_READOUT, TEXT_READOUT)

    components: int
    image_readout: int = 0
    text_readout: int = 0

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "BilinearArchitecture":
        """Return 40 components, fewer for narrower encoders, of what both encoders pool."""
        return cls(min(_DEFAULT_COMPONENTS, sizes.image_hidden_size, sizes.text_hidden_size))

    @classmethod
    def default_choices(cls, sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
        count = cls.default(sizes).components
        return {
            COMPONENTS.name: tuple(sorted({max(count // 4, 1), max(count // 2, 1), count})),
            **readout_choices(sizes),
        }

    def summary(self) -> str:
        """Return the genes in plain words: `40 components, image pooled, text mean`."""
        texts = self.texts()
        return f"{self.components} components, image {texts[IMAGE_READOUT.name]}, text {texts[TEXT_READOUT.name]}"

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        return EntryLayers(sizes.image_layers, sizes.text_layers)
