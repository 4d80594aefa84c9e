"""ViLT (Kim et al., "ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision", ICML 2021).

The embeddings of words and patches, each with a learned embedding of its modality, are one sequence, over which a
single transformer runs that starts from a ViT (equations 1 to 5); what is read is the first token of the text, after
the LayerNorm that follows the last layer. A text has no layers of its own.

What differs: the embeddings of the words start from those of the text encoder, where the paper trains new ones on 4
million images, and a learned linear map converts them where the widths differ. A linear layer classifies the first
token, without the pooler of equation 6. Dropout is off, as in all families here.

Genes: the number of layers, a prefix of those of the image encoder.
"""

from typing import cast

import torch
from torch import Tensor, nn

from nas.models.encoders.checkpoints import trainable_copy, trainable_embedding
from nas.models.fusion.base import PROMPT_STANDARD_DEVIATION, Features, FusionModel, classify
from nas.models.fusion.vilt.architecture import ViLTArchitecture
from nas.models.fusion.vilt.pretraining import ViLTPretraining
from nas.search.space import Architecture


class ViLT(FusionModel):
    """The image encoder and the embeddings of the text encoder with their weights, and a linear classifier."""

    architecture_class = ViLTArchitecture
    architecture: ViLTArchitecture

    def build(self) -> None:
        image, text = self.encoders
        size, is_same = image.hidden_size, image.hidden_size == text.hidden_size
        self.image_encoder = trainable_copy(image, is_pooled=False, num_layers=self._depth(self.architecture))
        self.text_encoder = trainable_embedding(text)
        self.projection: nn.Module = nn.Identity() if is_same else nn.Linear(text.hidden_size, size)
        self.image_type = nn.Parameter(torch.randn(size) * PROMPT_STANDARD_DEVIATION)
        self.text_type = nn.Parameter(torch.randn(size) * PROMPT_STANDARD_DEVIATION)
        self.classifier = nn.Linear(size, self.num_classes)

    def pretraining_model(self) -> ViLTPretraining:
        """Return this model with new heads for its objectives."""
        return ViLTPretraining(self)

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        z, t = self.embed_images(features), self.embed_texts(features)
        depth, whole = self._depth(architecture or self.architecture), features.whole_layers
        return classify(self.classifier, self.outputs(t, features.text_mask, z, 1, depth=depth, whole=whole)[:, 0])

    def embed_images(self, features: Features) -> Tensor:
        """Return the embeddings of the patches, with that of their modality, (B, S, D_img)."""
        pixels = features.to_dtype_of(self.classifier).image_tokens
        rows: Tensor = self.image_encoder.embed(pixels) + self.image_type
        return rows

    def embed_texts(self, features: Features) -> Tensor:
        """Return the embeddings of the words, with that of their modality, (B, T, D_img)."""
        rows: Tensor = self.projection(self.text_encoder.embed(features.text_tokens)) + self.text_type
        return rows

    def outputs(
        self, texts: Tensor, mask: Tensor | None, images: Tensor, count: int, *, depth: int, whole: bool
    ) -> Tensor:
        """Run the transformer, and return the outputs of the first tokens of the texts, (B, count, D_img).

        Args:
            texts: The result of `embed_texts`, (B, T, D_img).
            mask: (B, T), true where there is a token; None where nothing is padded.
            images: The result of `embed_images`, (B, S, D_img).
            count: The number of tokens whose outputs are read.
            depth: The number of layers.
            whole: Whether to run whole layers of transformers (`Features.whole_layers`).
        """
        encoder, last, rows = self.image_encoder, depth - 1, torch.cat([texts, images], dim=1)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(images.shape[:2])], dim=1)
        bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
        rows = encoder.run(rows, bias, start=0, stop=last, whole=whole)
        if whole:
            return encoder.finish(encoder.run(rows, bias, start=last, stop=depth, whole=True)[:, :count])
        layer = encoder.layers[last]  # whose other outputs nothing reads
        return encoder.finish(layer.attend(rows[:, :count], layer.keys_values(rows), bias))

    @staticmethod
    def _depth(architecture: Architecture) -> int:
        return cast(ViLTArchitecture, architecture).depth

    def used_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        unused = self.image_encoder.layers[self._depth(architecture) :]
        skipped = {id(parameter) for layer in unused for parameter in layer.module.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in skipped]
