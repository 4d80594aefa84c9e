"""Masked language modelling: which tokens are masked, and the loss of their predictions.

Sources: Devlin et al., "BERT", NAACL 2019, section 3.1, for the masking; Li et al., "Align before Fuse", NeurIPS 2021
(arXiv 2107.07651), equations 3 and 7, for the prediction from text and image and the soft targets of a momentum model.

Shapes: B texts, T tokens, M masked tokens, V tokens of the vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from nas.data.mask_vocabulary import MaskVocabulary
from nas.training.objectives.contrastive import soft_cross_entropy

MASKED_FRACTION = 0.15
"""The fraction of a text's tokens that are masked."""
_MASK_UNTIL, _RANDOM_UNTIL = 0.8, 0.9
"""Of the chosen tokens, 80 % become the mask token, 10 % another token, and 10 % stay as they are."""


@dataclass(frozen=True)
class MaskedTexts:
    """Texts some of whose tokens are masked.

    Args:
        ids: The token ids with the masked ones replaced, (B, T), int64.
        places: The places of the masked tokens among the B · T, ascending, (M,), int64.
        targets: Their true ids, (M,), int64.
    """

    ids: Tensor
    places: Tensor
    targets: Tensor


def masked_count(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many tokens of texts with these numbers of ordinary tokens are masked.

    As in BERT's own code: the fraction, rounded, at least one; none of a text without ordinary tokens.

    Args:
        tokens: The numbers of ordinary tokens, (B,).
    """
    counts = np.rint(MASKED_FRACTION * tokens).astype(np.int64)
    return np.where(tokens > 0, np.maximum(counts, 1), 0)


def max_masked_count(texts: int, tokens: int) -> int:
    """Return an upper bound of the number of masked tokens.

    Args:
        texts: The number of texts B.
        tokens: The number of tokens of the longest one, T.
    """
    return texts * int(masked_count(np.array([tokens], dtype=np.int64))[0])


def mask_texts(
    ids: NDArray[np.int64], mask: NDArray[np.bool_] | None, vocabulary: MaskVocabulary, generator: np.random.Generator
) -> MaskedTexts:
    """Mask a batch of texts; the result depends on the arguments alone.

    Args:
        ids: The token ids, (B, T).
        mask: (B, T), true where there is a token; None where nothing is padded.
        vocabulary: The vocabulary.
        generator: The generator of all draws.
    """
    can_mask = ~np.isin(ids, np.array(vocabulary.special_ids, dtype=np.int64))
    if mask is not None:
        can_mask &= mask
    counts = masked_count(can_mask.sum(axis=1))
    # The tokens of a text in random order, those that must not be masked last.
    order = np.argsort(np.where(can_mask, generator.random(ids.shape), 2.0), axis=1, kind="stable")
    ranks = np.argsort(order, axis=1, kind="stable")
    places = np.flatnonzero(ranks < counts[:, None])
    targets = ids.ravel()[places]
    draws = generator.random(len(places))
    others = generator.choice(vocabulary.ordinary_ids(), size=len(places))
    replaced = np.where(draws < _RANDOM_UNTIL, others, targets)
    masked = ids.copy()
    masked.ravel()[places] = np.where(draws < _MASK_UNTIL, vocabulary.mask_id, replaced)
    return MaskedTexts(torch.from_numpy(masked), torch.from_numpy(places), torch.from_numpy(targets))


def masked_language_loss(
    logits: Tensor, targets: Tensor, momentum_logits: Tensor | None = None, alpha: float = 0.0
) -> Tensor:
    """Return the mean loss over the masked tokens, 0-dimensional (equations 3 and 7).

    Args:
        logits: The logits at the masked tokens, (M, V), M at least 1.
        targets: The true ids, (M,), int64.
        momentum_logits: The logits of the momentum model, (M, V); None where nothing is distilled.
        alpha: The weight of the momentum model.
    """
    loss = cross_entropy(logits, targets)
    if momentum_logits is None:
        return loss
    return (1 - alpha) * loss + alpha * soft_cross_entropy(logits, momentum_logits.softmax(dim=1))
