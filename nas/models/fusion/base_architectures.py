"""Architectures that several families share. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar, Self

from nas.search.space import Architecture, EncoderSizes, EntryLayers, Gene, GeneValue


class SingleArchitecture(Architecture):
    """The only architecture of a family without genes."""

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
        prompt_layer: The number of layers below the first one with prompts; 0 prompts all.
        prompts: The number of prompts of each layer; at least 1, so that every architecture is written in one way.
    """

    family = ""
    genes = (
        Gene("prompt_layer", "L_p", 0, is_layer=True),
        Gene("prompts", "M", 1, ("model", "layer"), unit="tokens"),
    )
    prompted: ClassVar[str]
    """The encoder that has prompts: `image` or `text`."""

    prompt_layer: int
    prompts: GeneValue

    @classmethod
    def default(cls, sizes: EncoderSizes) -> Self:
        """Return 10 prompts in every layer."""
        del sizes
        return cls(0, 10)

    @classmethod
    def default_choices(cls, sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
        """Return the choices of a search file without `space`: first layers spread over the encoder, and prompts."""
        count = cls.num_layers(sizes)
        spread = {0, count // 3, 2 * count // 3, max(count - 2, 0)}
        return {**super().default_choices(sizes), "prompt_layer": tuple(sorted(spread))}

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
