"""Cross-attention: that of a layer of BERT, and the order of an encoder's own layers."""

from typing import Any

import torch
from torch import Tensor
from transformers.models.bert.modeling_bert import BertLayer

from nas.models.encoders.split_layers import halves_of, run_split
from nas.models.fusion.cross_attention import CrossAttentionBlock
from tests.support.tiny import bert_model, encoders
from tests.support.tiny_families import TEXT_FAMILIES


def visible(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, float("-inf"))[:, None, None]


def test_block_between_the_halves_is_a_layer_of_bert_with_cross_attention() -> None:
    encoder, config = encoders()[1], bert_model().config
    config.is_decoder = config.add_cross_attention = True
    block, expected = CrossAttentionBlock(encoder.layers[1], 16).double(), BertLayer(config).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    weights = dict(encoder.layers[1].module.state_dict())
    own, other = block.attention, "crossattention"
    for name, part in (("self.query", own.query), ("self.key", own.key), ("self.value", own.value)):
        weights |= {f"{other}.{name}.{key}": entry for key, entry in part.state_dict().items()}
    for name, module in (("output.dense", own.output), ("output.LayerNorm", block.norm)):
        weights |= {f"{other}.{name}.{key}": entry for key, entry in module.state_dict().items()}
    layer: Any = expected
    layer.load_state_dict(weights)
    rows, z = torch.randn(2, 5, 16, dtype=torch.float64), torch.randn(2, 4, 16, dtype=torch.float64)
    mask, z_mask = torch.arange(5) < torch.tensor([[5], [3]]), torch.arange(4) < torch.tensor([[2], [4]])
    feed_forward = halves_of(encoder, 1).feed_forward

    def rest(module: Any, attended: Tensor) -> Tensor:
        return feed_forward(module, block(attended, z, visible(z_mask)))

    # The layer of a decoder is causal only where no mask is given.
    want = layer(
        rows, visible(mask).expand(-1, -1, 5, -1), encoder_hidden_states=z, encoder_attention_mask=visible(z_mask)
    )
    for whole in (False, True):
        got = run_split(encoder, 1, rows, visible(mask), rest, whole=whole)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_block_of_a_pre_norm_encoder_adds_attention_of_normed_tokens() -> None:
    family = next(entry for entry in TEXT_FAMILIES if entry.model_type == "clip_text_model")
    block = CrossAttentionBlock(family.encoder(family.model()).layers[0], 24).double()
    rows, z = torch.randn(2, 5, 16, dtype=torch.float64), torch.randn(2, 4, 24, dtype=torch.float64)
    torch.testing.assert_close(block(rows, z), rows + block.attention(block.norm(rows), z), rtol=0, atol=0)
    assert block.norm.eps == 1e-5 and block.attention.num_heads == 2


def test_new_weights_are_those_of_bert() -> None:
    torch.manual_seed(0)
    attention = CrossAttentionBlock(encoders()[1].layers[0], 24).attention
    for layer in (attention.query, attention.key, attention.value, attention.output):
        assert not layer.bias.any()
        assert 0.016 < float(layer.weight.detach().std()) < 0.024
