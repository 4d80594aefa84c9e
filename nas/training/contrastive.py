"""The contrastive loss of image-text retrieval.

A picture has to be nearer to its texts than to all others, and a text nearer to its pictures. Both directions are the
InfoNCE loss over a batch (van den Oord et al., 2018, "Representation Learning with Contrastive Predictive Coding"), and
their mean is CLIP's (Radford et al., ICML 2021). An item may have several right partners in a batch. Its loss is then
the mean over them, each against the wrong partners alone: the supervised contrastive loss with the sum outside of the
logarithm (Khosla et al., NeurIPS 2020, equation 2), in whose denominator the other right partners are left out. What
the training split knows to belong together is therefore never a negative.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from nas.common.devices import CPU
from nas.config.training_schema import RecipeConfig
from nas.data.pairs import PairItems
from nas.data.samples import Labels, label_kind
from nas.models.encoders.frozen_ops import is_autocast
from nas.models.fusion.base import Features, FusionModel
from nas.models.fusion.embeddings import pair_embedder
from nas.search.space import Architecture
from nas.training.losses import Loss, build_loss

_NEGLIGIBLE = -1e30
"""A score that adds nothing, and whose difference from a score is finite."""


class ContrastiveLoss:
    """Contrastive loss of a batch; the loss is the sum over the rows, divided by their number.

    Args:
        known: The items of all rows that are known to belong together, int64, (N, 2): those of the training split.
        device: The device of the embeddings; by default the CPU.
    """

    def __init__(self, known: PairItems, device: torch.device = CPU) -> None:
        self._known = known
        self._text_count = int(known[:, 1].max(initial=0)) + 1
        codes = np.unique(known[:, 0] * self._text_count + known[:, 1])
        self._codes = torch.from_numpy(codes).to(device)

    def to(self, device: torch.device) -> "ContrastiveLoss":
        """Return the loss for embeddings on a device."""
        return ContrastiveLoss(self._known, device)

    def total_weight(self, labels: Labels) -> float:
        """Return the divisor of the sum over rows with these items."""
        return float(len(labels))

    def batch_sum(
        self, model: FusionModel, features: Features, labels: Tensor, architecture: Architecture | None = None
    ) -> Tensor:
        """Return the sum of the losses of all rows of a batch, 0-dimensional.

        Args:
            model: A model that embeds pairs.
            features: The inputs of the rows.
            labels: The items of the rows, int64, (B, 2).
            architecture: The slice; the architecture of the model by default.
        """
        embedder = pair_embedder(model)
        images, texts = embedder.contrastive_embeddings(features, architecture)
        if is_autocast(images):
            with torch.autocast(images.device.type, enabled=False):
                return contrastive_sum(images.float(), texts.float(), embedder.temperature, self.positives(labels))
        return contrastive_sum(images, texts, embedder.temperature, self.positives(labels))

    def positives(self, labels: Tensor) -> Tensor:
        """Return whether the picture of each row and the text of each row belong together, (B, B).

        Args:
            labels: The items of the rows, int64, (B, 2).
        """
        codes = labels[:, :1] * self._text_count + labels[None, :, 1]
        places = torch.searchsorted(self._codes, codes).clamp_(max=len(self._codes) - 1)
        return self._codes[places] == codes


def contrastive_sum(images: Tensor, texts: Tensor, temperature: Tensor, positives: Tensor) -> Tensor:
    """Return the sum over the rows of the mean loss of both directions, 0-dimensional.

    Args:
        images: The embeddings of the pictures, (B, E).
        texts: The embeddings of the texts, (B, E).
        temperature: The divisor of the dot products, 0-dimensional.
        positives: Whether a picture (first) and a text (second) belong together, (B, B); each has at least one partner.
    """
    scores = images @ texts.T / temperature
    return (_rows_sum(scores, positives) + _rows_sum(scores.T, positives.T)) / 2


def _rows_sum(scores: Tensor, positives: Tensor) -> Tensor:
    wrong = scores.masked_fill(positives, _NEGLIGIBLE).logsumexp(dim=1, keepdim=True)
    losses = softplus(wrong - scores)  # of each partner: minus the logarithm of its probability among the wrong ones
    return (losses.masked_fill(~positives, 0.0).sum(dim=1) / positives.sum(dim=1)).sum()


def build_objective(recipe: RecipeConfig, labels: Labels, num_classes: int) -> Loss | ContrastiveLoss:
    """Build the loss of a training on samples with these labels: contrastive for pairs, else that of a classifier."""
    if label_kind(labels) == "pairs":
        return ContrastiveLoss(labels.astype(np.int64))
    return build_loss(recipe, labels, num_classes)
