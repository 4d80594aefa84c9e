"""What the architectures of dual encoders with deep prompts have in common. Imports no torch."""

from typing import Literal, Self, cast, get_args

from nas.models.fusion.class_text_genes import PROMPT_LENGTH
from nas.search.space import Architecture, EncoderSizes, EntryLayers, Gene, GeneValue

Branches = Literal["coupled", "independent", "language", "vision"]
"""The encoders with prompts: both, those of the image encoder mapped from those of the text encoder; both, each with
its own; only the text encoder; only the image encoder."""
BRANCHES: tuple[Branches, ...] = get_args(Branches)
COUPLINGS = ("per_layer", "shared")
"""The mappings of text prompts to image prompts: one for each layer, or one for all."""

PROMPT_DEPTH = Gene("prompt_depth", "J", 1, unit="layers")

_DEPTH, _LENGTH = 9, 2
"""Those of the MaPLe paper (section 4.1), for encoders of 12 layers."""


class DeepPromptsArchitecture(Architecture):
    """Prompts in the first layers of one or both encoders.

    The depth is no layer gene: all depths start at the first layer, so that they read the same features, and a greater
    one is a larger model.
    """

    family = ""
    reads_class_texts = True

    prompt_depth: GeneValue
    prompt_length: GeneValue
    branches: int
    """The index in `BRANCHES`."""
    coupling: int
    """The index in `COUPLINGS`."""
    initial_text: int
    sample_text: int

    @classmethod
    def default(cls, sizes: EncoderSizes) -> Self:
        """Return the MaPLe paper's: 2 prompts in the first 9 layers, or in all layers of shallower encoders."""
        depth = min(_DEPTH, cls.largest_values(sizes)[PROMPT_DEPTH.name])
        return cast(Self, cls.from_dict({"family": cls.family, PROMPT_DEPTH.name: depth, PROMPT_LENGTH.name: _LENGTH}))

    @classmethod
    def default_choices(cls, sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
        """Return the choices of a search file without `space`: depths spread over the layers."""
        count = cls.largest_values(sizes)[PROMPT_DEPTH.name]
        spread = {max(quarters * count // 4, 1) for quarters in range(1, 5)}
        return {**super().default_choices(sizes), PROMPT_DEPTH.name: tuple(sorted(spread))}

    @classmethod
    def largest_values(cls, sizes: EncoderSizes) -> dict[str, int]:
        """Return the number of layers of the shallower encoder: prompts have the same depth in both."""
        return {PROMPT_DEPTH.name: sizes.shallower}

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        """Return the first layer of an image encoder with prompts; else the last outputs, which are constants.

        A sample's own text has no prompts.
        """
        image = 0 if self.prompts_images else sizes.image_layers
        return EntryLayers(image, sizes.text_layers if self.sample_text else None)

    def context_length(self) -> int:
        return self.length if self.prompts_texts else 0

    def prompted_layers(self, sizes: EncoderSizes) -> int:
        del sizes
        return self.depth

    @property
    def depth(self) -> int:
        """The number J of layers with prompts of their own."""
        return self.value_at(PROMPT_DEPTH.name, 0)[0]

    @property
    def length(self) -> int:
        """The number b of prompts of each of these layers."""
        return self.value_at(PROMPT_LENGTH.name, 0)[0]

    @property
    def served_branches(self) -> tuple[Branches, ...]:
        """The values of `branches` that the weights of a model serve: one, except in a supernet with a choice."""
        return BRANCHES if self.branches == len(BRANCHES) else (BRANCHES[self.branches],)

    @property
    def prompts_texts(self) -> bool:
        """Whether the text encoder has prompts."""
        return self.served_branches != ("vision",)

    @property
    def prompts_images(self) -> bool:
        """Whether the image encoder has prompts."""
        return self.served_branches != ("language",)

    @property
    def is_coupled(self) -> bool:
        """Whether prompts of the image encoder are mapped from those of the text encoder."""
        return "coupled" in self.served_branches

    @property
    def has_own_image_prompts(self) -> bool:
        """Whether the image encoder has prompts that are not mapped."""
        return "independent" in self.served_branches or "vision" in self.served_branches
