"""Linear: its architectures. No torch here."""

from dataclasses import dataclass

from nas.models.fusion.base_architectures import SingleArchitecture
from nas.search.space import EncoderSizes, EntryLayers


@dataclass(frozen=True)
class LinearArchitecture(SingleArchitecture):
    """A linear classifier on what both frozen encoders say."""

    family = "linear"
    title = "Linear"
    source = "A linear classifier on what two frozen encoders say."

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        return EntryLayers(sizes.image_layers, sizes.text_layers)
