"""The architectures of PromptFuse. Imports no torch."""

from dataclasses import dataclass
from typing import Self

from nas.search.space import Architecture, EncoderSizes, EntryLayers, Gene, GeneValue


@dataclass(frozen=True)
class PromptFuseArchitecture(Architecture):
    """The tokens of the frozen image encoder, and prompts, as input of the frozen text transformer.

    Args:
        prompts: The number of prompts; at least 1.
    """

    family = "prompt_fuse"
    title = "PromptFuse"
    source = (
        "PromptFuse (Liang et al., Findings of ACL 2022): the tokens of the frozen image encoder, and learned "
        "prompts, in the frozen text transformer."
    )
    genes = (Gene("prompts", "M", 1, unit="tokens"),)

    prompts: GeneValue

    @classmethod
    def default(cls, sizes: EncoderSizes) -> Self:
        """Return 20 prompts."""
        del sizes
        return cls(20)

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        return EntryLayers(sizes.image_layers, 0)
