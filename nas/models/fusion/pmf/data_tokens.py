"""What one modality's data tokens contribute to a fusing layer: computed once, used by both stages.

Shapes: B samples, S data tokens of a sample, N packed data tokens, D hidden size, H heads, d = D / H, R tokens that
attend, M prompts that are attended to.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from nas.models.encoders.base import Encoder, mean_over_tokens, padding_bias
from nas.models.encoders.layers import EncoderLayer, KeysValues
from nas.models.fusion.data_attention import DataAttention, attention_with_logsumexp
from nas.models.fusion.pmf.absorbed_attention import absorbed_attention, join_prompts, readout_tokens
from nas.models.fusion.pmf.joined_attention import joined_attention, known_attention
from nas.models.fusion.pmf.layer_input import DataReader, LayerInput
from nas.models.fusion.pmf.packing import PackedBatch
from nas.models.fusion.readouts import Readout


@dataclass(frozen=True)
class Modality:
    """One modality of a batch, the same in all layers.

    Args:
        encoder: The frozen encoder.
        readout: What the classifier reads.
        layout: The positions of the packed data tokens.
        padding: Additive bias of prompts over the data, which hides padding, (B, 1, 1, S), or None.
        bias: Additive bias of the data tokens over each other, or None.
    """

    encoder: Encoder
    readout: Readout
    layout: PackedBatch
    padding: Tensor | None
    bias: Tensor | None

    @classmethod
    def of(cls, encoder: Encoder, readout: Readout, layout: PackedBatch, dtype: torch.dtype) -> "Modality":
        """Describe the modality of data tokens with a layout and a dtype."""
        mask = layout.mask
        return cls(
            encoder=encoder,
            readout=readout,
            layout=layout,
            padding=None if mask is None else padding_bias(mask, dtype),
            bias=encoder.data_bias(mask, layout.token_count, dtype),
        )

    @property
    def readout_tokens(self) -> Literal["first", "last", "all"]:
        """The tokens whose outputs of the last layer are needed; see `Encoder.readout`."""
        return "all" if self.readout == "mean" else self.encoder.readout

    def pool(self, rows: Tensor) -> Tensor:
        """Return the classifier's input, given the outputs of the last layer: (B, R', D) → (B, D).

        Args:
            rows: The readout tokens; all of them with zeros for padding, or the one that the encoder reads.
        """
        finished = self.encoder.finish(rows)
        if self.readout == "mean":
            return mean_over_tokens(finished, self.layout.mask)
        return self.encoder.pool(finished)


class Attention(Protocol):
    """Attention of some tokens over the data and prompts of one modality."""

    def __call__(self, queries: Tensor, prompts: KeysValues) -> Tensor:
        """Return the attention output.

        Args:
            queries: Queries of the tokens, (B or 1, H, R, d).
            prompts: Keys and values of the prompts that they attend to, (B or 1, H, M, d).

        Returns:
            (B, H, R, d).
        """


@dataclass(frozen=True)
class AbsorbedAttention:
    """Attention whose part over the data was computed without keys and values of the data.

    Args:
        output: The attention output over the data, (B, H, ≥ R, d), of these queries and others.
        logsumexp: The logsumexp of its scores, (B, H, ≥ R).
        scale: The factor of the scores.
        start: The position of the first of these queries.
    """

    output: Tensor
    logsumexp: Tensor
    scale: float
    start: int = 0

    def __call__(self, queries: Tensor, prompts: KeysValues) -> Tensor:
        output, logsumexp = (
            part[:, :, self.start : self.start + queries.shape[2]] for part in (self.output, self.logsumexp)
        )
        return join_prompts(output, logsumexp, queries, prompts, self.scale)


@dataclass(frozen=True)
class StoredAttention:
    """Attention of constant data tokens over themselves, computed before; only prompts are added.

    Args:
        known: The attention output over the data, (B, H, S, d), and the logsumexp of its scores, (B, H, S).
        tokens: The data tokens, packed, (N, D), without a graph.
        reader: The layer's way to read them.
    """

    known: tuple[Tensor, Tensor]
    tokens: Tensor
    reader: DataReader

    def __call__(self, queries: Tensor, prompts: KeysValues) -> Tensor:
        return known_attention(self.known, queries, prompts, tokens=self.tokens, reader=self.reader)


@dataclass(frozen=True)
class ProjectedAttention:
    """Attention over keys and values of the data.

    Args:
        data: The keys and values of the data tokens, (B, H, S, d).
        bias: Additive bias over the data, broadcasting to (B, H, R, S), or None.
        scale: The factor of the scores.
    """

    data: KeysValues
    bias: Tensor | None
    scale: float

    def __call__(self, queries: Tensor, prompts: KeysValues) -> Tensor:
        size = len(self.data.keys)
        queries, prompts = queries.expand(size, -1, -1, -1), prompts.expand(size)
        return joined_attention(queries, self.data, prompts, self.bias, self.scale)


@dataclass(frozen=True)
class DataTokens:
    """The data tokens of one modality in one fusing layer, before any context prompt or message is added.

    In the first fusing layer they serve all architectures whose query prompts are a prefix of the given ones.

    Args:
        modality: The modality.
        layer: The frozen layer that reads the tokens.
        wanted: Layer inputs of the tokens whose outputs are needed: all of them packed, (N, D), or in the last layer
            the readout token, (B, 1, D), unless all tokens are read out.
        queries: Queries of the wanted tokens, (B, H, S or 1, d).
        attend_queries: Attention of the query prompts (query stage).
        attend_wanted: Attention of the wanted tokens (fusion stage).
    """

    modality: Modality
    layer: EncoderLayer
    wanted: Tensor
    queries: Tensor
    attend_queries: Attention
    attend_wanted: Attention


@dataclass(frozen=True)
class _LayerTokens:
    """Data tokens as they enter a fusing layer.

    Args:
        modality: The modality.
        source: The layer that reads the tokens, and the one before.
        tokens: The packed data tokens, (N, D), as `read_data` gets them.
    """

    modality: Modality
    source: LayerInput
    tokens: Tensor

    @property
    def reader(self) -> DataReader:
        """The layer's way to read the tokens."""
        return DataReader(self.source.layer.projections, self.source, self.modality.layout)

    def split_readout(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return all tokens (N, D), the emitted readout tokens (B, 1, D), and the bias of these over the data.

        Only these outputs are needed in the last layer: the head reads nothing else, and no output of a layer depends
        on another output of it.
        """
        encoder, layout, which = self.modality.encoder, self.modality.layout, self.modality.readout_tokens
        assert which != "all"
        tokens, readout = readout_tokens(self.tokens, layout.positions(which, self.tokens.device))
        return tokens, self.source.emit(readout), encoder.readout_bias(self.modality.bias, layout.mask)


def read_data(
    modality: Modality,
    index: int,
    tokens: Tensor,
    query_prompts: Tensor,
    *,
    is_first: bool,
    stored: DataAttention | None = None,
) -> DataTokens:
    """Read the data tokens in a fusing layer, in the cheapest of three ways; all are exact.

    With M query prompts, R = M + 1 in the last layer and M elsewhere, a data token costs
    - absorbed (`_read_absorbed`, `_read_constant`): 2 products with D × (R · H) numbers, and 4 in the backward pass;
    - as keys and values (`_read_projected`): 2 products with D × D numbers, and 2 in the backward pass.
    Constant tokens, those of the first fusing layer, need no backward pass at all, and their attention over each other
    can be stored (`_read_constant`). Other tokens whose outputs are all needed require keys and values with a graph in
    any case, so absorbing would save nothing.

    Args:
        modality: The modality of the tokens.
        index: The index of the frozen layer that reads them.
        tokens: Data tokens x before the fusion stage, packed, (N, D): base features in the first fusing layer, later
            what the layer before has accumulated and not yet emitted.
        query_prompts: QP of the direction that starts from this modality, (M_qp, D).
        is_first: Whether this is the first fusing layer.
        stored: The attention of the data tokens over each other, if it is stored.
    """
    encoder = modality.encoder
    layer = encoder.layers[index]
    read = _LayerTokens(modality, LayerInput(None if is_first else encoder.layers[index - 1], layer), tokens)
    reads_readout = index == encoder.num_layers - 1 and modality.readout_tokens != "all"
    count = query_prompts.shape[0]  # none without a message
    absorbs = count > 0 and 3 * (count + reads_readout) * layer.projections.num_heads < 2 * encoder.hidden_size
    if reads_readout:
        return _read_absorbed(read, query_prompts) if absorbs else _read_projected(read, is_last=True)
    if not tokens.requires_grad and (absorbs or stored is not None):
        return _read_constant(read, query_prompts if absorbs else None, stored)
    return _read_projected(read, is_last=False)


def _read_absorbed(read: _LayerTokens, query_prompts: Tensor) -> DataTokens:
    """Absorb the key and value projections into the query prompts and the readout token (last layer)."""
    modality, layer = read.modality, read.source.layer
    scale, count = layer.projections.scale, query_prompts.shape[0]
    prompt_queries = layer.queries(layer.normalize(query_prompts[None]))  # (1, H, M_qp, d)
    tokens, wanted, bias = read.split_readout()
    with torch.no_grad():  # the backward pass reads the tokens again
        normalized = read.reader.unpacked(tokens)  # (B, S, D)
    queries = layer.queries(layer.normalize(wanted))  # (B, H, 1, d)
    output, logsumexp = absorbed_attention(
        prompt_queries,
        queries,
        tokens=tokens,
        normalized=normalized,
        bias=_join_biases(modality.padding, count, bias),
        reader=read.reader,
    )
    return DataTokens(
        modality=modality,
        layer=layer,
        wanted=wanted,
        queries=queries,
        attend_queries=AbsorbedAttention(output, logsumexp, scale),
        attend_wanted=AbsorbedAttention(output, logsumexp, scale, start=count),
    )


def _read_constant(read: _LayerTokens, query_prompts: Tensor | None, stored: DataAttention | None) -> DataTokens:
    """Take the attention of constant tokens over each other from the store, or compute it once, without a graph.

    Exact, because it depends on no trained parameter.

    Args:
        read: The tokens.
        query_prompts: QP, into which the projections are absorbed; None where keys and values are cheaper.
        stored: The attention of the data tokens over each other, if it is stored.
    """
    modality, layer = read.modality, read.source.layer
    scale = layer.projections.scale
    prompt_queries = None if query_prompts is None else layer.queries(layer.normalize(query_prompts[None]))
    with torch.no_grad():
        emitted = read.source.emit(read.tokens)
        normalized = modality.layout.unpack(layer.normalize(emitted))  # (B, S, D)
    queries = layer.queries(normalized)
    known = None if stored is None else stored.by_head(queries)
    data = None if known is not None and prompt_queries is not None else layer.keys_values_of(normalized)
    attend_queries: Attention
    if prompt_queries is None:
        assert data is not None
        attend_queries = ProjectedAttention(data, modality.padding, scale)
    else:
        summary = absorbed_attention(
            prompt_queries,
            torch.empty_like(queries[:, :, :0]),  # not a view, which would keep all queries alive
            tokens=read.tokens,
            normalized=normalized,
            bias=modality.padding,
            reader=read.reader,
        )
        attend_queries = AbsorbedAttention(*summary, scale)
    if known is None:
        assert data is not None
        known = attention_with_logsumexp(queries, data, modality.bias, scale)
    return DataTokens(
        modality=modality,
        layer=layer,
        wanted=emitted,
        queries=queries,
        attend_queries=attend_queries,
        attend_wanted=StoredAttention(known, read.tokens.detach(), read.reader),
    )


def _read_projected(read: _LayerTokens, *, is_last: bool) -> DataTokens:
    """Compute keys and values of all tokens once: they depend on their own token only, so both stages share them."""
    modality, layer = read.modality, read.source.layer
    scale = layer.projections.scale
    if is_last:
        tokens, wanted, bias = read.split_readout()
        normalized = read.reader.unpacked(tokens)  # (B, S, D)
        queries = layer.queries(layer.normalize(wanted))  # (B, H, 1, d)
    else:
        wanted, bias = read.source.emit(read.tokens), modality.bias
        normalized = modality.layout.unpack(layer.normalize(wanted))  # (B, S, D)
        queries = layer.queries(normalized)  # (B, H, S, d)
    data = layer.keys_values_of(normalized)
    return DataTokens(
        modality=modality,
        layer=layer,
        wanted=wanted,
        queries=queries,
        attend_queries=ProjectedAttention(data, modality.padding, scale),
        attend_wanted=ProjectedAttention(data, bias, scale),
    )


def _join_biases(first: Tensor | None, count: int, second: Tensor | None) -> Tensor | None:
    """Return the bias of `count` tokens with the first bias, followed by one token with the second.

    The two differ where a family has another bias besides padding.
    """
    if first is second or second is None:
        return first
    if first is None:
        first = torch.zeros_like(second[:, :1])
    shape = torch.broadcast_shapes(first.shape, second.shape)
    return torch.cat([first.expand(*shape[:2], count, shape[3]), second.expand(shape)], dim=2)
