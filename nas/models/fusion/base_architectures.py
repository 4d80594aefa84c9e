"""Architectures that several families share. No torch here."""

from dataclasses import dataclass
from typing import ClassVar, Self

from nas.search.space import Architecture, EncoderSizes, EntryLayers, Gene, GeneValue


class SingleArchitecture(Architecture):
    """Nothing to be chosen: there is one architecture."""

    family = ""
    genes = ()

    @classmethod
    def default(cls, sizes: EncoderSizes) -> Self:
        del sizes
        return cls()


@dataclass(frozen=True)
class DeeplyPromptedArchitecture(Architecture):
    """Prompts in the layers of one frozen encoder.

    Args:
        prompt_layer: Layers that run before the first one with prompts; 0 prompts all.
        prompts: Of each layer; at least 1, so that one architecture has one name.
    """

    family = ""
    genes = (
        Gene("prompt_layer", "L_p", 0, is_layer=True),
        Gene("prompts", "M", 1, ("model", "layer")),
    )
    prompted: ClassVar[str]
    """Which encoder: `image` or `text`."""

    prompt_layer: int
    prompts: GeneValue

    @classmethod
    def default(cls, sizes: EncoderSizes) -> Self:
        """Deep, of length 10."""
        del sizes
        return cls(0, 10)

    @classmethod
    def num_layers(cls, sizes: EncoderSizes) -> int:
        return sizes.image_layers if cls.prompted == "image" else sizes.text_layers

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        del sizes
        return (
            EntryLayers(self.prompt_layer, None) if self.prompted == "image" else EntryLayers(None, self.prompt_layer)
        )

    def prompted_layers(self, sizes: EncoderSizes) -> int:
        return self.num_layers(sizes) - self.prompt_layer
