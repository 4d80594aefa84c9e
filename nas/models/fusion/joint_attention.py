"""Sequences of an encoder that hold further tokens after its own data: of the other modality, or learned.

Attention follows PMF's rule: every token attends to all unpadded data tokens and all further tokens. Between the
encoder's own tokens the bias is that of its family; a pair with a further token has no relative position.

Shapes: B samples, R data tokens, E further tokens after them, H heads, D hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from nas.models.encoders.base import Encoder, padding_bias


def joint_bias(encoder: Encoder, data: Tensor, mask: Tensor | None, further: int) -> Tensor | None:
    """Return the additive bias of data and further tokens over each other.

    Args:
        encoder: The encoder whose layers read them.
        data: The encoder's own tokens, (B, R, D).
        mask: (B, R), true where there is a token; None where nothing is padded.
        further: The number of further tokens E.

    Returns:
        A tensor that broadcasts to (B, H, R + E, R + E), or None where every token attends to every token.
    """
    count = data.shape[1]
    own = encoder.data_bias(mask, count, data.dtype)
    if own is None:
        return None
    if own.shape[2] == 1:
        return pad(own, (0, further))
    padding = None if mask is None else padding_bias(mask, data.dtype)
    samples = own.shape[0] if padding is None else padding.shape[0]
    bias = data.new_zeros(samples, own.shape[1], count + further, count + further)
    bias[:, :, :count, :count] = own
    if padding is not None:
        bias[:, :, count:, :count] = padding
    return bias


def with_prompts(rows: Tensor, prompts: Tensor) -> Tensor:
    """Append prompts (M, D), the same for all samples, to tokens (B, R, D)."""
    return torch.cat([rows, prompts.expand(rows.shape[0], -1, -1)], dim=1)


def read_out(
    encoder: Encoder,
    rows: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    *,
    start: int,
    count: int,
    whole: bool,
) -> Tensor:
    """Run the layers from `start` on, and return the classifier's input, (B, D), of the data tokens.

    Args:
        encoder: The encoder.
        rows: The data tokens and further tokens after them, (B, R + E, D).
        mask: The mask of the data tokens, (B, R), or None.
        bias: The result of `joint_bias`.
        start: The first layer to run.
        count: The number of data tokens R.
        whole: Whether to run whole layers of transformers (`Features.whole_layers`).
    """
    if whole:
        rows = encoder.run(rows, bias, start=start, stop=encoder.num_layers, whole=True)
        return encoder.pool(encoder.finish(encoder.readout_rows(rows[:, :count], mask)))
    last = encoder.num_layers - 1
    rows = encoder.run(rows, bias, start=start, stop=last)
    # Exact: no output of the last layer depends on another one, and only these are read.
    wanted = encoder.readout_rows(rows[:, :count], mask)
    of_data = bias if bias is None or bias.shape[2] == 1 else bias[:, :, :count]
    rows = encoder.layers[last].attend(
        wanted, encoder.layers[last].keys_values(rows), encoder.readout_bias(of_data, mask)
    )
    return encoder.pool(encoder.finish(rows))


def read_out_with(
    encoder: Encoder, rows: Tensor, mask: Tensor | None, further: Sequence[Tensor], *, start: int, whole: bool
) -> Tensor:
    """Run the layers from `start` on over data tokens and further tokens as one sequence; see `read_out`.

    Args:
        encoder: The encoder.
        rows: The data tokens, (B, R, D).
        mask: The mask of the data tokens, (B, R), or None.
        further: The further tokens, in parts of (B, E, D), which are concatenated once.
        start: The first layer to run.
        whole: Whether to run whole layers of transformers (`Features.whole_layers`).

    Returns:
        The classifier's input, (B, D).
    """
    joint = torch.cat([rows, *further], dim=1)
    bias = joint_bias(encoder, rows, mask, joint.shape[1] - rows.shape[1])
    return read_out(encoder, joint, mask, bias, start=start, count=rows.shape[1], whole=whole)


def encoded(encoder: Encoder, inputs: Tensor, mask: Tensor | None, *, whole: bool) -> Tensor:
    """Run a complete encoder on its raw inputs, and return the classifier's input, (B, D).

    Args:
        encoder: The encoder.
        inputs: Pixel values or token ids.
        mask: The mask of the tokens, or None.
        whole: Whether to run whole layers of transformers (`Features.whole_layers`).
    """
    rows = encoder.embed(inputs)
    bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
    return read_out(encoder, rows, mask, bias, start=0, count=rows.shape[1], whole=whole)
