"""PMF, prompt-based multimodal fusion: Li, Quan, Zhu, Yang, "Efficient Multimodal Fusion via Interactive Prompting",
CVPR 2023 (arXiv 2304.06306), section 3.

Two frozen encoders run alone up to the fusion layer `L_f`. In each of the last n = min(L_img, L_txt) − L_f layers the
modalities tell each other something. For the direction image → text, with image tokens z and text tokens t:

    query stage    [z ; QCP ; QP] → frozen image layer → keep the rows of QP → f → y
    fusion stage   [t ; FCP ; y]  → frozen text layer  → keep the rows of t

and the mirror image for text → image; both directions read z and t from before this layer's fusion stage. QP, QCP and
FCP are learned prompts, f = Linear(d_from → h), ReLU, Linear(h → d_to). Prompts carry no position and stand at the end:
every data row sees every prompt row, every prompt row sees all unpadded data rows and all prompt rows.

Shapes: B samples, S image tokens, T text tokens, D_img and D_txt widths, M_qp, M_qcp, M_fcp prompt lengths, h mapping
width, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from nas.encoders import EncoderLayer, FrozenEncoder, KeysValues, padding_bias
from nas.encoders.base import merge_heads
from nas.fusion.attention import (
    DataAttention,
    absorbed_attention,
    attention_with_logsumexp,
    join_prompts,
    joined_attention,
    known_attention,
    readout_rows,
)
from nas.fusion.layout import Layout
from nas.space import Architecture

PROMPT_STANDARD_DEVIATION = 0.02


@dataclass(frozen=True)
class Features:
    """What the frozen layers below the first fusing layer say of a batch: constants of the data set.

    Args:
        image_tokens: z, (B, S, D_img), of any floating-point type.
        text_tokens: t, (B, T, D_txt).
        text_mask: (B, T), true where there is a token, padding behind; None where nothing is padded.
        image_attention: What z attends to in itself at the first fusing layer, where that is stored.
        text_attention: What t attends to in itself, where that is stored.
    """

    image_tokens: Tensor
    text_tokens: Tensor
    text_mask: Tensor | None
    image_attention: DataAttention | None = None
    text_attention: DataAttention | None = None

    def to(self, dtype: torch.dtype) -> "Features":
        """With tokens of that type."""
        return replace(self, image_tokens=self.image_tokens.to(dtype), text_tokens=self.text_tokens.to(dtype))


@dataclass(frozen=True)
class DirectionWeights:
    """What one direction of one fusing layer has learned; tensors may be views into larger ones."""

    query_prompts: Tensor  # QP (M_qp, D_from)
    query_context_prompts: Tensor  # QCP (M_qcp, D_from)
    fusion_context_prompts: Tensor  # FCP (M_fcp, D_to)
    inner_weight: Tensor  # (h, D_from)
    inner_bias: Tensor  # (h,)
    outer_weight: Tensor  # (D_to, h)
    outer_bias: Tensor  # (D_to,)

    def map(self, rows: Tensor) -> Tensor:
        """f: (B, M_qp, D_from) → (B, M_qp, D_to)."""
        return linear(relu(linear(rows, self.inner_weight, self.inner_bias)), self.outer_weight, self.outer_bias)


@dataclass(frozen=True)
class FusionLayerWeights:
    """Both directions of one fusing layer."""

    image_to_text: DirectionWeights
    text_to_image: DirectionWeights


class Direction(nn.Module):
    """The trained tensors of one direction of one fusing layer.

    Args:
        width_from: Hidden width of the modality that tells.
        width_to: Hidden width of the modality that is told.
        architecture: Gives the prompt lengths and the mapping width.
    """

    def __init__(self, *, width_from: int, width_to: int, architecture: Architecture) -> None:
        super().__init__()
        self.query_prompts = nn.Parameter(torch.empty(architecture.query_prompts, width_from))
        self.query_context_prompts = nn.Parameter(torch.empty(architecture.query_context_prompts, width_from))
        self.fusion_context_prompts = nn.Parameter(torch.empty(architecture.fusion_context_prompts, width_to))
        self.inner = nn.Linear(width_from, architecture.mapping_width)
        self.outer = nn.Linear(architecture.mapping_width, width_to)
        for prompts in (self.query_prompts, self.query_context_prompts, self.fusion_context_prompts):
            if prompts.numel():
                nn.init.normal_(prompts, std=PROMPT_STANDARD_DEVIATION)

    def weights(self, architecture: Architecture) -> DirectionWeights:
        """The first M rows of every prompt and the first h units of the mapping, as views that pass gradients on."""
        width = architecture.mapping_width
        return DirectionWeights(
            query_prompts=self.query_prompts[: architecture.query_prompts],
            query_context_prompts=self.query_context_prompts[: architecture.query_context_prompts],
            fusion_context_prompts=self.fusion_context_prompts[: architecture.fusion_context_prompts],
            inner_weight=self.inner.weight[:width],
            inner_bias=self.inner.bias[:width],
            outer_weight=self.outer.weight[:, :width],
            outer_bias=self.outer.bias,
        )


class FusionLayer(nn.Module):
    """The trained tensors of one fusing layer."""

    def __init__(self, *, image_width: int, text_width: int, architecture: Architecture) -> None:
        super().__init__()
        self.image_to_text = Direction(width_from=image_width, width_to=text_width, architecture=architecture)
        self.text_to_image = Direction(width_from=text_width, width_to=image_width, architecture=architecture)

    def weights(self, architecture: Architecture) -> FusionLayerWeights:
        return FusionLayerWeights(self.image_to_text.weights(architecture), self.text_to_image.weights(architecture))


class Side:
    """One modality in one fusing layer: its data rows and prompts, with what both stages need of them computed once.

    Args:
        encoder: Frozen.
        index: Of its layer.
        layout: Where its data rows lie.
        rows: The data rows x from before the fusion stage, packed, (N, D): base features in the first fusing layer,
            then what the layer before has accumulated and not yet emitted.
        tells: Weights of the direction in which it tells: QCP, QP and f.
        is_told: Weights of the direction in which it is told: FCP.
        is_first: Whether this is the first fusing layer.
        known: The data rows' attention over each other, where it is stored.
    """

    data: KeysValues | None
    known: tuple[Tensor, Tensor] | None
    absorbed: tuple[Tensor, Tensor] | None

    def __init__(
        self,
        encoder: FrozenEncoder,
        index: int,
        layout: Layout,
        rows: Tensor,
        *,
        tells: DirectionWeights,
        is_told: DirectionWeights,
        is_first: bool,
        known: DataAttention | None = None,
    ) -> None:
        self.encoder, self.layer, self.layout, self.tells = encoder, encoder.layers[index], layout, tells
        self.is_last = index == encoder.depth - 1
        # Prompts are the same for every sample, so one projection serves all kinds and all samples.
        kinds = (tells.query_context_prompts, tells.query_prompts, is_told.fusion_context_prompts)
        context_count, self.query_count = kinds[0].shape[0], kinds[1].shape[0]
        query_stop = context_count + self.query_count
        prompts = self.layer.normalize(torch.cat(kinds)[None])
        contexts = self.layer.keys_values_of(prompts)
        self.query_context = contexts.rows(slice(query_stop))  # [QCP ; QP]
        self.fusion_context = contexts.rows(slice(query_stop, None))  # FCP
        self.prompt_queries = self.layer.queries(prompts[:, context_count:query_stop])  # (1, H, M_qp, d)
        self.padding = None if layout.mask is None else padding_bias(layout.mask, rows.dtype)
        self.bias = encoder.data_bias(layout.mask, layout.row_count, rows.dtype)
        self.known = self.data = self.absorbed = None
        self._read_data(rows, known, Reading(None if is_first else encoder.layers[index - 1], self.layer))

    def _read_data(self, rows: Tensor, known: DataAttention | None, read: "Reading") -> None:
        """What prompts and rows attend to in the data, in the way that costs least; all ways are exact."""
        layer, layout, parts = self.layer, self.layout, self.layer.projections
        reads_few, is_constant = self.is_last and self.encoder.readout != "all", not rows.requires_grad
        # Absorbed, a data row costs 2 products with D × (few · H) numbers, and 4 backward; by keys and values 2 and 2
        # with D × D. Where all rows need keys and values with a gradient anyway, they are there.
        few = self.query_count + reads_few
        absorbs = 3 * few * parts.head_count < 2 * self.encoder.width and (is_constant or reads_few)
        self.data_rows, self.read = rows.detach(), read
        if reads_few:
            # No row's output depends on another row's output, and behind the last layer only these are read.
            rows, readout = readout_rows(rows, layout.places(self.encoder.readout, rows.device))
            self.rows = read.emit(readout)  # (B, 1, D)
            self.bias = self.encoder.readout_bias(self.bias, layout.mask)
            self.queries = layer.queries(layer.normalize(self.rows))  # (B, H, 1, d)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not absorbs):
            emitted = read.emit(rows)
            normalized = layout.unpack(layer.normalize(emitted))  # (B, R, D)
        if not reads_few:
            self.rows = emitted
            self.queries = layer.queries(normalized)  # (B, H, R, d)
            self.known = None if known is None else known.by_head(self.queries)
        if not absorbs or not (reads_few or self.known):
            self.data = layer.keys_values_of(normalized)
        if not absorbs:
            return
        queries, bias = self.prompt_queries, self.padding
        if reads_few:
            queries = torch.cat([queries.expand(layout.batch_size, -1, -1, -1), self.queries], dim=2)
            bias = _join_rows(self.padding, self.query_count, self.bias)
        self.absorbed = absorbed_attention(
            queries, rows=rows, normalized=normalized, bias=bias, parts=parts, read=read, layout=layout
        )
        if self.data is not None:
            # Constants of the data: nothing of them but the outcome is needed any more.
            self.known = attention_with_logsumexp(self.queries, self.data, self.bias, parts.scale)
            self.data = None

    def query_stage(self) -> Tensor:
        """y = f(rows of QP in layer([x ; QCP ; QP])), (B, M_qp, D_to).

        Only QP's rows are computed: no other row's output is kept, and within one layer rows meet only as keys and
        values.
        """
        size, scale = self.layout.batch_size, self.layer.projections.scale
        if self.absorbed is not None:
            output, logsumexp = (part[:, :, : self.query_count] for part in self.absorbed)
            attended = join_prompts(output, logsumexp, self.prompt_queries, self.query_context, scale)
        else:
            assert self.data is not None
            queries = self.prompt_queries.expand(size, -1, -1, -1)
            attended = joined_attention(queries, self.data, self.query_context.expand(size), self.padding, scale)
        rows = self.tells.query_prompts.expand(size, -1, -1)  # (B, M_qp, D_from)
        return self.tells.map(self.layer.complete(rows, merge_heads(attended)))

    def fusion_stage(self, message: Tensor) -> Tensor:
        """Rows of x in layer([x ; FCP ; y]), after the query stage, once.

        All of them packed, (N, D), before the layer emits them; of the last layer what the head reads, (B, R', D).

        Args:
            message: y, what the other modality tells, (B, M_qp, D).
        """
        scale = self.layer.projections.scale
        shared = self.fusion_context.expand(self.layout.batch_size)
        prompts = KeysValues.concatenate([shared, self.layer.keys_values(message)])
        if self.known is not None:
            attended = known_attention(
                self.known,
                self.queries,
                prompts,
                rows=self.data_rows,
                parts=self.layer.projections,
                read=self.read,
                layout=self.layout,
            )
        elif self.absorbed is not None:
            output, logsumexp = (part[:, :, self.query_count :] for part in self.absorbed)
            attended = join_prompts(output, logsumexp, self.queries, prompts, scale)
        else:
            assert self.data is not None
            attended = joined_attention(self.queries, self.data, prompts, self.bias, scale)
        del self.queries, self.known, self.data, self.absorbed  # gone before the feed-forward block needs its memory
        merged = merge_heads(attended)
        if self.rows.dim() == 2:
            merged = self.layout.pack(merged)
        rows = self.layer.accumulate(self.rows, merged)
        if not self.is_last:
            return rows
        rows = self.layer.emit(rows)
        return rows if rows.dim() == 3 else self.layout.unpack(rows)


@dataclass(frozen=True)
class Reading:
    """How a layer reads rows that the layer before it has accumulated: row by row.

    What a layer emits is not kept for the backward pass where what it has accumulated is kept anyway.

    Args:
        before: The layer before; None where the rows have been emitted.
        layer: The layer that reads.
    """

    before: EncoderLayer | None
    layer: EncoderLayer

    def emit(self, rows: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        return rows if self.before is None else self.before.emit(rows)

    def __call__(self, rows: Tensor) -> Tensor:
        """(…, D) → what the projections read, (…, D)."""
        return self.layer.normalize(self.emit(rows))


def _join_rows(first: Tensor | None, count: int, second: Tensor | None) -> Tensor | None:
    """Biases of `count` rows and of one row behind them; they differ where a family's own bias is not padding."""
    if first is second or second is None:
        return first
    if first is None:
        first = torch.zeros_like(second[:, :1])
    shape = torch.broadcast_shapes(first.shape, second.shape)
    return torch.cat([first.expand(*shape[:2], count, shape[3]), second.expand(shape)], dim=2)


def fuse(
    image_encoder: FrozenEncoder,
    text_encoder: FrozenEncoder,
    layers: Sequence[FusionLayerWeights],
    features: Features,
) -> tuple[Tensor, Tensor]:
    """The last n = len(layers) layers of both encoders, fused.

    Args:
        image_encoder: Frozen; its last n layers are used.
        text_encoder: Frozen; its last n layers are used.
        layers: Learned weights, first fusing layer first.
        features: z and t at the first fusing layer.

    Returns:
        What the classifiers read, (B, D_img) and (B, D_txt).
    """
    image_layout = Layout.of(features.image_tokens, None)
    text_layout = Layout.of(features.text_tokens, features.text_mask)
    z, t = image_layout.pack(features.image_tokens), text_layout.pack(features.text_tokens)
    fusing = len(layers)

    def image_side(index: int, rows: Tensor, known: DataAttention | None = None) -> Side:
        return Side(
            image_encoder,
            image_encoder.depth - fusing + index,
            image_layout,
            rows,
            tells=layers[index].image_to_text,
            is_told=layers[index].text_to_image,
            is_first=index == 0,
            known=known,
        )

    def text_side(index: int, rows: Tensor, known: DataAttention | None = None) -> Side:
        return Side(
            text_encoder,
            text_encoder.depth - fusing + index,
            text_layout,
            rows,
            tells=layers[index].text_to_image,
            is_told=layers[index].image_to_text,
            is_first=index == 0,
            known=known,
        )

    image, text = image_side(0, z, features.image_attention), text_side(0, t, features.text_attention)
    for index in range(fusing):
        told_text, told_image = image.query_stage(), text.query_stage()  # (B, M_qp, D_txt), (B, M_qp, D_img)
        z = image.fusion_stage(told_image)
        # One modality at a time moves to the next layer: backward, which goes in the opposite order, then has given
        # back all that the text held in a layer before it comes to the image: never are both at their largest.
        if index + 1 < fusing:
            image = image_side(index + 1, z)
        t = text.fusion_stage(told_text)
        if index + 1 < fusing:
            text = text_side(index + 1, t)
    return image_encoder.pool(image_encoder.finish(z)), text_encoder.pool(text_encoder.finish(t))


class PMF(nn.Module):
    """Trained part of a PMF model of one architecture, beside two frozen encoders.

    The encoders are not part of `state_dict`: what is trained is what is saved.

    Args:
        image_encoder: Frozen image encoder.
        text_encoder: Frozen text encoder.
        architecture: Its sizes; `fusion_layer` counts layers of the shallower encoder.
        class_count: C.

    Raises:
        ValueError: If the architecture leaves no layer to fuse, or asks for prompt lengths that PMF does not have.
    """

    def __init__(
        self,
        *,
        image_encoder: FrozenEncoder,
        text_encoder: FrozenEncoder,
        architecture: Architecture,
        class_count: int,
    ) -> None:
        super().__init__()
        shallower = min(image_encoder.depth, text_encoder.depth)
        if not 0 <= architecture.fusion_layer < shallower:
            raise ValueError(
                f"fusion_layer must be 0 to {shallower - 1} for these encoders, got {architecture.fusion_layer}"
            )
        if architecture.query_prompts < 1 or architecture.mapping_width < 1:
            raise ValueError(f"query_prompts and mapping_width must be at least 1, got {architecture}")
        self.architecture = architecture
        # A tuple keeps the frozen encoders out of parameters() and state_dict().
        self._encoders = (image_encoder, text_encoder)
        self.fusion_layers = nn.ModuleList(
            FusionLayer(image_width=image_encoder.width, text_width=text_encoder.width, architecture=architecture)
            for _ in range(shallower - architecture.fusion_layer)
        )
        self.image_classifier = nn.Linear(image_encoder.width, class_count)
        self.text_classifier = nn.Linear(text_encoder.width, class_count)

    @property
    def encoders(self) -> tuple[FrozenEncoder, FrozenEncoder]:
        """The frozen image and text encoder."""
        return self._encoders

    def forward(
        self,
        features: Features,
        architecture: Architecture | None = None,
    ) -> Tensor:
        """Logits from base features.

        Args:
            features: At the architecture's first fusing layer.
            architecture: A smaller one whose prefix slices are used; this model's own by default.

        Returns:
            Mean of the two classifiers' logits, (B, C).
        """
        architecture = architecture or self.architecture
        skipped = architecture.fusion_layer - self.architecture.fusion_layer
        layers = [layer.weights(architecture) for layer in list(self.fusion_layers)[skipped:]]  # type: ignore[operator]
        features = features.to(self.image_classifier.weight.dtype)
        image_readout, text_readout = fuse(*self._encoders, layers, features)
        logits: Tensor = (self.image_classifier(image_readout) + self.text_classifier(text_readout)) / 2
        return logits


def first_fusing_layers(
    image_encoder: FrozenEncoder, text_encoder: FrozenEncoder, fusion_layer: int
) -> tuple[int, int]:
    """Layers of each encoder that run alone: depth − n each, with n = min(depths) − L_f (paper, section 4.6)."""
    fusing = min(image_encoder.depth, text_encoder.depth) - fusion_layer
    return image_encoder.depth - fusing, text_encoder.depth - fusing


@torch.no_grad()
def base_features(
    image_encoder: FrozenEncoder,
    text_encoder: FrozenEncoder,
    fusion_layer: int,
    pixel_values: Tensor,
    input_ids: Tensor,
    text_mask: Tensor | None,
) -> Features:
    """z and t at the first fusing layer, from raw inputs.

    Args:
        image_encoder: Frozen image encoder.
        text_encoder: Frozen text encoder.
        fusion_layer: L_f.
        pixel_values: (B, 3, height, width).
        input_ids: (B, T).
        text_mask: (B, T), true where there is a token; None where no text is padded.
    """
    image_start, text_start = first_fusing_layers(image_encoder, text_encoder, fusion_layer)
    z = image_encoder.run(image_encoder.embed(pixel_values), None, start=0, stop=image_start)
    t = text_encoder.embed(input_ids)
    text_bias = text_encoder.data_bias(text_mask, t.shape[1], t.dtype)
    return Features(z, text_encoder.run(t, text_bias, start=0, stop=text_start), text_mask)


def trainable_parameter_count(
    *, image_width: int, text_width: int, fusing_layers: int, architecture: Architecture, class_count: int
) -> int:
    """Closed form of the number of trained scalars (pinned to the published counts in the tests)."""
    both, width = image_width + text_width, architecture.mapping_width
    prompts = both * (
        architecture.query_prompts + architecture.query_context_prompts + architecture.fusion_context_prompts
    )
    mappings = 2 * width * both + 2 * width + both
    return fusing_layers * (prompts + mappings) + both * class_count + 2 * class_count
