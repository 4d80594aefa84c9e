"""Linear: its architectures. No torch here."""

from dataclasses import dataclass

from nas.models.fusion.base_architectures import SingleArchitecture
from nas.search.space import EncoderSizes, Reads


@dataclass(frozen=True)
class LinearArchitecture(SingleArchitecture):
    """A linear classifier on what both frozen encoders say."""

    family = "linear"
    title = "Linear"
    source = "A linear classifier on what two frozen encoders say."

    def reads(self, sizes: EncoderSizes) -> Reads:
        return Reads(sizes.image_depth, sizes.text_depth)
