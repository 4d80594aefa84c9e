"""The interface of every fusion family: training, memory prediction, search and export use nothing else.

A family is one folder: an `Architecture` with its genes, and a `FusionModel` that computes logits from hidden states of
the encoders, or from raw inputs where it trains their weights.

Shapes: B samples, S image tokens, T text tokens, D_img and D_txt hidden sizes, C classes.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas.models.class_texts import ClassTexts
from nas.models.encoders.base import Encoder, mean_over_tokens
from nas.models.encoders.frozen_ops import is_autocast
from nas.models.fusion.data_attention import DataAttention
from nas.models.fusion.readouts import Readout
from nas.models.fusion.token_places import TokenPlaces
from nas.search.space import RAW, Architecture, EncoderSizes, EntryLayers

PROMPT_STANDARD_DEVIATION = 0.02


@dataclass(frozen=True)
class Features:
    """The inputs of a model for a batch: constants of the data set.

    Args:
        image_tokens: The input of a layer of the image encoder, (B, S, D_img), of any floating-point dtype; pixel
            values (B, 3, height, width) for a family that reads raw images; (B, 0) for one that reads none.
        text_tokens: The input of a layer of the text encoder, (B, T, D_txt); token ids (B, T) for a family that reads
            raw texts; (B, 0) for one that reads none.
        text_mask: (B, T), true where there is a token, padding at the end; None where nothing is padded.
        image_attention: The attention of the image tokens over each other in that layer, if it is stored.
        text_attention: The attention of the text tokens over each other in that layer, if it is stored.
        text_places: The places of the text tokens that are not padding, if they are known.
        whole_layers: Whether the model must run the layers of transformers themselves, on whole sequences. It is slower
            and holds in every case: traced, with layers that are trained or were changed. The parts of layers that a
            model computes otherwise are exact for unchanged frozen encoders.
    """

    image_tokens: Tensor
    text_tokens: Tensor
    text_mask: Tensor | None
    image_attention: DataAttention | None = None
    text_attention: DataAttention | None = None
    text_places: TokenPlaces | None = None
    whole_layers: bool = False

    def to_dtype_of(self, layer: nn.Linear) -> "Features":
        """Cast floating-point tokens to the dtype of a layer's weight.

        Where whole layers run, tokens keep their dtype: the layer may be any replacement, even without a weight.
        """
        return self if self.whole_layers else self.to(layer.weight.dtype)

    def to(self, dtype: torch.dtype) -> "Features":
        """Cast floating-point tokens to a dtype; token ids keep theirs."""
        image, text = (
            tokens.to(dtype) if tokens.is_floating_point() else tokens
            for tokens in (self.image_tokens, self.text_tokens)
        )
        return replace(self, image_tokens=image, text_tokens=text)


def sizes_of(image_encoder: Encoder, text_encoder: Encoder) -> EncoderSizes:
    """Return the numbers of layers and hidden sizes of two encoders."""
    return EncoderSizes(
        image_encoder.num_layers,
        text_encoder.num_layers,
        image_encoder.hidden_size,
        text_encoder.hidden_size,
        pool_by_mean=(image_encoder.pools_by_mean, text_encoder.pools_by_mean),
    )


def read_out(encoder: Encoder, rows: Tensor, mask: Tensor | None, readout: Readout) -> Tensor:
    """Return the input of a classifier, (B, D).

    Args:
        encoder: The encoder.
        rows: The outputs of its last layer for all tokens, (B, R, D).
        mask: (B, R), true where there is a token; None where nothing is padded.
        readout: What is read out.
    """
    if readout == "mean":
        return mean_over_tokens(encoder.finish(rows), mask)
    return encoder.pool(encoder.finish(encoder.readout_rows(rows, mask)))


def classify(classifier: nn.Module, inputs: Tensor) -> Tensor:
    """Return the logits of a linear classifier, (B, C), under autocast in the precision of its weights.

    Logits of 8 bits would not tell close classes apart, and sums over them would be wrong in the third digit.

    Args:
        classifier: The classifier, called as a module: it may have been replaced.
        inputs: Its inputs, (B, D).
    """
    if is_autocast(inputs):
        weight = getattr(classifier, "weight", None)
        with torch.autocast(inputs.device.type, enabled=False):
            return classify(classifier, inputs.to(weight.dtype if isinstance(weight, Tensor) else torch.float32))
    logits: Tensor = classifier(inputs)
    return logits


class FusionModel(nn.Module, ABC):
    """The trained part of a fusion model of one architecture.

    Its logits are the mean of those of its linear classifiers, which it calls with `classify`; a family that reads the
    texts of the classes has none.

    Frozen encoders are not part of `state_dict`: only trained tensors are saved. The names of trained prompts contain
    `prompts`, those of classifiers `classifier`, and trained encoders are called `image_encoder` and `text_encoder`:
    each kind has its own learning rate.

    Args:
        image_encoder: The frozen image encoder.
        text_encoder: The frozen text encoder.
        architecture: The architecture, of the model's `architecture_class`.
        num_classes: The number of classes C.
        class_texts: The texts of the classes, for a family that reads them; None suffices to count its parameters.

    Raises:
        ValueError: If the architecture does not fit the family or the encoders.
    """

    architecture_class: ClassVar[type[Architecture]]
    """The architecture class of the family."""

    def __init__(
        self,
        *,
        image_encoder: Encoder,
        text_encoder: Encoder,
        architecture: Architecture,
        num_classes: int,
        class_texts: ClassTexts | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(architecture, self.architecture_class):
            raise ValueError(
                f"{self.architecture_class.family} model: wrong architecture; expected a "
                f"{self.architecture_class.__name__}, got {architecture!r}"
            )
        # A tuple keeps frozen encoders out of parameters() and state_dict().
        self._encoders = (image_encoder, text_encoder)
        self.architecture = architecture
        self.num_classes = num_classes
        self.class_texts = class_texts if self.architecture_class.reads_class_texts else None
        self.sizes = sizes_of(image_encoder, text_encoder)
        smallest = {gene.name: gene.smallest for gene in architecture.genes}
        for name, largest in architecture.largest_values(self.sizes).items():
            value = getattr(architecture, name)
            if not smallest[name] <= value <= largest:
                raise ValueError(
                    f"{name}: out of range for these encoders; expected {smallest[name]} to {largest}, got {value}"
                )
        count = self.architecture_class.num_layers(self.sizes) - architecture.first_layer
        if architecture.layer_count not in (None, count):
            raise ValueError(
                f"{architecture}: wrong number of layers; expected {count} for these encoders, "
                f"got {architecture.layer_count}"
            )
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Create the trained modules from `encoders`, `architecture` and `num_classes`; called by the constructor."""

    @property
    def encoders(self) -> tuple[Encoder, Encoder]:
        """The frozen image and text encoder."""
        return self._encoders

    @property
    def device(self) -> torch.device:
        """The device of the trained parameters or, if there are none, of the frozen weights that were loaded."""
        weights = [*self.parameters(), *(weight for encoder in self.encoders for weight in encoder.parameters())]
        return next((weight.device for weight in weights if not weight.is_meta), weights[0].device)

    def entry_layers(self, architecture: Architecture | None = None) -> EntryLayers:
        """Return the layers whose inputs a slice reads; by default those of the model's own architecture."""
        return (architecture or self.architecture).entry_layers(self.sizes)

    @abstractmethod
    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        """Return the logits, (B, C).

        Args:
            features: The inputs at the entry layers of the architecture.
            architecture: A smaller architecture, computed with slices of the weights; by default the model's own.
        """

    def population_logits(self, features: Features, architectures: Sequence[Architecture]) -> list[Tensor]:
        """Return the logits (B, C) of each of several architectures with the same entry layers, without a graph.

        The logits of an architecture do not depend on the others, to the last bit.

        Args:
            features: The inputs at the entry layers.
            architectures: Smaller architectures or the model's own.
        """
        with torch.no_grad():
            return [self(features, architecture) for architecture in architectures]

    def used_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        """Return the parameters that get a gradient when a slice is trained; optimizers skip the others.

        Empty prompts are included.
        """
        del architecture
        return list(self.parameters())

    @classmethod
    def parameter_count(cls, encoders: tuple[Encoder, Encoder], architecture: Architecture, num_classes: int) -> int:
        """Return the number of trained scalars. Builds a model by default, so call it on the meta device."""
        image, text = encoders
        model = cls(image_encoder=image, text_encoder=text, architecture=architecture, num_classes=num_classes)
        return sum(parameter.numel() for parameter in model.parameters())

    def source_of(self, name: str, architecture: Architecture) -> str:
        """Return the name of the parameter of this model whose prefix is a parameter of a standalone slice.

        Args:
            name: The name of the parameter of the slice.
            architecture: The architecture of the slice.
        """
        del architecture
        return name


def features_of(
    encoders: tuple[Encoder, Encoder],
    reads: EntryLayers,
    pixel_values: Tensor,
    input_ids: Tensor,
    text_mask: Tensor | None,
    *,
    whole_layers: bool = False,
) -> Features:
    """Compute the inputs of one model from raw inputs; see `features_of_each`."""
    return features_of_each(encoders, [reads], pixel_values, input_ids, text_mask, whole_layers=whole_layers)[0]


def features_of_each(
    encoders: tuple[Encoder, Encoder],
    reads: Sequence[EntryLayers],
    pixel_values: Tensor,
    input_ids: Tensor,
    text_mask: Tensor | None,
    *,
    whole_layers: bool = False,
) -> list[Features]:
    """Compute the inputs of models from raw inputs, without a graph unless whole layers run.

    Every layer of the encoders is computed once, however many models read its output.

    Args:
        encoders: The image and the text encoder; one that is not read is ignored.
        reads: The layers whose inputs each model reads.
        pixel_values: Images, (B, 3, height, width).
        input_ids: Token ids, (B, T).
        text_mask: (B, T), true where there is a token; None where no text is padded.
        whole_layers: See `Features`.
    """
    inputs = []
    with contextlib.nullcontext() if whole_layers else torch.no_grad():
        for encoder, layers, raw, mask in zip(
            encoders, zip(*reads, strict=True), (pixel_values, input_ids), (None, text_mask), strict=True
        ):
            inputs.append(_layer_inputs(encoder, layers, raw, mask, whole=whole_layers))
    image, text = inputs
    return [Features(image[entry.image], text[entry.text], text_mask, whole_layers=whole_layers) for entry in reads]


def _layer_inputs(
    encoder: Encoder, layers: Sequence[int | None], raw: Tensor, mask: Tensor | None, *, whole: bool
) -> dict[int | None, Tensor]:
    """Return the inputs of some layers of an encoder, by the layer."""
    found: dict[int | None, Tensor] = {None: raw.new_empty(raw.shape[0], 0), RAW: raw}
    numbers = sorted({layer for layer in layers if layer not in (None, RAW)})
    if numbers:
        rows, start = encoder.embed(raw), 0
        bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
        for layer in numbers:
            rows = encoder.run(rows, bias, start=start, stop=layer, whole=whole)
            found[layer], start = rows, layer
    return found
