"""Heads of the pretraining objectives, from which families build their `PretrainingModel`.

Shapes: B samples, N pairs, M masked tokens, D hidden size, E size of contrastive embeddings, V vocabulary size.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from nas.models.encoders.frozen_ops import is_autocast
from nas.models.fusion.base import classify

EMBEDDING_SIZE = 256
"""The size E of ALBEF's contrastive embeddings (section 3.2)."""
INITIAL_TEMPERATURE = 0.07
"""ALBEF's first temperature, as in MoCo (He et al., CVPR 2020)."""


class ContrastiveHead(nn.Module):
    """Linear maps of both modalities to embeddings of unit length, and the temperature of their similarities.

    ALBEF trains the temperature itself within bounds; here its logarithm is trained, so that it is always positive.

    Args:
        image_size: The size of an image's readout, D_img.
        text_size: The size of a text's readout, D_txt.
        size: The size of the embeddings E.
    """

    def __init__(self, image_size: int, text_size: int, size: int = EMBEDDING_SIZE) -> None:
        super().__init__()
        self.image = nn.Linear(image_size, size)
        self.text = nn.Linear(text_size, size)
        self.log_temperature = nn.Parameter(torch.full((), math.log(INITIAL_TEMPERATURE)))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings, (B, E) each: readouts (B, D_img) and (B, D_txt) → unit vectors, at least float32."""
        return normalize(classify(self.image, images), dim=1), normalize(classify(self.text, texts), dim=1)

    @property
    def temperature(self) -> Tensor:
        """The temperature, 0-dimensional."""
        return self.log_temperature.exp()


class MatchingHead(nn.Module):
    """A linear classifier of pairs: does not match, matches.

    Args:
        hidden_size: The size of the joint readout, D.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.pairs = nn.Linear(hidden_size, 2)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits, (N, D) → (N, 2), at least float32."""
        return classify(self.pairs, rows)


class MaskedLanguageHead(nn.Module):
    """BERT's head (Devlin et al., 2019): a layer, then the word embeddings as the weights of the decoder.

    Args:
        hidden_size: The size of a token's state, D.
        words: The word embeddings, (V, D_words), which the model owns; they are read, and trained where it trains them.
    """

    def __init__(self, hidden_size: int, words: nn.Embedding) -> None:
        super().__init__()
        self._words = (words,)  # a tuple keeps the embeddings out of the parameters of the head
        self.dense = nn.Linear(hidden_size, words.embedding_dim)
        self.norm = nn.LayerNorm(words.embedding_dim)
        self.bias = nn.Parameter(torch.zeros(words.num_embeddings))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits of masked tokens, (M, D) → (M, V), at least float32."""
        if is_autocast(rows):
            with torch.autocast(rows.device.type, enabled=False):
                return self.forward(rows.to(self.dense.weight.dtype))
        hidden = self.norm(nn.functional.gelu(self.dense(rows)))
        return linear(hidden, self._words[0].weight, self.bias)
