"""Which genes every fusion family has, where its models start to compute, and its paper's default. No torch here.

The models are in `nas/fusion/`, one file a family.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from nas.search.space import PER, Architecture, EncoderSizes, Gene, Lengths, Reads


def reads_from(sizes: EncoderSizes, fusion_layer: int) -> Reads:
    """First fusing layers: depth − n of both encoders, with n = min(depths) − L_f (paper, section 4.6)."""
    fusing = sizes.shallower - fusion_layer
    return Reads(sizes.image_depth - fusing, sizes.text_depth - fusing)


@dataclass(frozen=True)
class Sizes:
    """One direction of one fusing layer.

    Args:
        query_prompts: `M_qp`, rows that collect what one modality tells the other.
        query_context_prompts: `M_qcp`, rows of context beside them.
        fusion_context_prompts: `M_fcp`, rows of context in the receiving modality.
        mapping_width: `h`, hidden width of the mapping Linear-ReLU-Linear.
    """

    query_prompts: int
    query_context_prompts: int
    fusion_context_prompts: int
    mapping_width: int


@dataclass(frozen=True)
class PMFArchitecture(Architecture):
    """One PMF architecture.

    Args:
        fusion_layer: `L_f`, the number of layers of the shallower encoder that run before fusion starts; 0 fuses all.
        query_prompts: `M_qp`; at least 1.
        query_context_prompts: `M_qcp`; 0 is allowed.
        fusion_context_prompts: `M_fcp`; 0 is allowed.
        mapping_width: `h`.
    """

    family = "pmf"
    title = "PMF"
    source = (
        "Prompt-based multimodal fusion (Li et al., CVPR 2023, arXiv 2304.06306): frozen encoders that talk "
        "through learned prompts in their last layers."
    )
    genes = (
        Gene("fusion_layer", "L_f", 0, is_layer=True),
        Gene("query_prompts", "M_qp", 1, PER),
        Gene("query_context_prompts", "M_qcp", 0, PER),
        Gene("fusion_context_prompts", "M_fcp", 0, PER),
        Gene("mapping_width", "h", 1, PER),
    )

    reads_attention = True

    fusion_layer: int
    query_prompts: Lengths
    query_context_prompts: Lengths
    fusion_context_prompts: Lengths
    mapping_width: Lengths

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "PMFArchitecture":
        """The paper's: two fusing layers, all prompts 4, width half the larger hidden size."""
        return cls(max(sizes.shallower - 2, 0), 4, 4, 4, max(sizes.image_width, sizes.text_width) // 2)

    def reads(self, sizes: EncoderSizes) -> Reads:
        return reads_from(sizes, self.fusion_layer)

    def prompted_layers(self, sizes: EncoderSizes) -> int:
        return sizes.shallower - self.fusion_layer

    def at(self, index: int) -> tuple[Sizes, Sizes]:
        """Both directions, image → text and text → image, of a fusing layer, counted from the first one."""
        pairs = [self.value_at(gene.name, index) for gene in self.genes[1:]]
        image_to_text, text_to_image = (Sizes(*side) for side in zip(*pairs, strict=True))
        return image_to_text, text_to_image


GENES = PMFArchitecture.gene_names()
"""PMF's."""


class _Single(Architecture):
    """Nothing to be chosen: there is one architecture."""

    family = ""
    genes = ()

    @classmethod
    def default(cls, sizes: EncoderSizes) -> Self:
        del sizes
        return cls()


@dataclass(frozen=True)
class ImageOnlyArchitecture(_Single):
    """The image encoder, fine-tuned, with a linear classifier."""

    family = "image_only"
    title = "image only"
    source = "The image encoder, fine-tuned, with a linear classifier; texts are not read."
    trains = ("image",)


@dataclass(frozen=True)
class TextOnlyArchitecture(_Single):
    """The text encoder, fine-tuned, with a linear classifier."""

    family = "text_only"
    title = "text only"
    source = "The text encoder, fine-tuned, with a linear classifier; images are not read."
    trains = ("text",)


@dataclass(frozen=True)
class LinearArchitecture(_Single):
    """A linear classifier on what both frozen encoders say."""

    family = "linear"
    title = "Linear"
    source = "A linear classifier on what two frozen encoders say."

    def reads(self, sizes: EncoderSizes) -> Reads:
        return Reads(sizes.image_depth, sizes.text_depth)


@dataclass(frozen=True)
class LateConcatArchitecture(_Single):
    """A linear classifier on what both encoders say, which are fine-tuned."""

    family = "late_concat"
    title = "LateConcat"
    source = "A linear classifier on what two encoders say, which are fine-tuned."
    trains = ("image", "text")


@dataclass(frozen=True)
class MMBTArchitecture(_Single):
    """The image's tokens in the text transformer, both encoders fine-tuned."""

    family = "mmbt"
    title = "MMBT"
    source = (
        "Multimodal bitransformer (Kiela et al., 2019, arXiv 1909.02950): the tokens of the image in the text "
        "transformer, both fine-tuned."
    )
    trains = ("image", "text")


@dataclass(frozen=True)
class MBTArchitecture(Architecture):
    """Bottleneck tokens between both encoders, which are fine-tuned.

    Args:
        fusion_layer: Layers of the shallower encoder that run before fusion starts.
        bottlenecks: Tokens through which alone the modalities exchange anything; at least 1.
    """

    family = "mbt"
    title = "MBT"
    source = (
        "Multimodal bottleneck transformer (Nagrani et al., NeurIPS 2021): two fine-tuned encoders that "
        "exchange a few bottleneck tokens."
    )
    genes = (Gene("fusion_layer", "L_f", 0, is_layer=True), Gene("bottlenecks", "B", 1))
    trains = ("image", "text")

    fusion_layer: int
    bottlenecks: Lengths

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "MBTArchitecture":
        """The paper's: fusion from layer 8 of 12 on, 4 bottlenecks."""
        return cls(2 * sizes.shallower // 3, 4)


@dataclass(frozen=True)
class _DeeplyPrompted(Architecture):
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
    prompts: Lengths

    @classmethod
    def default(cls, sizes: EncoderSizes) -> Self:
        """Deep, of length 10."""
        del sizes
        return cls(0, 10)

    @classmethod
    def depth(cls, sizes: EncoderSizes) -> int:
        return sizes.image_depth if cls.prompted == "image" else sizes.text_depth

    def reads(self, sizes: EncoderSizes) -> Reads:
        del sizes
        return Reads(self.prompt_layer, None) if self.prompted == "image" else Reads(None, self.prompt_layer)

    def prompted_layers(self, sizes: EncoderSizes) -> int:
        return self.depth(sizes) - self.prompt_layer


class VPTArchitecture(_DeeplyPrompted):
    """Prompts in the layers of the frozen image encoder."""

    family = "vpt"
    title = "VPT"
    source = "Visual prompt tuning (Jia et al., ECCV 2022): learned prompts in the layers of the frozen image encoder."
    layers_counted = "of the image encoder"
    prompted = "image"


class PBERTArchitecture(_DeeplyPrompted):
    """Prompts in the layers of the frozen text encoder."""

    family = "p_bert"
    title = "P-BERT"
    source = "Deep prompt tuning (Liu et al., ACL 2022): learned prompts in the layers of the frozen text encoder."
    layers_counted = "of the text encoder"
    prompted = "text"


@dataclass(frozen=True)
class PromptFuseArchitecture(Architecture):
    """What the frozen image encoder says, and prompts, in the frozen text transformer.

    Args:
        prompts: At its input; at least 1.
    """

    family = "prompt_fuse"
    title = "PromptFuse"
    source = (
        "PromptFuse (Liang et al., Findings of ACL 2022): the tokens of the frozen image encoder, and learned "
        "prompts, in the frozen text transformer."
    )
    genes = (Gene("prompts", "M", 1),)

    prompts: Lengths

    @classmethod
    def default(cls, sizes: EncoderSizes) -> Self:
        """Length 20."""
        del sizes
        return cls(20)

    def reads(self, sizes: EncoderSizes) -> Reads:
        return Reads(sizes.image_depth, 0)


@dataclass(frozen=True)
class BlindPromptArchitecture(PromptFuseArchitecture):
    """The same, with prompts that the data does not attend to."""

    family = "blind_prompt"
    title = "BlindPrompt"
    source = (
        "BlindPrompt (Liang et al., Findings of ACL 2022): PromptFuse with prompts that the data does not attend to."
    )


KINDS: Mapping[str, type[Architecture]] = {
    kind.family: kind
    for kind in (
        PMFArchitecture,
        ImageOnlyArchitecture,
        TextOnlyArchitecture,
        VPTArchitecture,
        PBERTArchitecture,
        LinearArchitecture,
        LateConcatArchitecture,
        MMBTArchitecture,
        MBTArchitecture,
        PromptFuseArchitecture,
        BlindPromptArchitecture,
    )
}
"""Name in search files → architectures."""
