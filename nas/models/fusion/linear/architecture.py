"""The architectures of Linear: a readout for each encoder. Imports no torch."""

from dataclasses import dataclass

from nas.models.fusion.readouts import IMAGE_READOUT, TEXT_READOUT, Readout, one_readout, readout_choices
from nas.search.space import Architecture, EncoderSizes, EntryLayers


@dataclass(frozen=True)
class LinearArchitecture(Architecture):
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
        image, text = (readout_choices(pools_by_mean=pools_by_mean) for pools_by_mean in sizes.pool_by_mean)
        return {IMAGE_READOUT.name: image, TEXT_READOUT.name: text}

    @property
    def readouts(self) -> tuple[Readout, Readout]:
        """What is read out of the image and the text encoder.

        Raises:
            ValueError: If this is the architecture of a supernet, which reads several.
        """
        return one_readout(self.image_readout), one_readout(self.text_readout)

    def summary(self) -> str:
        """Return both readouts in plain words: `image pooled, text mean`."""
        texts = self.texts()
        return f"image {texts[IMAGE_READOUT.name]}, text {texts[TEXT_READOUT.name]}"

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        return EntryLayers(sizes.image_layers, sizes.text_layers)
