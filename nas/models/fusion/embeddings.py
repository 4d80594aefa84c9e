"""The interface of models that embed pictures and texts apart from each other, so that a dot product compares a pair.

Families of such models set `Architecture.embeds_pairs`. Image-text retrieval (`data.task: retrieval`) uses nothing
else of a model: it is then built with no classes, and has no classifier.

Shapes: B_i pictures, B_t texts, E the size of an embedding.
"""

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from nas.models.fusion.base import Features, FusionModel
from nas.search.space import Architecture


class PairEmbedder(Protocol):
    """A model that embeds pictures and texts apart from each other."""

    temperature: Tensor
    """What the contrastive loss divides dot products by: positive, 0-dimensional; trained, if it is a parameter."""

    def contrastive_embeddings(
        self, features: Features, architecture: Architecture | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return embeddings of unit length: of the pictures, (B_i, E), and of the texts, (B_t, E).

        The embedding of a picture depends on no text, and that of a text on no picture. The numbers of both may
        therefore differ.

        Args:
            features: The inputs at the entry layers of the architecture.
            architecture: A smaller architecture, computed with slices of the weights; by default the model's own.
        """


def pair_embedder(model: FusionModel) -> PairEmbedder:
    """Return a model as one that embeds pairs.

    Raises:
        TypeError: If its family does not.
    """
    if not model.architecture.embeds_pairs:
        raise TypeError(
            f"{model.architecture.family} model: embeds no pairs; expected one of a family that sets "
            "Architecture.embeds_pairs"
        )
    return cast(PairEmbedder, model)


def pair_outputs(model: FusionModel, features: Features, architectures: Sequence[Architecture]) -> list[Tensor]:
    """Return the embeddings of each of several architectures, (B, 2E): each picture's, and behind it its text's.

    Args:
        model: A model or a supernet that embeds pairs.
        features: The inputs at the entry layers, which are the same for all architectures; as many pictures as texts.
        architectures: Smaller architectures or the model's own.
    """
    embedder = pair_embedder(model)
    with torch.no_grad():
        return [torch.cat(embedder.contrastive_embeddings(features, entry), dim=1).float() for entry in architectures]


def model_outputs(model: FusionModel, features: Features, architectures: Sequence[Architecture]) -> list[Tensor]:
    """Return what is evaluated of each of several architectures, without a graph.

    These are the logits, (B, C), or the embeddings of a model without classes; see `pair_outputs`.

    Args:
        model: A model or a supernet.
        features: The inputs at the entry layers.
        architectures: Smaller architectures or the model's own, all with the same entry layers.
    """
    if model.num_classes:
        return model.population_logits(features, architectures)
    return pair_outputs(model, features, architectures)
