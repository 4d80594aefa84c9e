"""Image-text contrastive learning with a queue of momentum embeddings and soft targets.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), equations 1, 2 and 6. Two things differ: pairs
that are known to match besides a sample's own are positives rather than negatives, as in that paper's fine-tuning for
retrieval, and the queue starts empty rather than with random vectors.

Shapes: B samples, K candidates (the batch, then the queue), E size of embeddings, Q places of the queue.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from nas.models.encoders.frozen_ops import is_autocast


@dataclass(frozen=True)
class PairItems:
    """Which picture and which text each pair has: equal numbers, equal items.

    Args:
        images: The numbers of the pictures, (B,), int64.
        texts: The numbers of the texts, (B,), int64.
    """

    images: Tensor
    texts: Tensor


def known_positives(own: PairItems, candidates: PairItems) -> Tensor:
    """Return which candidates match which samples as far as is known, (B, K), bool.

    Picture i and the text of a pair j match if j has the same picture, or if i has the same text; and likewise for a
    text and the picture of a pair, so that both directions have the same positives.

    Args:
        own: The items of the samples.
        candidates: The items of the candidates.
    """
    same_image = own.images[:, None] == candidates.images[None, :]
    return same_image | (own.texts[:, None] == candidates.texts[None, :])


def similarities(own: Tensor, candidates: Tensor, temperature: Tensor) -> Tensor:
    """Return the products of embeddings divided by the temperature, (B, K), under autocast in their own precision.

    Args:
        own: The embeddings of the samples, (B, E).
        candidates: Those of the candidates, (K, E).
        temperature: The temperature, 0-dimensional.
    """
    if is_autocast(own):
        with torch.autocast(own.device.type, enabled=False):
            return similarities(own, candidates, temperature)
    return own @ candidates.T / temperature


def contrastive_targets(
    is_positive: Tensor, momentum_similarities: Tensor | None, alpha: float, dtype: torch.dtype
) -> Tensor:
    """Return the target distribution over the candidates, (B, K).

    The positives share one part of the target, 1 − α, in equal parts; the momentum model's distribution over all
    candidates has the rest (equation 6).

    Args:
        is_positive: Which candidates match, (B, K), bool; at least one in each row.
        momentum_similarities: The similarities of the momentum model, divided by the temperature, (B, K); None where
            nothing is distilled.
        alpha: The weight α of the momentum model, from 0 to 1.
        dtype: The dtype of the targets.
    """
    hard = is_positive.to(dtype)
    hard = hard / hard.sum(dim=1, keepdim=True)
    if momentum_similarities is None:
        return hard
    return (1 - alpha) * hard + alpha * momentum_similarities.to(dtype).softmax(dim=1)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over the samples of the cross-entropy with target distributions, 0-dimensional.

    Args:
        logits: The logits, (B, K).
        targets: The target distributions, (B, K), constants.
    """
    return -(targets * log_softmax(logits, dim=1)).sum(dim=1).mean()


def contrastive_loss(
    similarities: tuple[Tensor, Tensor],
    is_positive: Tensor,
    momentum_similarities: tuple[Tensor, Tensor] | None,
    alpha: float,
) -> Tensor:
    """Return the contrastive loss, 0-dimensional: the mean of both directions (equations 2 and 6).

    Args:
        similarities: The similarities, divided by the temperature, of images to candidate texts and of texts to
            candidate images, (B, K) each.
        is_positive: Which candidates match, (B, K), bool; see `known_positives`.
        momentum_similarities: Those of the momentum model; None where nothing is distilled.
        alpha: The weight of the momentum model.
    """
    soft: tuple[Tensor | None, Tensor | None] = momentum_similarities or (None, None)
    losses = [
        soft_cross_entropy(logits, contrastive_targets(is_positive, teacher, alpha, logits.dtype))
        for logits, teacher in zip(similarities, soft, strict=True)
    ]
    return (losses[0] + losses[1]) / 2


class PairQueue:
    """The momentum embeddings of the last pairs, by which a batch has more candidates than its own samples.

    It is a ring: a new batch replaces the oldest pairs.

    Args:
        size: The number of places Q; 0 for no queue.
        width: The size E of the embeddings.
        device: The device of the embeddings.
    """

    def __init__(self, size: int, width: int, device: torch.device) -> None:
        self._tensors = {
            "images": torch.zeros(size, width, device=device),
            "texts": torch.zeros(size, width, device=device),
            "image_items": torch.zeros(size, dtype=torch.int64, device=device),
            "text_items": torch.zeros(size, dtype=torch.int64, device=device),
        }
        self._size = size
        self._added = 0

    def __len__(self) -> int:
        """Return the number of places that are filled."""
        return min(self._added, self._size)

    def candidates(self, images: Tensor, texts: Tensor, items: PairItems) -> tuple[Tensor, Tensor, PairItems]:
        """Return the embeddings of images and of texts of a batch, then of the queue, (K, E) each, and their items.

        Args:
            images: The momentum embeddings of the images of the batch, (B, E).
            texts: Those of the texts, (B, E).
            items: The items of the batch.
        """
        filled = {name: tensor[: len(self)] for name, tensor in self._tensors.items()}
        joined = PairItems(
            torch.cat([items.images, filled["image_items"]]), torch.cat([items.texts, filled["text_items"]])
        )
        return torch.cat([images, filled["images"]]), torch.cat([texts, filled["texts"]]), joined

    @torch.no_grad()
    def add(self, images: Tensor, texts: Tensor, items: PairItems) -> None:
        """Add the pairs of a batch; of one that is larger than the queue, the last ones.

        Args:
            images: The momentum embeddings of the images, (B, E).
            texts: Those of the texts, (B, E).
            items: The items of the batch.
        """
        count = len(images)
        kept = min(count, self._size)
        if not kept:
            return
        start = self._added + count - kept
        places = torch.arange(start, start + kept, device=images.device) % self._size
        new = {"images": images, "texts": texts, "image_items": items.images, "text_items": items.texts}
        for name, tensor in self._tensors.items():
            tensor[places] = new[name][count - kept :].to(tensor.dtype)
        self._added += count

    def fill(self) -> None:
        """Take all places for filled, to measure what a full queue needs."""
        self._added = self._size

    def tensors(self) -> list[Tensor]:
        """Return all tensors of the queue."""
        return list(self._tensors.values())

    def state(self) -> dict[str, Tensor | int]:
        """Return the content, for `load`."""
        return {**self._tensors, "added": self._added}

    def load(self, state: Mapping[str, Tensor | int]) -> None:
        """Restore the content that `state` returned.

        Args:
            state: The content.
        """
        for name, tensor in self._tensors.items():
            tensor.copy_(torch.as_tensor(state[name]))
        self._added = int(state["added"])
