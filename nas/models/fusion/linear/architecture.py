"""The architecture of Linear. Imports no torch."""

from dataclasses import dataclass

from nas.models.fusion.base_architectures import SingleArchitecture
from nas.search.space import EncoderSizes, EntryLayers


@dataclass(frozen=True)
class LinearArchitecture(SingleArchitecture):
    """A linear classifier on both frozen encoders."""

    family = "linear"
    title = "Linear"
    source = "A linear classifier on the outputs of two frozen encoders."

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        return EntryLayers(sizes.image_layers, sizes.text_layers)
