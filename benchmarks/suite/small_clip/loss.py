"""The contrastive loss of CLIP, with several positives."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def equal_pairs(*keys: Sequence[Hashable]) -> Tensor:
    """Return which pairs of a batch are the same in any of some keys, (B, B) bool; the diagonal is true.

    Args:
        keys: For each key, its B values.
    """
    same = torch.zeros(len(keys[0]), len(keys[0]), dtype=torch.bool)
    for values in keys:
        number = {value: index for index, value in enumerate(dict.fromkeys(values))}
        numbers = torch.tensor([number[value] for value in values])
        same |= numbers[:, None] == numbers
    return same


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, positive: Tensor) -> Tensor:
    """Return the mean cross-entropy of pictures given texts and of texts given pictures, as a scalar.

    InfoNCE (Radford et al., ICML 2021) with the target spread evenly over all positives of a row: pairs with the same
    text, or of the same thing, are not negatives of each other.

    Args:
        image: Embeddings of unit length, (B, E).
        text: Likewise, (B, E).
        scale: The inverse temperature.
        positive: Which pairs belong together, (B, B) bool, symmetric.
    """
    logits = scale * image @ text.T  # (B, B)
    target = positive.to(logits.dtype) / positive.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
