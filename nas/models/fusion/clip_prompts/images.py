"""Deep prompts in the image encoder of a dual encoder.

As in MaPLe (Khattak et al., CVPR 2023, section 3.2.2): prompts follow the image tokens at the input of the first layer,
before the norm that CLIP has there, and are replaced at the inputs of the next J − 1 layers. After that they stay.

Shapes: B samples, S image tokens, b prompts, D hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nas.models.encoders.base import Encoder
from nas.models.encoders.layers import KeysValues, attention, merge_heads
from nas.models.fusion.joint_attention import read_out, with_prompts


def prompted_image(encoder: Encoder, rows: Tensor, prompts: Sequence[Tensor], *, whole: bool) -> Tensor:
    """Return what the encoder pools, (B, D).

    Args:
        encoder: The image encoder.
        rows: The outputs of its embeddings, (B, S, D).
        prompts: The prompts of each of the first J layers, (b, D); at least those of one.
        whole: Whether to run whole layers of transformers (`Features.whole_layers`).
    """
    count, last = rows.shape[1], len(prompts) - 1
    inputs = [encoder.as_embeddings(prompts[0][None])[0], *prompts[1:]]
    for index, learned in enumerate(inputs[:last]):
        if whole:
            rows = encoder.run(with_prompts(rows, learned), None, start=index, stop=index + 1, whole=True)[:, :count]
            continue
        layer = encoder.layers[index]
        normalized = layer.normalize(rows)
        # Exact: keys and values depend on their own token, and these tokens are the same for all samples.
        shared = layer.keys_values(learned[None]).expand(rows.shape[0])
        context = KeysValues.concatenate([layer.keys_values_of(normalized), shared])
        attended = attention(layer.queries(normalized), context, None, layer.projections.scale)
        # Exact: the outputs of these prompts, which are not computed, are replaced before the next layer.
        rows = layer.complete(rows, merge_heads(attended))
    # From the last layer with prompts on, they are ordinary tokens, of which the head reads none.
    rows = torch.cat([rows, inputs[last].expand(rows.shape[0], -1, -1)], dim=1)
    return read_out(encoder, rows, None, None, start=last, count=count, whole=whole)
