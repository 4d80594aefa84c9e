"""What every fusion family offers, so that one code trains, predicts the memory of, searches and exports all of them.

A family is one file: an `Architecture` with its genes, and a `FusionModel` that computes logits from what the encoders
say of a batch, or from the batch itself where their weights are trained.

Shapes: B samples, S image tokens, T text tokens, D_img and D_txt widths, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas.models.encoders.base import Encoder
from nas.models.fusion.data_attention import DataAttention
from nas.search.space import RAW, Architecture, EncoderSizes, EntryLayers

PROMPT_STANDARD_DEVIATION = 0.02


@dataclass(frozen=True)
class Features:
    """What a model reads of a batch: constants of the data set.

    Args:
        image_tokens: What enters a layer of the image encoder, (B, S, D_img), of any floating-point type; pixel values
            (B, 3, height, width) where the family reads those; (B, 0) where it reads no images.
        text_tokens: What enters a layer of the text encoder, (B, T, D_txt); token ids (B, T) where the family reads
            those; (B, 0) where it reads no texts.
        text_mask: (B, T), true where there is a token, padding behind; None where nothing is padded.
        image_attention: What image tokens attend to in themselves in that layer, where that is stored.
        text_attention: What text tokens attend to in themselves, where that is stored.
    """

    image_tokens: Tensor
    text_tokens: Tensor
    text_mask: Tensor | None
    image_attention: DataAttention | None = None
    text_attention: DataAttention | None = None

    def to(self, dtype: torch.dtype) -> "Features":
        """With tokens of that type; ids stay what they are."""
        image, text = (
            tokens.to(dtype) if tokens.is_floating_point() else tokens
            for tokens in (self.image_tokens, self.text_tokens)
        )
        return replace(self, image_tokens=image, text_tokens=text)


def sizes_of(image_encoder: Encoder, text_encoder: Encoder) -> EncoderSizes:
    """Layers and widths of two encoders."""
    return EncoderSizes(
        image_encoder.num_layers, text_encoder.num_layers, image_encoder.hidden_size, text_encoder.hidden_size
    )


class FusionModel(nn.Module, ABC):
    """What is trained of one architecture, beside two encoders.

    Encoders that stay frozen are not part of `state_dict`: what is trained is what is saved. Trained prompts have
    `prompts` in their names, classifiers `classifier`, and trained encoders are called `image_encoder` and
    `text_encoder`: each kind has its learning rate.

    Args:
        image_encoder: Image encoder, frozen.
        text_encoder: Text encoder, frozen.
        architecture: Of the model's `architecture_class`.
        num_classes: C.

    Raises:
        ValueError: If the architecture does not fit the encoders.
    """

    architecture_class: ClassVar[type[Architecture]]
    """The architectures of the family."""

    def __init__(
        self, *, image_encoder: Encoder, text_encoder: Encoder, architecture: Architecture, num_classes: int
    ) -> None:
        super().__init__()
        if not isinstance(architecture, self.architecture_class):
            raise ValueError(f"a {self.architecture_class.family} model cannot have the architecture {architecture!r}")
        # A tuple keeps frozen encoders out of parameters() and state_dict().
        self._encoders = (image_encoder, text_encoder)
        self.architecture = architecture
        self.num_classes = num_classes
        self.sizes = sizes_of(image_encoder, text_encoder)
        num_layers, gene = self.architecture_class.num_layers(self.sizes), self.architecture_class.layer_gene()
        if gene is not None and not 0 <= architecture.first_layer < num_layers:
            raise ValueError(
                f"{gene.name} must be 0 to {num_layers - 1} for these encoders, got {architecture.first_layer}"
            )
        count = num_layers - architecture.first_layer
        if architecture.layer_count not in (None, count):
            raise ValueError(f"{architecture} has {architecture.layer_count} layers, these encoders {count}")
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Make what is trained, from `encoders`, `architecture` and `num_classes`."""

    @property
    def encoders(self) -> tuple[Encoder, Encoder]:
        """The frozen image and text encoder."""
        return self._encoders

    def entry_layers(self, architecture: Architecture | None = None) -> EntryLayers:
        """Where a slice starts to compute; the model's own architecture by default."""
        return (architecture or self.architecture).entry_layers(self.sizes)

    @abstractmethod
    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        """Logits, (B, C).

        Args:
            features: As the architecture reads them.
            architecture: A smaller one whose prefix slices are used; this model's own by default.
        """

    def population_logits(self, features: Features, architectures: Sequence[Architecture]) -> list[Tensor]:
        """Logits of several architectures that read the same, without a graph, (B, C) of each.

        The logits of an architecture are the same to the last bit whichever others are beside it.

        Args:
            features: As they read them.
            architectures: Smaller ones or this model's own.
        """
        with torch.no_grad():
            return [self(features, architecture) for architecture in architectures]

    def used_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        """Those that get a gradient when a slice is trained; optimisers leave others as they are.

        A prompt of length zero is used: its gradient is zero.
        """
        del architecture
        return list(self.parameters())

    @classmethod
    def parameter_count(cls, encoders: tuple[Encoder, Encoder], architecture: Architecture, num_classes: int) -> int:
        """Trainable scalars; a model is built for that, so ask on a device without memory."""
        image, text = encoders
        model = cls(image_encoder=image, text_encoder=text, architecture=architecture, num_classes=num_classes)
        return sum(parameter.numel() for parameter in model.parameters())

    def source_of(self, name: str, architecture: Architecture) -> str:
        """Name of the parameter here whose prefix is a stand-alone slice's parameter of that name."""
        del architecture
        return name


@torch.no_grad()
def features_of(
    encoders: tuple[Encoder, Encoder],
    reads: EntryLayers,
    pixel_values: Tensor,
    input_ids: Tensor,
    text_mask: Tensor | None,
) -> Features:
    """What a model reads, from raw inputs.

    Args:
        encoders: Image and text encoder; one that is not read may be anything.
        reads: Where the model starts to compute.
        pixel_values: (B, 3, height, width).
        input_ids: (B, T).
        text_mask: (B, T), true where there is a token; None where no text is padded.
    """
    tokens = []
    for encoder, layer, raw, mask in zip(encoders, reads, (pixel_values, input_ids), (None, text_mask), strict=True):
        if layer is None:
            tokens.append(raw.new_empty(len(raw), 0))
        elif layer == RAW:
            tokens.append(raw)
        else:
            rows = encoder.embed(raw)
            bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
            tokens.append(encoder.run(rows, bias, start=0, stop=layer))
    return Features(tokens[0], tokens[1], text_mask)
