"""The two stages of one fusing layer for one modality, with what both need of its data rows computed once.

Shapes: B samples, R data rows of a sample, N data rows in all, D width, H heads, d = D / H, M_qp, M_qcp, M_fcp prompt
lengths, h mapping width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, relu

from nas.models.encoders.base import Encoder, padding_bias
from nas.models.encoders.layers import EncoderLayer, KeysValues, merge_heads
from nas.models.fusion.data_attention import DataAttention, attention_with_logsumexp
from nas.models.fusion.pmf.absorbed_attention import absorbed_attention, join_prompts, readout_rows
from nas.models.fusion.pmf.joined_attention import joined_attention, known_attention
from nas.models.fusion.pmf.packing import PackedBatch


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
class Modality:
    """One modality of a batch, the same in all layers.

    Args:
        encoder: Frozen.
        layout: Where its data rows lie.
        padding: Additive bias of prompts over the data: padding is hidden, (B, 1, 1, R), or None.
        bias: Additive bias of the data rows over each other, or None.
    """

    encoder: Encoder
    layout: PackedBatch
    padding: Tensor | None
    bias: Tensor | None

    @classmethod
    def of(cls, encoder: Encoder, rows: Tensor, mask: Tensor | None) -> "Modality":
        """With data rows (B, R, D) and that mask."""
        return cls(
            encoder=encoder,
            layout=PackedBatch.of(rows, mask),
            padding=None if mask is None else padding_bias(mask, rows.dtype),
            bias=encoder.data_bias(mask, rows.shape[1], rows.dtype),
        )


@dataclass(frozen=True)
class LayerInput:
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


@dataclass(frozen=True)
class DataTokens:
    """The data rows of one modality in one fusing layer, as far as no context prompt and no message comes into it.

    In the first fusing layer that is the same for all architectures whose query prompts are a prefix of these.

    Args:
        modality: Whose.
        read: How its layer reads them.
        rows: Data rows from before the fusion stage, packed, (N, D): base features in the first fusing layer, then what
            the layer before has accumulated and not yet emitted; without a graph.
        wanted: Inputs of the rows whose outputs are wanted: all of them, (N, D), or in the last layer the readout rows,
            (B, 1, D).
        queries: Of the wanted rows, (B, H, R or 1, d).
        bias: Of the wanted rows over the data.
        data: Keys and values of the data rows; None where nobody needs them.
        known: Output and logsumexp of the data rows over each other, where it depends on no trained parameter.
        absorbed: Output and logsumexp over the data of the query prompts, and behind them of the readout row in the
            last layer; None where `data` serves them.
        query_count: Query prompts in `absorbed`.
    """

    modality: Modality
    read: LayerInput
    rows: Tensor
    wanted: Tensor
    queries: Tensor
    bias: Tensor | None
    data: KeysValues | None
    known: tuple[Tensor, Tensor] | None
    absorbed: tuple[Tensor, Tensor] | None
    query_count: int


def read_data(
    modality: Modality,
    index: int,
    rows: Tensor,
    query_prompts: Tensor,
    *,
    is_first: bool,
    known: DataAttention | None = None,
) -> DataTokens:
    """Read what prompts and rows attend to in the data, in the way that costs least; all ways are exact.

    Args:
        modality: Whose data rows.
        index: Of the frozen layer that reads them.
        rows: Data rows x from before the fusion stage, packed, (N, D), as `DataTokens` has them.
        query_prompts: QP of the direction in which this modality tells, (M_qp, D).
        is_first: Whether this is the first fusing layer.
        known: The data rows' attention over each other, where it is stored.
    """
    encoder, layout, bias = modality.encoder, modality.layout, modality.bias
    layer, parts = encoder.layers[index], encoder.layers[index].projections
    read = LayerInput(None if is_first else encoder.layers[index - 1], layer)
    reads_few = index == encoder.num_layers - 1 and encoder.readout != "all"
    # Absorbed, a data row costs 2 products with D × (few · H) numbers, and 4 backward; by keys and values 2 and 2 with
    # D × D. Where all rows need keys and values with a gradient anyway, they are there.
    few = query_prompts.shape[0] + reads_few
    absorbs = 3 * few * parts.num_heads < 2 * encoder.hidden_size and (reads_few or not rows.requires_grad)
    prompt_queries = layer.queries(layer.normalize(query_prompts[None]))  # (1, H, M_qp, d)
    if reads_few:
        # No row's output depends on another row's output, and behind the last layer only these are read.
        rows, readout = readout_rows(rows, layout.places(encoder.readout, rows.device))
        wanted, bias = read.emit(readout), encoder.readout_bias(bias, layout.mask)  # (B, 1, D)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not absorbs):
        emitted = read.emit(rows)
        normalized = layout.unpack(layer.normalize(emitted))  # (B, R, D)
    if not reads_few:
        wanted = emitted
    queries = layer.queries(layer.normalize(wanted) if reads_few else normalized)
    from_store = None if known is None or reads_few else known.by_head(queries)
    data = None if absorbs and (reads_few or from_store) else layer.keys_values_of(normalized)
    absorbed = None
    if absorbs:
        own = queries if reads_few else torch.empty_like(queries[:, :, :0])  # no view, which would hold all of them
        absorbed = absorbed_attention(
            prompt_queries,
            own,
            rows=rows,
            normalized=normalized,
            bias=_join_rows(modality.padding, few - 1, bias) if reads_few else modality.padding,
            parts=parts,
            read=read,
            layout=layout,
        )
        if data is not None:  # constants of the data: nothing of them but the outcome is needed any more
            from_store, data = attention_with_logsumexp(queries, data, bias, parts.scale), None
    return DataTokens(
        modality=modality,
        read=read,
        rows=rows.detach(),
        wanted=wanted,
        queries=queries,
        bias=bias,
        data=data,
        known=from_store,
        absorbed=absorbed,
        query_count=query_prompts.shape[0],
    )


def _join_rows(first: Tensor | None, count: int, second: Tensor | None) -> Tensor | None:
    """Biases of `count` rows and of one row behind them; they differ where a family's own bias is not padding."""
    if first is second or second is None:
        return first
    if first is None:
        first = torch.zeros_like(second[:, :1])
    shape = torch.broadcast_shapes(first.shape, second.shape)
    return torch.cat([first.expand(*shape[:2], count, shape[3]), second.expand(shape)], dim=2)


class ModalityFusionLayer:
    """One modality in one fusing layer.

    Args:
        data: Its data rows, read; given up in the fusion stage.
        tells: Weights of the direction in which it tells: QCP, QP and f.
        is_told: Weights of the direction in which it is told: FCP.
    """

    def __init__(self, data: DataTokens, *, tells: DirectionWeights, is_told: DirectionWeights) -> None:
        self.data, self.tells, self.layer = data, tells, data.read.layer
        # Prompts are the same for every sample, so one projection serves all kinds and all samples.
        kinds = (tells.query_context_prompts, tells.query_prompts, is_told.fusion_context_prompts)
        context_count, self.query_count = kinds[0].shape[0], kinds[1].shape[0]
        stop = context_count + self.query_count
        prompts = self.layer.normalize(torch.cat(kinds)[None])
        contexts = self.layer.keys_values_of(prompts)
        self.query_context = contexts.rows(slice(stop))  # [QCP ; QP]
        self.fusion_context = contexts.rows(slice(stop, None))  # FCP
        self.prompt_queries = self.layer.queries(prompts[:, context_count:stop])  # (1, H, M_qp, d)

    def query_stage(self) -> Tensor:
        """y = f(rows of QP in layer([x ; QCP ; QP])), (B, M_qp, D_to).

        Only QP's rows are computed: no other row's output is kept, and within one layer rows meet only as keys and
        values.
        """
        data, scale = self.data, self.layer.projections.scale
        size = data.modality.layout.batch_size
        if data.absorbed is not None:
            output, logsumexp = (part[:, :, : self.query_count] for part in data.absorbed)
            attended = join_prompts(output, logsumexp, self.prompt_queries, self.query_context, scale)
        else:
            assert data.data is not None
            queries, context = self.prompt_queries.expand(size, -1, -1, -1), self.query_context.expand(size)
            attended = joined_attention(queries, data.data, context, data.modality.padding, scale)
        rows = self.tells.query_prompts.expand(size, -1, -1)  # (B, M_qp, D_from)
        return self.tells.map(self.layer.complete(rows, merge_heads(attended)))

    def fusion_stage(self, message: Tensor) -> Tensor:
        """Rows of x in layer([x ; FCP ; y]), after the query stage, once.

        Args:
            message: y, what the other modality tells, (B, M_qp, D).

        Returns:
            All rows packed, (N, D), before the layer emits them; of the last layer what the head reads, (B, R', D).
        """
        data, layer = self.data, self.layer
        encoder, layout, wanted = data.modality.encoder, data.modality.layout, data.wanted
        shared = self.fusion_context.expand(layout.batch_size)
        prompts = KeysValues.concatenate([shared, layer.keys_values(message)])
        parts = layer.projections
        if data.known is not None:
            attended = known_attention(
                data.known, data.queries, prompts, rows=data.rows, parts=parts, read=data.read, layout=layout
            )
        elif data.absorbed is not None:
            output, logsumexp = (part[:, :, data.query_count :] for part in data.absorbed)
            attended = join_prompts(output, logsumexp, data.queries, prompts, parts.scale)
        else:
            assert data.data is not None
            attended = joined_attention(data.queries, data.data, prompts, data.bias, parts.scale)
        del data, self.data  # gone before the feed-forward block needs its memory
        merged = merge_heads(attended)
        if wanted.dim() == 2:
            merged = layout.pack(merged)
        rows = layer.accumulate(wanted, merged)
        if layer is not encoder.layers[-1]:
            return rows
        rows = layer.emit(rows)
        return rows if rows.dim() == 3 else layout.unpack(rows)
