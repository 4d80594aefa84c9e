"""Image-text matching: whether a pair belongs together, with negatives that the contrastive similarity finds hard.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 3.2 and equation 4.

Shapes: B samples, N pairs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def gumbel_noise(generator: np.random.Generator, count: int) -> Tensor:
    """Return the noise by which `sample_negatives` draws, (2, B, B), float32: texts for images, images for texts.

    It is drawn on the host, so that the negatives do not depend on the device.

    Args:
        generator: The generator.
        count: The number of samples B.
    """
    return torch.from_numpy(generator.gumbel(size=(2, count, count)).astype(np.float32))


def sample_negatives(similarities: Tensor, is_positive: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one candidate that is not known to match for each sample, the more likely the more similar it is.

    Candidate j of sample i has a probability in proportion to exp(similarity ij), as in ALBEF; those of positives are
    0. The largest sum of similarity and Gumbel noise has just this distribution (Gumbel, 1954).

    Args:
        similarities: The similarities, divided by the temperature, (B, B); zeros for negatives of equal probability.
        is_positive: Which pairs are known to match, (B, B), bool.
        noise: Independent Gumbel noise, (B, B).

    Returns:
        The index of the candidate, (B,), int64, and whether there is one, (B,), bool: where all match, the index is of
        no use.
    """
    scores = (similarities + noise).masked_fill(is_positive, float("-inf"))
    return scores.argmax(dim=1), ~is_positive.all(dim=1)


@dataclass(frozen=True)
class MatchingPairs:
    """The pairs of a batch: those that match, then each image with another text, then each text with another image.

    Args:
        images: The samples of the images, (3 B,), int64.
        texts: The samples of the texts, (3 B,), int64.
        labels: 1 for a pair that matches, else 0, (3 B,), int64.
        weights: 0 for a negative that does not exist since all candidates match, else 1, (3 B,), float32.
    """

    images: Tensor
    texts: Tensor
    labels: Tensor
    weights: Tensor


def matching_pairs(image_to_text: Tensor, text_to_image: Tensor, is_positive: Tensor, noise: Tensor) -> MatchingPairs:
    """Return the pairs of a batch with two negatives for each positive, as in ALBEF.

    Args:
        image_to_text: The similarities of images to texts by which negatives are drawn, (B, B); see `sample_negatives`.
        text_to_image: Those of texts to images, (B, B).
        is_positive: Which pairs are known to match, (B, B), bool; symmetric.
        noise: The noise of both draws, (2, B, B); see `gumbel_noise`.
    """
    texts, has_text = sample_negatives(image_to_text, is_positive, noise[0])
    images, has_image = sample_negatives(text_to_image, is_positive, noise[1])
    own = torch.arange(len(texts), device=texts.device)
    label = torch.ones_like(own)
    return MatchingPairs(
        images=torch.cat([own, own, images]),
        texts=torch.cat([own, texts, own]),
        labels=torch.cat([label, torch.zeros_like(own), torch.zeros_like(own)]),
        weights=torch.cat([label, has_text, has_image]).float(),
    )


def matching_loss(logits: Tensor, pairs: MatchingPairs) -> Tensor:
    """Return the mean cross-entropy of the pairs that exist, 0-dimensional (equation 4).

    Args:
        logits: The logits of "does not match" and "matches", (3 B, 2).
        pairs: The pairs.
    """
    losses = cross_entropy(logits, pairs.labels, reduction="none")
    return (losses * pairs.weights).sum() / pairs.weights.sum()
