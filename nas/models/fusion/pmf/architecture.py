"""The architectures of PMF: the paper's five genes, and a readout for each encoder. Imports no torch."""

from dataclasses import dataclass, fields, replace

from nas.models.fusion.readouts import (
    IMAGE_READOUT,
    TEXT_READOUT,
    ReadoutGenes,
    readout_choices,
    readouts_of,
)
from nas.search.space import (
    GRANULARITIES,
    MODALITIES,
    AffineMemory,
    Architecture,
    EncoderSizes,
    EntryLayers,
    Gene,
    GeneValue,
)


def entry_layers_from(sizes: EncoderSizes, fusion_layer: int) -> EntryLayers:
    """Return the first fusing layers: num_layers − n of each encoder, n = min(num_layers) − L_f (section 4.6)."""
    fusing = sizes.shallower - fusion_layer
    return EntryLayers(sizes.image_layers - fusing, sizes.text_layers - fusing)


@dataclass(frozen=True)
class DirectionSizes:
    """The sizes of one direction of one fusing layer.

    Args:
        query_prompts: The number `M_qp` of prompts whose outputs become the message to the other modality; 0 for no
            message.
        query_context_prompts: The number `M_qcp` of context prompts in the query stage.
        fusion_context_prompts: The number `M_fcp` of context prompts in the fusion stage of the receiving modality.
        mapping_width: The width `h` of the hidden layer of the mapping; 0 for none, so that the message is what the
            query prompts have read.
    """

    query_prompts: int
    query_context_prompts: int
    fusion_context_prompts: int
    mapping_width: int


_SIZES = tuple(field.name for field in fields(DirectionSizes))
_NEEDED = ("query_prompts", "mapping_width")


@dataclass(frozen=True)
class PMFArchitecture(ReadoutGenes, Architecture):
    """One PMF architecture.

    Args:
        fusion_layer: The number `L_f` of layers of the shallower encoder below the first fusing layer; 0 fuses all.
        query_prompts: The number `M_qp` of query prompts; 0, for ablations, leaves the message out, and with it query
            context prompts and mapping.
        query_context_prompts: The number `M_qcp` of query context prompts; 0 is allowed.
        fusion_context_prompts: The number `M_fcp` of fusion context prompts; 0 is allowed.
        mapping_width: The mapping width `h`; 0, for ablations, leaves the mapping out.
        image_readout: The index in `READOUTS` of what the image classifier reads; the paper's is the first.
        text_readout: That of the text classifier.
    """

    family = "pmf"
    title = "PMF"
    source = (
        "Prompt-based multimodal fusion (Li et al., CVPR 2023, arXiv 2304.06306): frozen encoders that "
        "exchange messages through learned prompts in their last layers."
    )
    genes = (
        Gene("fusion_layer", "L_f", 0, is_layer=True),
        Gene("query_prompts", "M_qp", 0, GRANULARITIES, unit="tokens"),
        Gene("query_context_prompts", "M_qcp", 0, GRANULARITIES, unit="tokens"),
        Gene("fusion_context_prompts", "M_fcp", 0, GRANULARITIES, unit="tokens"),
        Gene("mapping_width", "h", 0, GRANULARITIES, unit="units"),
        IMAGE_READOUT,
        TEXT_READOUT,
    )

    reads_attention = True

    fusion_layer: int
    query_prompts: GeneValue
    query_context_prompts: GeneValue
    fusion_context_prompts: GeneValue
    mapping_width: GeneValue
    image_readout: int = 0
    text_readout: int = 0

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "PMFArchitecture":
        """Return the paper's default: two fusing layers, four prompts of each kind, h half the larger hidden size."""
        return cls(max(sizes.shallower - 2, 0), 4, 4, 4, max(sizes.image_hidden_size, sizes.text_hidden_size) // 2)

    @classmethod
    def default_choices(cls, sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
        default, choices = cls.default(sizes), super().default_choices(sizes)
        for name in _NEEDED:  # what every PMF has is left out in ablations only
            value = getattr(default, name)
            choices[name] = tuple(sorted({max(value // 4, 1), *choices[name][1:]}))
        return {**choices, **readout_choices(sizes)}

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        return entry_layers_from(sizes, self.fusion_layer)

    def prompted_layers(self, sizes: EncoderSizes) -> int:
        return sizes.shallower - self.fusion_layer

    def summary(self) -> str:
        """Return the genes in plain words: `fusion from layer 4, prompts 1/8/2, width 48, text mean`."""
        *prompts, width = (getattr(self, name) for name in _SIZES)
        if not all(isinstance(value, int) for value in (*prompts, width)):
            return super().summary()
        parts = [f"fusion from layer {self.fusion_layer}", f"prompts {'/'.join(map(str, prompts))}", f"width {width}"]
        texts = self.texts()
        for modality, gene in zip(MODALITIES, (IMAGE_READOUT, TEXT_READOUT), strict=True):
            if gene in self.stated_genes:
                parts.append(f"{modality} {texts[gene.name]}")
        return ", ".join(parts)

    def affine_memory(self) -> AffineMemory | None:
        """Return the architectures with the same L_f, M_qp, readouts and kinds of context prompts.

        A tensor size is a product of lengths, in which M_qcp, M_fcp and h appear at most once and never together, so it
        is affine in them, as long as the same operations run in the same order. Two things change the operations: a
        context of zero prompts is skipped when keys are concatenated, and a length of 1 has other strides. Without
        fusion context prompts, zero query context prompts are therefore a set of their own; and the smallest
        architecture has lengths of 1, because where those agree with longer ones, all lengths do.
        """
        if self.layer_count is not None:
            return None  # with free genes, two architectures rarely belong to one set
        if not self.query_prompts or not self.mapping_width:
            return None  # few variants leave the message or the mapping out
        lengths = self.query_context_prompts, self.fusion_context_prompts
        assert isinstance(lengths[0], int) and isinstance(lengths[1], int)
        fusion_context = min(lengths[1], 1)
        query_context = 0 if fusion_context else min(lengths[0], 1)
        smallest = replace(
            self,
            query_context_prompts=query_context,
            fusion_context_prompts=fusion_context,
            mapping_width=1,
        )
        steps = {"query_context_prompts": 8, "fusion_context_prompts": 8, "mapping_width": 63}
        if not fusion_context:
            del steps["fusion_context_prompts"]
            if not query_context:
                del steps["query_context_prompts"]
        return AffineMemory(smallest, steps)

    def at(self, index: int) -> tuple[DirectionSizes, DirectionSizes]:
        """Return the sizes of image → text and text → image in a fusing layer, counted from the first one."""
        pairs = [self.value_at(name, index) for name in _SIZES]
        sides = (DirectionSizes(*side) for side in zip(*pairs, strict=True))
        image_to_text, text_to_image = (
            side if side.query_prompts else DirectionSizes(0, 0, side.fusion_context_prompts, 0) for side in sides
        )
        return image_to_text, text_to_image


GENES = ("fusion_layer", *_SIZES)
"""The names of the paper's genes, whose values are sizes."""


def trainable_parameter_count(
    *,
    image_hidden_size: int,
    text_hidden_size: int,
    fusing_layers: int,
    architecture: PMFArchitecture,
    num_classes: int,
) -> int:
    """Return the number of trained scalars by its closed form (the tests pin it to the published counts)."""

    def direction(sizes: DirectionSizes, size_from: int, size_to: int) -> int:
        queries = (sizes.query_prompts + sizes.query_context_prompts) * size_from
        prompts = queries + sizes.fusion_context_prompts * size_to
        mapping = sizes.mapping_width * (size_from + size_to + 1) + size_to if sizes.mapping_width else 0
        return prompts + mapping

    layers = (architecture.at(index) for index in range(fusing_layers))
    fused = sum(
        direction(to_text, image_hidden_size, text_hidden_size)
        + direction(to_image, text_hidden_size, image_hidden_size)
        for to_text, to_image in layers
    )
    # A supernet has a classifier for each readout that it serves.
    counts = (len(readouts_of(value)) for value in (architecture.image_readout, architecture.text_readout))
    heads = (count * (size + 1) for count, size in zip(counts, (image_hidden_size, text_hidden_size), strict=True))
    return fused + sum(heads) * num_classes
