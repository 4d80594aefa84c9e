"""The architectures of Linear: a readout for each encoder. Imports no torch."""

from dataclasses import dataclass

from nas.models.fusion.readouts import IMAGE_READOUT, TEXT_READOUT, ReadoutGenes, readout_choices
from nas.search.space import Architecture, EncoderSizes, EntryLayers


@dataclass(frozen=True)
class LinearArchitecture(ReadoutGenes, Architecture):
    """A linear classifier on both frozen encoders.

    Args:
        image_readout: What is read out of the image encoder.
        text_readout: What is read out of the text encoder.
    """

    family = "linear"
    title = "Linear"
    source = "A linear classifier on the outputs of two frozen encoders."
    genes = (IMAGE_READOUT, TEXT_READOUT)

    image_readout: int = 0
    text_readout: int = 0

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "LinearArchitecture":
        """Return the paper's: what both encoders pool, mostly their CLS tokens."""
        del sizes
        return cls()

    @classmethod
    def default_choices(cls, sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
        return readout_choices(sizes)

    def summary(self) -> str:
        """Return both readouts in plain words: `image pooled, text mean`."""
        texts = self.texts()
        return f"image {texts[IMAGE_READOUT.name]}, text {texts[TEXT_READOUT.name]}"

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        return EntryLayers(sizes.image_layers, sizes.text_layers)
