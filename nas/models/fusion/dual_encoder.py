"""Models that compare images with the texts of the classes, through the projections of a contrastive checkpoint.

The logit of a class is the cosine of the projected readouts of image and class text, times the checkpoint's scale
(Radford et al., ICML 2021). A sample's own text may count as well: its cosine with the class text is added to the
image's, with a weight that is learned where the family trains anything. Several labels use the same logits, whose
probabilities are all near 1 at the start: CLIP's loss, a softmax, leaves their level open.

Shapes: B samples, T tokens, C classes, P templates, D hidden size, E size of the common space.
"""

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from nas.models.class_texts import ClassTexts
from nas.models.encoders.base import Encoder
from nas.models.encoders.frozen_ops import is_autocast
from nas.models.fusion import joint_attention
from nas.models.fusion.base import Features, FusionModel, read_out
from nas.models.fusion.class_text_genes import SAMPLE_TEXT
from nas.search.space import Architecture

_TEXTS_AT_ONCE = 64
"""Bounds the memory of class texts whose embeddings are constants; more rows make no encoder faster."""
_MAX_KEPT = 64
"""The architectures whose class embeddings a supernet keeps."""


class CosineClassifier(nn.Module):
    """The logits of samples, given embeddings of samples and classes.

    Args:
        scale: The factor of the cosines.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """Return the logits, (B, C).

        Args:
            embeddings: What is read of the samples, (B, E): a vector of unit length, or the sum of two.
            classes: The embeddings of the class texts, (C, E), of unit length.
        """
        if is_autocast(embeddings):
            with torch.autocast(embeddings.device.type, enabled=False):
                return self.scale * (embeddings.float() @ classes.float().T)
        return self.scale * (embeddings @ classes.T)


def unit(rows: Tensor) -> Tensor:
    """Return vectors (…, E) with length 1, under autocast in float32."""
    return normalize(rows.float() if is_autocast(rows) else rows, dim=-1)


class DualEncoder(FusionModel):
    """A model whose classes are texts; subclasses compute the embeddings of these."""

    learns_weight: ClassVar[bool] = True
    """Whether the weight of a sample's own text is learned; otherwise it is 1, that of the image."""

    def build(self) -> None:
        image, text = self.encoders
        sizes = [None if encoder.projection is None else _projected_size(encoder) for encoder in self.encoders]
        if None in sizes or sizes[0] != sizes[1] or image.logit_scale is None or image.logit_scale != text.logit_scale:
            raise ValueError(
                f"{self.architecture_class.family} model: the encoders have no common space; expected both encoders of "
                f"one contrastive checkpoint, got {image.config.model_type} and {text.config.model_type} with "
                f"projections to {sizes[0]} and {sizes[1]}"
            )
        texts = self.class_texts
        if texts is not None:
            if texts.num_classes != self.num_classes:
                raise ValueError(f"class texts: expected those of {self.num_classes} classes, got {texts.num_classes}")
            needed = longest_class_text(texts, self.architecture)
            if needed > text.max_text_tokens:
                raise ValueError(f"class texts: expected at most {text.max_text_tokens} tokens, got {needed}")
        self.classifier = CosineClassifier(image.logit_scale)
        self._kept: dict[Architecture, tuple[Hashable, Tensor]] = {}
        if self.learns_weight and self._sample_text(self.architecture) != 0:
            self.text_weight = nn.Parameter(torch.ones(1))

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        architecture = architecture or self.architecture
        if not features.whole_layers:
            features = features.to(self.encoders[1].dtype)
        embeddings = self.image_embeddings(features, architecture)
        if self._sample_text(architecture) != 0:
            text = self.encoders[1]
            read = read_out(text, features.text_tokens, features.text_mask, "pooled")
            own = projected(text, read)
            embeddings = embeddings + (self.text_weight * own if self.learns_weight else own)
        logits: Tensor = self.classifier(embeddings, self._classes(features, architecture))
        return logits

    def _classes(self, features: Features, architecture: Architecture) -> Tensor:
        """Return the embeddings of the class texts, (C, E), which are kept for as long as they stay the same."""
        learned = self.class_parameters(architecture)
        if features.whole_layers or (torch.is_grad_enabled() and any(entry.requires_grad for entry in learned)):
            if self._kept:  # so that a program that is traced changes nothing of the model
                self._kept.clear()  # what is learned changes next
            return self.class_embeddings(features, architecture)
        state = self._state([*learned, *self.encoders[1].parameters()])
        if architecture not in self._kept or self._kept[architecture][0] != state:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            # Tensors of the inference mode could not be part of a later graph.
            with torch.inference_mode(False), torch.no_grad():
                self._kept[architecture] = state, self.class_embeddings(features, architecture)
        return self._kept[architecture][1]

    @staticmethod
    def _state(weights: Sequence[nn.Parameter]) -> Hashable:
        """Return what changes whenever results computed with these weights may."""
        versions = tuple((id(weight), None if weight.is_inference() else weight._version) for weight in weights)
        place = weights[0].device
        autocast = is_autocast(weights[0]) and torch.get_autocast_dtype(place.type)
        return versions, place, weights[0].dtype, autocast

    def image_embeddings(self, features: Features, architecture: Architecture) -> Tensor:
        """Return the embeddings of the images, (B, E), of unit length; by default of the outputs of the last layer.

        Args:
            features: The inputs at the entry layers of the architecture.
            architecture: The slice.
        """
        del architecture
        image = self.encoders[0]
        return projected(image, read_out(image, features.image_tokens, None, "pooled"))

    def class_parameters(self, architecture: Architecture) -> Sequence[nn.Parameter]:
        """Return the parameters that the embeddings of the class texts depend on; none by default."""
        del architecture
        return []

    @abstractmethod
    def class_embeddings(self, features: Features, architecture: Architecture) -> Tensor:
        """Return the embeddings of the class texts, (C, E), of unit length.

        Args:
            features: The inputs; they say whether whole layers run.
            architecture: The slice.
        """

    def frozen_class_embeddings(self, features: Features) -> Tensor:
        """Return the embeddings of the class texts without anything learned: the mean of those under all templates.

        Args:
            features: The inputs; they say whether whole layers run.
        """
        texts, text = self.placed_class_texts(), self.encoders[1]
        ids, mask = texts.ids.flatten(0, 1), texts.mask.flatten(0, 1)
        parts = [
            self.embed_texts(text.embed(some), seen, whole=features.whole_layers)
            for some, seen in zip(ids.split(_TEXTS_AT_ONCE), mask.split(_TEXTS_AT_ONCE), strict=True)
        ]
        return unit(torch.cat(parts).unflatten(0, texts.ids.shape[:2]).mean(dim=0))

    def placed_class_texts(self) -> ClassTexts:
        """Return the texts of the classes on the device of the text encoder.

        Raises:
            ValueError: If the model was built without them.
        """
        if self.class_texts is None:
            raise ValueError("class texts: missing; expected those of the classes, which the model was built without")
        return self.class_texts.to(self.encoders[1].model.get_input_embeddings().weight.device)

    def embed_texts(self, rows: Tensor, mask: Tensor, *, whole: bool) -> Tensor:
        """Run the text encoder, and return the embeddings of texts, (N, E), of unit length.

        Args:
            rows: The inputs of its first layer, (N, T, D).
            mask: (N, T), true where there is a token.
            whole: Whether to run whole layers of transformers (`Features.whole_layers`).
        """
        text, count = self.encoders[1], rows.shape[1]
        bias = text.data_bias(mask, count, rows.dtype)
        return projected(text, joint_attention.read_out(text, rows, mask, bias, start=0, count=count, whole=whole))

    def used_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        """Return the learned weight of a sample's own text, if the slice has it; subclasses add theirs."""
        return [self.text_weight] if self.learns_weight and self._sample_text(architecture) != 0 else []

    @staticmethod
    def _sample_text(architecture: Architecture) -> int:
        return int(getattr(architecture, SAMPLE_TEXT.name))


def longest_class_text(texts: ClassTexts, architecture: Architecture) -> int:
    """Return the number of tokens of the longest class text with the learned words of an architecture.

    Args:
        texts: The texts without learned words, which replace those of the first template.
        architecture: The architecture.
    """
    return texts.longest + max(architecture.context_length() - texts.prefixes[0], 0)


def projected(encoder: Encoder, readout: Tensor) -> Tensor:
    """Return the embeddings, (B, E), of unit length, of what an encoder pools, (B, D)."""
    projection = encoder.projection
    assert projection is not None  # checked when the model was built
    return unit(projection(readout))


def _projected_size(encoder: Encoder) -> int | None:
    size: int | None = getattr(encoder.projection, "out_features", None)
    return size
