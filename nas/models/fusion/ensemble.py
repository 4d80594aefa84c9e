"""Logits of an ensemble: the mean of its members' probabilities, as logits."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def mean_logits(logits: Sequence[Tensor], weights: Sequence[float], *, has_several_labels: bool) -> Tensor:
    """Return logits whose softmax, or sigmoid, is the weighted mean of the members' probabilities.

    For one label these are log Σ wₖ softmax(lₖ); for several, log p − log(1 − p) with p = Σ wₖ σ(lₖ). Both are computed
    from logarithms, so that probabilities near 0 and 1 keep their precision, and at least in float32.

    Args:
        logits: The logits of each member, (B, C).
        weights: The weights of the members, which add up to 1.
        has_several_labels: Whether each label has a probability of its own.
    """
    if len(logits) == 1:
        return logits[0]
    dtype = logits[0].dtype
    stacked = torch.stack(list(logits)).to(torch.promote_types(dtype, torch.float32))  # (K, B, C)
    shares = stacked.new_tensor(weights).log()[:, None, None]
    if has_several_labels:
        mean = torch.logsumexp(logsigmoid(stacked) + shares, 0) - torch.logsumexp(logsigmoid(-stacked) + shares, 0)
    else:
        mean = torch.logsumexp(stacked.log_softmax(dim=-1) + shares, 0)
    return mean.to(dtype)
