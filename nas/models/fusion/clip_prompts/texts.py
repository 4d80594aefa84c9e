"""Deep prompts in the class texts of a dual encoder.

As in MaPLe (Khattak et al., CVPR 2023, section 3.2.1): prompts follow the start token at the input of the first layer,
with the embeddings of these positions, and are replaced, without them, at the inputs of the next J − 1 layers. After
that they stay. They take the place of the first words of the template; further words stay, and further prompts are
inserted.

Shapes: C classes, T text tokens, b prompts, D hidden size, q leading tokens that all texts have in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.models.encoders.base import Encoder
from nas.models.encoders.layers import KeysValues, attention, merge_heads

_START = 1
"""The position of the first prompt, after the start token."""


@dataclass(frozen=True)
class PromptedTexts:
    """The texts of all classes under one template, with places for prompts.

    Args:
        ids: Token ids (C, T), any where there is a prompt.
        mask: (C, T), true where there is a token, padding at the end.
        length: The number b of prompts.
        common: The number q of leading tokens before the class name: start token, prompts, and words of the template.
    """

    ids: Tensor
    mask: Tensor
    length: int
    common: int

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor, *, words: int, length: int, keeps_words: bool) -> "PromptedTexts":
        """Make place for prompts.

        Args:
            ids: Token ids of the texts, (C, T).
            mask: (C, T), true where there is a token.
            words: The number of tokens between the start token and the class name.
            length: The number of prompts b.
            keeps_words: Whether only the first b of these tokens make place, rather than all.
        """
        replaced = min(words, length) if keeps_words else words

        def widened(tensor: Tensor) -> Tensor:
            start, rest = tensor[:, :_START], tensor[:, _START + replaced :]
            return torch.cat([start, start.expand(-1, length), rest], dim=1)

        return cls(widened(ids), widened(mask), length, _START + length + words - replaced)


def prompted_texts(encoder: Encoder, texts: PromptedTexts, prompts: Sequence[Tensor], *, whole: bool) -> Tensor:
    """Return what the encoder pools of each text, (C, D).

    Args:
        encoder: The text encoder, whose attention is causal.
        texts: The texts.
        prompts: The prompts of each of the first J layers, (b, D); at least those of one.
        whole: Whether to run whole layers of transformers (`Features.whole_layers`).
    """
    inputs = [_embedded(encoder, prompts[0]), *prompts[1:]]
    return _whole(encoder, texts, inputs) if whole else _in_parts(encoder, texts, inputs)


def _embedded(encoder: Encoder, prompts: Tensor) -> Tensor:
    """Return prompts with the embeddings of their positions, (b, D)."""
    vectors = torch.cat([prompts.new_zeros(_START, prompts.shape[1]), prompts])
    return encoder.embed_vectors(vectors[None])[0, _START:]


def _whole(encoder: Encoder, texts: PromptedTexts, inputs: Sequence[Tensor]) -> Tensor:
    rows, end = encoder.embed(texts.ids), _START + texts.length
    bias = encoder.data_bias(texts.mask, rows.shape[1], rows.dtype)
    for index in range(encoder.num_layers):
        if index < len(inputs):
            learned = inputs[index].expand(len(rows), -1, -1)
            rows = torch.cat([rows[:, :_START], learned, rows[:, end:]], dim=1)
        rows = encoder.run(rows, bias, start=index, stop=index + 1, whole=True)
    return encoder.pool(encoder.finish(encoder.readout_rows(rows, texts.mask)))


def _in_parts(encoder: Encoder, texts: PromptedTexts, inputs: Sequence[Tensor]) -> Tensor:
    """Run the leading tokens once for all classes, and the class names, with what follows them, for each.

    Exact: in a causal encoder, a token depends on those before it alone. So the leading tokens, which the texts have in
    common, are the same in all of them, and padding, which is at the end, is read by no token that is read out.
    """
    common, end = texts.common, _START + texts.length
    with torch.no_grad():
        rows = encoder.embed(texts.ids)
    # The start token and the words after the prompts; (1, q - b, D).
    others, names = torch.cat([rows[:1, :_START], rows[:1, end:common]], dim=1), rows[:, common:]
    bias = encoder.data_bias(None, rows.shape[1], rows.dtype)
    assert bias is not None  # causal
    names_bias, common_bias = bias[:, :, common:], bias[:, :, :common, :common]
    others_bias = torch.cat([common_bias[:, :, :_START], common_bias[:, :, end:]], dim=2)
    leading = rows[:1, :common]
    for index, layer in enumerate(encoder.layers):
        if index < len(inputs):
            leading = torch.cat([others[:, :_START], inputs[index][None], others[:, _START:]], dim=1)
        shared, normalized = layer.keys_values(leading), layer.normalize(names)
        context = KeysValues.concatenate([shared.expand(len(names)), layer.keys_values_of(normalized)])
        if index == encoder.num_layers - 1:
            # Exact: no output of the last layer depends on another one, and only these are read.
            mask = texts.mask[:, common:]
            names = encoder.readout_rows(names, mask)
            return encoder.pool(encoder.finish(layer.attend(names, context, encoder.readout_bias(names_bias, mask))))
        attended = attention(layer.queries(normalized), context, names_bias, layer.projections.scale)
        names = layer.complete(names, merge_heads(attended))
        if index < len(inputs) - 1:
            # Exact: the outputs of these prompts, which are not computed, are replaced before the next layer.
            others = layer.attend(others, shared, others_bias)
        else:
            leading = layer.attend(leading, shared, common_bias)
    raise AssertionError("an encoder has at least one layer")
