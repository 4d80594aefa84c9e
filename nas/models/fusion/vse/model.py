"""VSE++ (Faghri et al., "Improving Visual-Semantic Embeddings with Hard Negatives", BMVC 2018): one space for both.

A linear projection of each encoder's output, normalized to unit length, is an embedding; the similarity of image and
text is their dot product (section 2.1). A ViT and a BERT replace VGG19 or ResNet152 and a GRU. As a classifier, for
which the paper has no use, both embeddings and their product, element by element, are the inputs of a linear layer; the
sum over that product is the similarity. Embeddings are scaled by √E, so that these inputs do not shrink with the width.

Both encoders are fine-tuned, as in the better ones of the paper's models (section 3.3), and as in the other families
that fuse after the last layer; with frozen encoders this would be a bilinear model, which `bilinear` is. Dropout is
off, as in all families here.

For retrieval (`data.task`), which the paper is about, there is no classifier, and the embeddings are compared as they
are. The loss is then the contrastive one of `nas.training.contrastive` with a trained temperature, not the paper's
hinge loss with the hardest negative of a batch.

Genes: the width of the joint space.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from nas.models.encoders.checkpoints import trainable_copy
from nas.models.fusion.base import Features, FusionModel, classify
from nas.models.fusion.joint_attention import encoded
from nas.models.fusion.pretraining_heads import INITIAL_TEMPERATURE
from nas.models.fusion.vse.architecture import VSEArchitecture
from nas.models.fusion.vse.pretraining import VSEPretraining
from nas.search.space import Architecture


class VSE(FusionModel):
    """Both encoders with all their weights, a projection of each, and a linear classifier."""

    architecture_class = VSEArchitecture
    architecture: VSEArchitecture

    def build(self) -> None:
        image, text = self.encoders
        width = self.architecture.joint_width
        self.image_encoder, self.text_encoder = trainable_copy(image), trainable_copy(text)
        self.image_projection = nn.Linear(image.hidden_size, width)
        self.text_projection = nn.Linear(text.hidden_size, width)
        if self.num_classes:
            self.classifier = nn.Linear(3 * width, self.num_classes)
        else:
            self.log_temperature = nn.Parameter(torch.full((), math.log(INITIAL_TEMPERATURE)))

    @property
    def temperature(self) -> Tensor:
        """The divisor of dot products in the contrastive loss of a model for retrieval, 0-dimensional."""
        return self.log_temperature.exp()

    def contrastive_embeddings(
        self, features: Features, architecture: Architecture | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the embeddings of images and texts; see `PairEmbedder`."""
        width = cast(VSEArchitecture, architecture or self.architecture).joint_width
        return self.embeddings(self.read_images(features), self.read_texts(features), width)

    def pretraining_model(self) -> VSEPretraining:
        """Return this model with new heads for its objectives."""
        return VSEPretraining(self)

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        width = cast(VSEArchitecture, architecture or self.architecture).joint_width
        image, text = (rows * width**0.5 for rows in self.contrastive_embeddings(features, architecture))
        # The three inputs of a dimension are neighbors, so that those of a narrower space come first.
        inputs = torch.stack([image, text, image * text], dim=2).flatten(1)  # (B, 3 E)
        return classify(self.classifier, pad(inputs, (0, 3 * (self.architecture.joint_width - width))))

    def read_images(self, features: Features) -> Tensor:
        """Return the readouts of the images, (B, D_img)."""
        pixels = features.to_dtype_of(self.image_projection).image_tokens
        return encoded(self.image_encoder, pixels, None, whole=features.whole_layers)

    def read_texts(self, features: Features) -> Tensor:
        """Return the readouts of the texts, (B, D_txt)."""
        return encoded(self.text_encoder, features.text_tokens, features.text_mask, whole=features.whole_layers)

    def embeddings(self, image: Tensor, text: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Return the embeddings of images and of texts, (B, E) each, of unit length.

        Args:
            image: The readouts of the images, (B, D_img).
            text: The readouts of the texts, (B, D_txt).
            width: The number of dimensions E of the space, the first ones of the model's.
        """
        # Under autocast projections are of half precision, and their lengths and products are not.
        return (
            normalize(self.image_projection(image)[:, :width].to(image.dtype), dim=1),
            normalize(self.text_projection(text)[:, :width].to(text.dtype), dim=1),
        )
