"""ViLBERT (Lu et al., "ViLBERT: Pretraining Task-Agnostic Visiolinguistic Representations", NeurIPS 2019): two streams.

In a co-attention layer the queries of each modality attend to the keys and values of the other one, and a feed-forward
block follows (section 2.2); one stands before each of several consecutive layers of both encoders. The streams are
joined by the product of their outputs, projected to one width, element by element (section 3.2), which a linear layer
classifies. As in MBT the encoders are aligned at their ends. Dropout is off, as in all families here.

What differs: a ViT with all its layers replaces the features of a detector's regions and a visual stream that is
trained from scratch. Each stream's co-attention has its own width and number of heads, and 4 times the width in its
feed-forward block; keys and values come from the other stream through projections of their own, so any two widths go
together. Its weights are new, as in the paper, but there is no pretraining on three million pairs here in which they
could settle. So its norms come before attention and feed-forward block, in both streams, and what these add starts near
zero: the pretrained streams start as they were.

Genes: the layer before which the first co-attention layer stands, and the number of co-attention layers. In a supernet
the first, second, … co-attention layer have the same weights wherever they stand.
"""

from typing import cast

from torch import Tensor, nn

from nas.models.encoders.base import padding_bias
from nas.models.encoders.checkpoints import trainable_copy
from nas.models.fusion.base import Features, FusionModel, classify
from nas.models.fusion.joint_attention import read_out
from nas.models.fusion.vilbert.architecture import ViLBERTArchitecture
from nas.models.fusion.vilbert.coattention import CoAttention
from nas.models.fusion.vilbert.pretraining import ViLBERTPretraining
from nas.search.space import Architecture


class ViLBERT(FusionModel):
    """Both encoders with all their weights, co-attention layers, and a linear classifier on the product."""

    architecture_class = ViLBERTArchitecture

    def build(self) -> None:
        image, text = self.encoders
        widths = image.hidden_size, text.hidden_size
        self.image_encoder, self.text_encoder = trainable_copy(image), trainable_copy(text)
        layers = range(self._count(self.architecture))
        self.image_coattention = nn.ModuleList(CoAttention(image, widths[1]) for _ in layers)
        self.text_coattention = nn.ModuleList(CoAttention(text, widths[0]) for _ in layers)
        self.image_projection = nn.Linear(widths[0], max(widths))
        self.text_projection = nn.Linear(widths[1], max(widths))
        self.classifier = nn.Linear(max(widths), self.num_classes)

    def pretraining_model(self) -> ViLBERTPretraining:
        """Return this model with new heads for its objectives."""
        return ViLBERTPretraining(self)

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        architecture = architecture or self.architecture
        z, t = self.embed_images(features, architecture), self.embed_texts(features, architecture)
        mask, whole = features.text_mask, features.whole_layers
        z, t, left = self.exchange(z, t, mask, architecture, whole=whole)
        return classify(self.classifier, self.product(z, t, mask, left, whole=whole))

    def embed_images(self, features: Features, architecture: Architecture) -> Tensor:
        """Return the image tokens, (B, S, D_img), at the first co-attention layer."""
        encoder = self.image_encoder
        rows = encoder.embed(features.to_dtype_of(self.classifier).image_tokens)
        stop = encoder.num_layers - self._fusing(architecture)
        return encoder.run(rows, self._image_bias(rows), start=0, stop=stop, whole=features.whole_layers)

    def embed_texts(self, features: Features, architecture: Architecture) -> Tensor:
        """Return the text tokens, (B, T, D_txt), at the first co-attention layer."""
        encoder, rows = self.text_encoder, self.text_encoder.embed(features.text_tokens)
        bias = self._text_bias(rows, features.text_mask)
        stop = encoder.num_layers - self._fusing(architecture)
        return encoder.run(rows, bias, start=0, stop=stop, whole=features.whole_layers)

    def exchange(
        self, z: Tensor, t: Tensor, mask: Tensor | None, architecture: Architecture, *, whole: bool
    ) -> tuple[Tensor, Tensor, int]:
        """Run all co-attention layers and the layers between them.

        Args:
            z: The result of `embed_images`, (B, S, D_img).
            t: The result of `embed_texts`, (B, T, D_txt).
            mask: (B, T), true where there is a token; None where nothing is padded.
            architecture: The architecture.
            whole: Whether to run whole layers of transformers (`Features.whole_layers`).

        Returns:
            Both streams, and the number of layers of each encoder that are left.
        """
        image, text, left = self.image_encoder, self.text_encoder, self._fusing(architecture)
        z_bias, t_bias = self._image_bias(z), self._text_bias(t, mask)
        seen = None if mask is None else padding_bias(mask, t.dtype)
        pairs = list(zip(self.image_coattention, self.text_coattention, strict=True))[: self._count(architecture)]
        for index, (of_image, of_text) in enumerate(pairs):
            if index:
                start = image.num_layers - left, text.num_layers - left
                z = image.run(z, z_bias, start=start[0], stop=start[0] + 1, whole=whole)
                t = text.run(t, t_bias, start=start[1], stop=start[1] + 1, whole=whole)
                left -= 1
            z, t = of_image(z, t, seen), of_text(t, z, None)
        return z, t, left

    def product(self, z: Tensor, t: Tensor, mask: Tensor | None, left: int, *, whole: bool) -> Tensor:
        """Run the last layers, and return the product of both projected readouts, (B, max(D_img, D_txt)).

        Args:
            z: The image tokens, (B, S, D_img).
            t: The text tokens, (B, T, D_txt).
            mask: (B, T), true where there is a token; None where nothing is padded.
            left: The number of layers to run.
            whole: Whether to run whole layers of transformers (`Features.whole_layers`).
        """
        image, text, counts = self.image_encoder, self.text_encoder, (z.shape[1], t.shape[1])
        start = image.num_layers - left, text.num_layers - left
        image_read = read_out(image, z, None, self._image_bias(z), start=start[0], count=counts[0], whole=whole)
        text_read = read_out(text, t, mask, self._text_bias(t, mask), start=start[1], count=counts[1], whole=whole)
        joined: Tensor = self.image_projection(image_read) * self.text_projection(text_read)
        return joined

    def _image_bias(self, rows: Tensor) -> Tensor | None:
        return self.image_encoder.data_bias(None, rows.shape[1], rows.dtype)

    def _text_bias(self, rows: Tensor, mask: Tensor | None) -> Tensor | None:
        return self.text_encoder.data_bias(mask, rows.shape[1], rows.dtype)

    def _fusing(self, architecture: Architecture) -> int:
        """Return the number of layers of each encoder from the first co-attention layer on."""
        return self.sizes.shallower - architecture.first_layer

    def _count(self, architecture: Architecture) -> int:
        """Return the number of co-attention layers."""
        return cast(ViLBERTArchitecture, architecture).count(self.sizes)

    def used_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        count = self._count(architecture)
        unused = [*self.image_coattention[count:], *self.text_coattention[count:]]
        skipped = {id(parameter) for module in unused for parameter in module.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in skipped]
