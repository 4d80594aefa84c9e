"""UNITER (Chen et al., "UNITER: UNiversal Image-TExt Representation Learning", ECCV 2020): one stream, no co-attention.

The features of a frozen detector's regions, projected and normalized, and the embeddings of the words are one sequence,
over which all layers of a transformer that starts from BERT run (section 3.1); the classifier reads CLS. Here the
outputs of the frozen image encoder replace the features of the regions. Their places need no projection of their own,
because the outputs of a ViT have encoded them. The bias of the new LayerNorm is what tells the modalities apart. A
linear layer on CLS classifies, without BERT's pooler. Dropout is off, as in all families here.

MMBT differs in that it fine-tunes the image encoder, whose tokens pass the LayerNorm of the text's embeddings; UNITER
reads stored outputs and trains the text transformer alone.

Genes: the first layer that reads the image; the paper has 0. All layers are in use in every architecture.
"""

from torch import Tensor, nn

from nas.models.encoders.checkpoints import trainable_copy
from nas.models.fusion.base import Features, FusionModel, classify
from nas.models.fusion.joint_attention import read_out_with
from nas.models.fusion.uniter.architecture import UNITERArchitecture
from nas.models.fusion.uniter.pretraining import UNITERPretraining
from nas.search.space import Architecture


class UNITER(FusionModel):
    """The text encoder with all its weights, a projection of the image tokens, and a linear classifier on CLS."""

    architecture_class = UNITERArchitecture

    def build(self) -> None:
        image, text = self.encoders
        self.text_encoder = trainable_copy(text)
        self.projection = nn.Linear(image.hidden_size, text.hidden_size)
        self.norm = nn.LayerNorm(text.hidden_size)
        self.classifier = nn.Linear(text.hidden_size, self.num_classes)

    def pretraining_model(self) -> UNITERPretraining:
        """Return this model with new heads for its objectives."""
        return UNITERPretraining(self)

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        start = (architecture or self.architecture).first_layer
        z, t, mask = self.embed_images(features), self.embed_texts(features, start), features.text_mask
        read = read_out_with(self.text_encoder, t, mask, [z], start=start, whole=features.whole_layers)
        return classify(self.classifier, read)

    def embed_images(self, features: Features) -> Tensor:
        """Return the projected and normalized image tokens, (B, S, D_txt)."""
        tokens = features.to_dtype_of(self.classifier).image_tokens
        rows: Tensor = self.norm(self.projection(self.encoders[0].finish(tokens)))
        return rows

    def embed_texts(self, features: Features, start: int) -> Tensor:
        """Return the text tokens, (B, T, D_txt), after the layers that read them alone.

        Args:
            features: The inputs.
            start: The first layer that reads the image.
        """
        encoder, rows = self.text_encoder, self.text_encoder.embed(features.text_tokens)
        bias = encoder.data_bias(features.text_mask, rows.shape[1], rows.dtype)
        return encoder.run(rows, bias, start=0, stop=start, whole=features.whole_layers)
