"""ALBEF (Li et al., "Align before Fuse: Vision and Language Representation Learning with Momentum Distillation").

NeurIPS 2021, arXiv 2107.07651, section 3.1: an image encoder; the lower half of the text encoder, which reads the text
alone; and its upper half, the multimodal encoder, in each layer of which the text attends to all outputs of the image
encoder, between self-attention and feed-forward. The classifier reads the multimodal CLS (section 5).

As in the paper, the cross-attention is new, with the initial weights of BERT (N(0, 0.02), biases 0), and both encoders
start from pretrained ones and are trained completely. What differs: the classifier is linear, not an MLP with a hidden
layer; dropout is off, as in all families here; both encoders may be of any family and size, and the keys and values are
linear maps from the image encoder's hidden size. In a pre-norm text encoder the cross-attention is pre-norm, too.

The image tokens, and in the last layer the readout token of the text, are all that is read of outputs of the last
layers, and all that is computed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from nas.models.encoders.checkpoints import trainable_copy
from nas.models.encoders.split_layers import halves_of, run_split
from nas.models.fusion.albef.architecture import ALBEFArchitecture
from nas.models.fusion.albef.pretraining import ALBEFPretraining
from nas.models.fusion.base import Features, FusionModel, classify
from nas.models.fusion.cross_attention import CrossAttentionBlock
from nas.search.space import Architecture

_BLOCKS = "cross_attention"


class ALBEF(FusionModel):
    """Both encoders with all their weights, cross-attention in the text's upper layers, and a linear classifier."""

    architecture_class = ALBEFArchitecture

    def build(self) -> None:
        image, text = self.encoders
        self.image_encoder, self.text_encoder = trainable_copy(image, is_pooled=False), trainable_copy(text)
        self.cross_attention = nn.ModuleList(
            CrossAttentionBlock(layer, image.hidden_size) for layer in text.layers[self.architecture.first_layer :]
        )
        self.classifier = nn.Linear(text.hidden_size, self.num_classes)
        halves_of(text, text.num_layers - 1)  # an error here rather than in the first step

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        first = (architecture or self.architecture).first_layer
        features = features.to_dtype_of(self.classifier)
        text, mask, whole = self.text_encoder, features.text_mask, features.whole_layers
        z, t = self.image_states(features), self.text_states(features, first)
        t = self.fused(z, t, mask, start=first, whole=whole, all_tokens=whole)
        return classify(self.classifier, text.pool(text.finish(text.readout_rows(t, mask) if whole else t)))

    def image_states(self, features: Features) -> Tensor:
        """Return the outputs of the image encoder, (B, S, D_img).

        Args:
            features: The inputs.
        """
        image, whole = self.image_encoder, features.whole_layers
        z = image.embed(features.image_tokens)
        bias = image.data_bias(None, z.shape[1], z.dtype)
        return image.finish(image.run(z, bias, start=0, stop=image.num_layers, whole=whole))

    def text_states(self, features: Features, stop: int) -> Tensor:
        """Return the outputs of the layers that read the text alone, (B, T, D_txt).

        Args:
            features: The inputs.
            stop: The first layer with cross-attention.
        """
        text, t = self.text_encoder, self.text_encoder.embed(features.text_tokens)
        bias = text.data_bias(features.text_mask, t.shape[1], t.dtype)
        return text.run(t, bias, start=0, stop=stop, whole=features.whole_layers)

    def fused(self, z: Tensor, t: Tensor, mask: Tensor | None, *, start: int, whole: bool, all_tokens: bool) -> Tensor:
        """Run the layers with cross-attention, and return the tokens that the head reads, (B, 1, D_txt), or all.

        Args:
            z: The outputs of the image encoder, (B, S, D_img).
            t: The outputs of the text's layers below, (B, T, D_txt).
            mask: (B, T), true where there is a token; None where nothing is padded.
            start: The first layer with cross-attention.
            whole: Whether to call the parts of the layers of transformers (`Features.whole_layers`), of all tokens.
            all_tokens: Whether to return all tokens, (B, T, D_txt); required with `whole`.
        """
        text, last = self.text_encoder, self.text_encoder.num_layers - 1
        bias = text.data_bias(mask, t.shape[1], t.dtype)
        for index in range(start, text.num_layers):
            # Exact: no output of the last layer depends on another one, and only these are read.
            is_last = index == last and not all_tokens
            wanted = (text.readout_rows(t, mask), text.readout_bias(bias, mask)) if is_last else None
            t = run_split(text, index, t, bias, self._after_attention(index, z), whole=whole, wanted=wanted)
        return t

    def pretraining_model(self) -> ALBEFPretraining:
        """Return this model, whose weights are shared, with new heads for its objectives."""
        return ALBEFPretraining(self)

    def _after_attention(self, index: int, z: Tensor) -> Callable[[Any, Tensor], Tensor]:
        """Return what follows the self-attention of a layer of the text: cross-attention to z, then feed-forward."""
        block = self.cross_attention[index - self.architecture.first_layer]
        return partial(_fuse, block, halves_of(self.text_encoder, index).feed_forward, z)

    def used_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        skipped = {f"{_BLOCKS}.{index}" for index in range(self._unused_blocks(architecture))}
        return [entry for name, entry in self.named_parameters() if ".".join(name.split(".")[:2]) not in skipped]

    def source_of(self, name: str, architecture: Architecture) -> str:
        module, _, rest = name.partition(".")
        if module != _BLOCKS:
            return name
        index, _, rest = rest.partition(".")
        return f"{_BLOCKS}.{int(index) + self._unused_blocks(architecture)}.{rest}"

    def _unused_blocks(self, architecture: Architecture) -> int:
        """Return the number of cross-attention blocks below the first one of a slice."""
        return architecture.first_layer - self.architecture.first_layer


def _fuse(block: nn.Module, feed_forward: Callable[[Any, Tensor], Tensor], z: Tensor, layer: Any, t: Tensor) -> Tensor:
    return feed_forward(layer, block(t, z))
