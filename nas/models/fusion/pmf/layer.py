"""The two stages of one fusing layer for one modality.

Shapes: B samples, S data tokens of a sample, N packed data tokens, D hidden size, H heads, d = D / H; M_qp, M_qcp and
M_fcp prompts; h mapping width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, pad, relu

from nas.models.encoders.layers import KeysValues, merge_heads
from nas.models.fusion.pmf.data_tokens import DataTokens


@dataclass(frozen=True)
class DirectionWeights:
    """The trained tensors of one direction of one fusing layer; they may be views into larger ones."""

    query_prompts: Tensor  # QP (M_qp, D_from)
    query_context_prompts: Tensor  # QCP (M_qcp, D_from)
    fusion_context_prompts: Tensor  # FCP (M_fcp, D_to)
    mapping: "MappingWeights | None"  # None without a mapping

    def map(self, tokens: Tensor) -> Tensor:
        """Apply the mapping f, (B, M_qp, D_from) → (B, M_qp, D_to)."""
        if self.mapping is None:
            return unmapped(tokens, self.fusion_context_prompts.shape[1])
        return self.mapping.map(tokens)


@dataclass(frozen=True)
class MappingWeights:
    """The trained tensors of a mapping; they may be views into larger ones."""

    inner_weight: Tensor  # (h, D_from)
    inner_bias: Tensor  # (h,)
    outer_weight: Tensor  # (D_to, h)
    outer_bias: Tensor  # (D_to,)

    def map(self, tokens: Tensor) -> Tensor:
        """Apply the mapping f, (B, M_qp, D_from) → (B, M_qp, D_to)."""
        return linear(relu(linear(tokens, self.inner_weight, self.inner_bias)), self.outer_weight, self.outer_bias)


def unmapped(tokens: Tensor, size: int) -> Tensor:
    """Return tokens as a message without a mapping, (B, M, D) → (B, M, size): they are cut, or filled with zeros.

    Encoders of the same hidden size exchange them as they are. Between others, this is the identity as far as both
    have coordinates: it has no parameters, as the part that an ablation leaves out must have none.

    Args:
        tokens: The outputs of the query prompts.
        size: The hidden size of the receiving modality.
    """
    missing = size - tokens.shape[-1]
    return pad(tokens, (0, missing)) if missing > 0 else tokens[..., :size]


class ModalityFusionLayer:
    """One modality in one fusing layer: call `query_stage`, then `fusion_stage` once.

    Args:
        data: The data tokens of the modality in this layer; released in the fusion stage.
        outgoing: The weights of the direction that starts from this modality: QCP, QP and f.
        incoming: The weights of the direction that leads to it: FCP.
    """

    def __init__(self, data: DataTokens, *, outgoing: DirectionWeights, incoming: DirectionWeights) -> None:
        self.data, self.outgoing, self.layer = data, outgoing, data.layer
        # Prompts are the same for every sample, so one projection of each serves all samples.
        kinds = (outgoing.query_context_prompts, outgoing.query_prompts, incoming.fusion_context_prompts)
        context_count = kinds[0].shape[0]
        stop = context_count + kinds[1].shape[0]
        prompts = self.layer.normalize(torch.cat(kinds)[None])
        contexts = self.layer.keys_values_of(prompts)
        self.query_context = contexts.rows(slice(stop))  # [QCP ; QP]
        self.fusion_context = contexts.rows(slice(stop, None))  # FCP
        self.prompt_queries = self.layer.queries(prompts[:, context_count:stop])  # (1, H, M_qp, d)

    def query_stage(self) -> Tensor:
        """Return y = f(outputs of QP in layer([x ; QCP ; QP])), (B, M_qp, D_to).

        Only the outputs of QP are computed: no other output is kept, and within a layer tokens interact only through
        keys and values.
        """
        size = self.data.modality.layout.batch_size
        if not self.outgoing.query_prompts.shape[0]:  # no message
            return self.outgoing.map(self.outgoing.query_prompts.expand(size, -1, -1))
        attended = self.data.attend_queries(self.prompt_queries, self.query_context)
        prompts = self.outgoing.query_prompts.expand(size, -1, -1)  # (B, M_qp, D_from)
        return self.outgoing.map(self.layer.complete(prompts, merge_heads(attended)))

    def fusion_stage(self, message: Tensor) -> Tensor:
        """Return the outputs of x in layer([x ; FCP ; y]); called once, after the query stage.

        Args:
            message: y of the other modality, (B, M_qp, D).

        Returns:
            All tokens packed, (N, D), before the layer emits them; in the last layer the tokens that the head reads,
            (B, R', D).
        """
        data, layer = self.data, self.layer
        encoder, layout, wanted = data.modality.encoder, data.modality.layout, data.wanted
        shared = self.fusion_context.expand(layout.batch_size)
        prompts = KeysValues.concatenate([shared, layer.keys_values(message)]) if message.shape[1] else shared
        attended = data.attend_wanted(data.queries, prompts)
        del data, self.data  # released before the feed-forward block allocates
        merged = merge_heads(attended)
        if wanted.dim() == 2:
            merged = layout.pack(merged)
        tokens = layer.accumulate(wanted, merged)
        if layer is not encoder.layers[-1]:
            return tokens
        tokens = layer.emit(tokens)
        return tokens if tokens.dim() == 3 else layout.unpack(tokens)
