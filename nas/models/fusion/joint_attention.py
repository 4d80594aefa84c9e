"""Sequences of an encoder that hold more than its own data: rows of the other modality, and learned ones.

Who sees whom follows PMF's rule: every row sees all unpadded data and all further rows; between the encoder's own rows
it is as its family has it, and a pair with a further row has no relative position.

Shapes: B samples, R data rows, E further rows behind them, D width.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from nas.models.encoders.base import Encoder, padding_bias


def joint_bias(encoder: Encoder, data: Tensor, mask: Tensor | None, further: int) -> Tensor | None:
    """Additive bias of data and further rows over each other.

    Args:
        encoder: Whose layers read them.
        data: Its own rows, (B, R, D).
        mask: Of these, (B, R), true where there is a token; None where nothing is padded.
        further: E.

    Returns:
        Broadcasts to (B, H, R + E, R + E); None where every row sees every row.
    """
    count = data.shape[1]
    own = encoder.data_bias(mask, count, data.dtype)
    if own is None:
        return None
    if own.shape[2] == 1:
        return pad(own, (0, further))
    padding = None if mask is None else padding_bias(mask, data.dtype)
    samples = len(own) if padding is None else len(padding)
    bias = data.new_zeros(samples, own.shape[1], count + further, count + further)
    bias[:, :, :count, :count] = own
    if padding is not None:
        bias[:, :, count:, :count] = padding
    return bias


def with_prompts(rows: Tensor, prompts: Tensor) -> Tensor:
    """Learned rows (M, D), the same for all samples, behind others (B, R, D)."""
    return torch.cat([rows, prompts.expand(len(rows), -1, -1)], dim=1)


def read_out(
    encoder: Encoder, rows: Tensor, mask: Tensor | None, bias: Tensor | None, start: int, count: int
) -> Tensor:
    """What the classifier reads, (B, D), of data rows that stand first in a longer sequence.

    Args:
        encoder: Its layers from `start` on are run.
        rows: (B, R + E, D).
        mask: Of the data rows, (B, R).
        bias: What `joint_bias` gave.
        start: The first layer.
        count: R.
    """
    last = encoder.num_layers - 1
    rows = encoder.run(rows, bias, start=start, stop=last)
    # No row's output in the last layer depends on another row's output there, and only these are read.
    wanted = encoder.readout_rows(rows[:, :count], mask)
    of_data = bias if bias is None or bias.shape[2] == 1 else bias[:, :, :count]
    rows = encoder.layers[last].attend(
        wanted, encoder.layers[last].keys_values(rows), encoder.readout_bias(of_data, mask)
    )
    return encoder.pool(encoder.finish(rows))


def encoded(encoder: Encoder, inputs: Tensor, mask: Tensor | None) -> Tensor:
    """What the classifier reads of a whole encoder's inputs, (B, D)."""
    rows = encoder.embed(inputs)
    bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
    return read_out(encoder, rows, mask, bias, 0, rows.shape[1])
