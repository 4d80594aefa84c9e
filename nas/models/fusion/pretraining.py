"""What a fusion family provides to be pretrained on pairs of image and text, before its classifier is trained.

The objectives are those of ALBEF (Li et al., "Align before Fuse", NeurIPS 2021, arXiv 2107.07651, section 3.2):
image-text contrastive, image-text matching and masked language modelling; `nas.training.objectives` computes them.

A family that can be pretrained lists its objectives in `Architecture.pretraining_objectives`, and its `FusionModel` has
the method `pretraining_model`, which `Pretrainable` declares. The heads of the objectives belong to that
`PretrainingModel` alone: they are dropped after the pretraining, so that the model that is searched, exported and
counted has no weights that its classifier does not read.

Shapes: B samples, N pairs, R tokens, D hidden size, E size of contrastive embeddings, V tokens of the vocabulary.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from nas.models.fusion.base import Features, FusionModel


@dataclass(frozen=True)
class TokenStates:
    """The tokens of one modality as far as several objectives share their computation.

    Which layer they come from is the family's choice: ALBEF's are the outputs of its image encoder and of the lower
    half of its text encoder, those of a model with one stream its embeddings.

    Args:
        rows: The tokens, (B, R, D).
        mask: (B, R), true where there is a token, padding at the end; None where nothing is padded.
    """

    rows: Tensor
    mask: Tensor | None = None

    def take(self, samples: Tensor) -> "TokenStates":
        """Return the tokens of some samples, in their order; a sample may occur several times.

        Args:
            samples: The indices of the samples, (N,), int64.
        """
        mask = None if self.mask is None else self.mask.index_select(0, samples)
        return replace(self, rows=self.rows.index_select(0, samples), mask=mask)


class PretrainingModel(nn.Module, ABC):
    """A fusion model with the heads of the objectives that its family has.

    All trained weights are parameters of this module: those of `model`, in place, and those of the heads. It has no
    dropout, no random draws and no buffers that change: the momentum model of ALBEF (section 3.2) is this module with
    other values of its parameters, which `nas.training.objectives.momentum.weights_replaced` puts in their place.
    Modules must therefore read `self.weight` when they are called, and keep no copy of it.

    Args:
        model: The model whose weights are pretrained.
    """

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def encode_images(self, features: Features) -> TokenStates:
        """Return the states of the images, (B, S, D_img).

        Args:
            features: The inputs at the entry layers of the model, of its classification, too.
        """

    @abstractmethod
    def encode_texts(self, features: Features) -> TokenStates:
        """Return the states of the texts, (B, T, D_txt), in which a token has the place that it has in the input.

        Args:
            features: The inputs; for masked language modelling, `text_tokens` are ids some of which are masked.
        """

    def embed(self, images: TokenStates, texts: TokenStates) -> tuple[Tensor, Tensor]:
        """Return the contrastive embeddings of images and of texts, (B, E) each, of unit length.

        Neither depends on the other modality. Only for families with the objective `contrastive`.

        Args:
            images: The result of `encode_images`.
            texts: The result of `encode_texts`.

        Raises:
            NotImplementedError: If the family has no such objective; a search file that asks for it is refused before.
        """
        raise NotImplementedError(f"{type(self).__name__}: has no contrastive embeddings")

    @property
    def temperature(self) -> Tensor:
        """The divisor of similarities, 0-dimensional and positive; trained. Only with `contrastive`."""
        raise NotImplementedError(f"{type(self).__name__}: has no contrastive embeddings")

    def match(self, images: TokenStates, texts: TokenStates) -> Tensor:
        """Return the logits of "does not match" and "matches" for pairs, (N, 2).

        Only for families with the objective `matching`.

        Args:
            images: The images of the pairs, (N, S, D_img).
            texts: The texts of the pairs, (N, T, D_txt).

        Raises:
            NotImplementedError: If the family has no such objective; see `embed`.
        """
        raise NotImplementedError(f"{type(self).__name__}: does not match images and texts")

    def masked_token_logits(self, images: TokenStates, texts: TokenStates, places: Tensor) -> Tensor:
        """Return the logits over the vocabulary at the masked tokens, given texts and their images, (M, V), float32.

        Only for families with the objective `masked_language`, whose models read token ids.

        Args:
            images: The images, (B, S, D_img).
            texts: The states of the masked texts, (B, T, D_txt).
            places: The places of the masked tokens among the B · T of the batch, (M,), int64.

        Raises:
            NotImplementedError: If the family has no such objective; see `embed`.
        """
        raise NotImplementedError(f"{type(self).__name__}: does not predict tokens")

    def text_token_logits(self, texts: TokenStates, places: Tensor) -> Tensor:
        """Return the logits over the vocabulary at the masked tokens, given texts alone, (M, V), float32.

        Only for families with `Architecture.pretrains_on_texts`, as is `text_weights`.

        Args:
            texts: The states of the masked texts, (B, T, D_txt).
            places: The places of the masked tokens among the B · T of the batch, (M,), int64.

        Raises:
            NotImplementedError: If the family does not learn from texts alone; see `embed`.
        """
        raise NotImplementedError(f"{type(self).__name__}: does not learn from texts alone")

    def text_weights(self) -> list[nn.Parameter]:
        """Return the weights that are trained on texts alone, while all others are frozen.

        Raises:
            NotImplementedError: If the family does not learn from texts alone; see `embed`.
        """
        raise NotImplementedError(f"{type(self).__name__}: does not learn from texts alone")


@runtime_checkable
class Pretrainable(Protocol):
    """A fusion model that can be pretrained."""

    def pretraining_model(self) -> PretrainingModel:
        """Return this model, whose weights are shared, with new heads for its objectives.

        The initial values of the heads come from torch's generator, as those of the model do.
        """
        ...
