"""PMF, prompt-based multimodal fusion.

Source: Li, Quan, Zhu, Yang, "Efficient Multimodal Fusion via Interactive Prompting", CVPR 2023 (arXiv 2304.06306),
section 3.

Two frozen encoders run separately up to the fusion layer `L_f`. In each of the last n = min(L_img, L_txt) − L_f layers
the modalities exchange messages. For the direction image → text, with image tokens z and text tokens t:

    query stage    [z ; QCP ; QP] → frozen image layer → outputs of QP → f → y
    fusion stage   [t ; FCP ; y]  → frozen text layer  → outputs of t

and the mirror image for text → image; both directions read z and t from before this layer's fusion stage. QP, QCP and
FCP are learned prompts, f = Linear(d_from → h), ReLU, Linear(h → d_to). Prompts carry no position and are appended:
every data token attends to all prompts, every prompt to all unpadded data tokens and all prompts.

`reference.py` computes the same in 40 lines, with whole layers. This module computes a fraction of that, exactly.

Shapes: B samples, S image tokens, T text tokens, D_img and D_txt hidden sizes; M_qp, M_qcp and M_fcp prompts; h mapping
width, C classes.
"""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from nas.models.encoders.base import Encoder
from nas.models.encoders.tracing import is_traced
from nas.models.fusion.base import PROMPT_STANDARD_DEVIATION, Features, FusionModel, classify, sizes_of
from nas.models.fusion.pmf.architecture import DirectionSizes, PMFArchitecture, trainable_parameter_count
from nas.models.fusion.pmf.fusing import FusionLayerWeights, SharedFirstLayer, fuse, read_first_layer
from nas.models.fusion.pmf.layer import DirectionWeights, MappingWeights, unmapped
from nas.models.fusion.pmf.reference import fuse_whole
from nas.models.fusion.readouts import Readout, readouts_of
from nas.search.space import MODALITIES, Architecture


class Direction(nn.Module):
    """The trained tensors of one direction of one fusing layer.

    Args:
        size_from: The hidden size of the sending modality.
        size_to: The hidden size of the receiving modality.
        sizes: The numbers of prompts and the mapping width.
    """

    def __init__(self, *, size_from: int, size_to: int, sizes: DirectionSizes) -> None:
        super().__init__()
        self.query_prompts = nn.Parameter(torch.empty(sizes.query_prompts, size_from))
        self.query_context_prompts = nn.Parameter(torch.empty(sizes.query_context_prompts, size_from))
        self.fusion_context_prompts = nn.Parameter(torch.empty(sizes.fusion_context_prompts, size_to))
        self.has_mapping = sizes.mapping_width > 0
        if self.has_mapping:
            self.inner = nn.Linear(size_from, sizes.mapping_width)
            self.outer = nn.Linear(sizes.mapping_width, size_to)
        for prompts in (self.query_prompts, self.query_context_prompts, self.fusion_context_prompts):
            if prompts.numel():
                nn.init.normal_(prompts, std=PROMPT_STANDARD_DEVIATION)

    def map(self, tokens: Tensor) -> Tensor:
        """Apply the mapping f, (B, M_qp, D_from) → (B, M_qp, D_to), as modules, which may have been replaced."""
        if not self.has_mapping:
            return unmapped(tokens, self.fusion_context_prompts.shape[1])
        mapped: Tensor = self.outer(relu(self.inner(tokens)))
        return mapped

    def weights(self, sizes: DirectionSizes) -> DirectionWeights:
        """Return the first M prompts of each kind and the first h units of the mapping, as differentiable views."""
        width = sizes.mapping_width
        return DirectionWeights(
            query_prompts=self.query_prompts[: sizes.query_prompts],
            query_context_prompts=self.query_context_prompts[: sizes.query_context_prompts],
            fusion_context_prompts=self.fusion_context_prompts[: sizes.fusion_context_prompts],
            mapping=MappingWeights(
                inner_weight=self.inner.weight[:width],
                inner_bias=self.inner.bias[:width],
                outer_weight=self.outer.weight[:, :width],
                outer_bias=self.outer.bias,
            )
            if width
            else None,
        )


class FusionLayer(nn.Module):
    """The trained tensors of one fusing layer.

    Args:
        image_hidden_size: The hidden size D_img.
        text_hidden_size: The hidden size D_txt.
        sizes: The sizes of the directions image → text and text → image.
    """

    def __init__(
        self, *, image_hidden_size: int, text_hidden_size: int, sizes: tuple[DirectionSizes, DirectionSizes]
    ) -> None:
        super().__init__()
        self.image_to_text = Direction(size_from=image_hidden_size, size_to=text_hidden_size, sizes=sizes[0])
        self.text_to_image = Direction(size_from=text_hidden_size, size_to=image_hidden_size, sizes=sizes[1])

    def weights(self, sizes: tuple[DirectionSizes, DirectionSizes]) -> FusionLayerWeights:
        """Return the slices of both directions, as differentiable views."""
        return FusionLayerWeights(self.image_to_text.weights(sizes[0]), self.text_to_image.weights(sizes[1]))

    def used_parameters(self, sizes: tuple[DirectionSizes, DirectionSizes]) -> list[nn.Parameter]:
        """Return the parameters that get gradients in a slice: all, unless it leaves a message or a mapping out."""
        directions = self.image_to_text, self.text_to_image
        found = []
        for index, (direction, own) in enumerate(zip(directions, sizes, strict=True)):
            other = sizes[1 - index]
            # A modality projects its query prompts together with the context prompts of the opposite direction.
            reads = own.query_prompts + own.query_context_prompts + other.fusion_context_prompts
            receives = own.fusion_context_prompts + other.query_prompts + other.query_context_prompts
            for name, parameter in direction.named_parameters():
                is_context = name == "fusion_context_prompts"
                count = own.mapping_width if "." in name else receives if is_context else reads
                found += [parameter] * (count > 0)
        return found


class PMF(FusionModel):
    """The trained part of a PMF model; the encoders are frozen.

    Args:
        image_encoder: The frozen image encoder.
        text_encoder: The frozen text encoder.
        architecture: The architecture; `fusion_layer` counts layers of the shallower encoder.
        num_classes: The number of classes C.

    Raises:
        ValueError: If no layer is left to fuse.
    """

    architecture_class = PMFArchitecture
    architecture: PMFArchitecture
    image_classifier: nn.Linear
    """The classifier of images; in a supernet that serves several readouts, that of the first."""
    text_classifier: nn.Linear
    """That of texts."""

    def build(self) -> None:
        image, text = self.encoders
        fusing = self.architecture.prompted_layers(self.sizes)
        sizes = [self.architecture.at(index) for index in range(fusing)]
        self.fusion_layers = nn.ModuleList(
            FusionLayer(image_hidden_size=image.hidden_size, text_hidden_size=text.hidden_size, sizes=layer)
            for layer in sizes
        )
        for encoder, names in zip((image, text), self._classifier_names, strict=True):
            for name in names.values():
                self.add_module(name, nn.Linear(encoder.hidden_size, self.num_classes))

    @cached_property
    def _classifier_names(self) -> tuple[dict[Readout, str], dict[Readout, str]]:
        """The names of the classifiers of images and texts by what they read: one each, except in a supernet."""
        values = self.architecture.image_readout, self.architecture.text_readout
        image, text = (
            {
                readout: f"{modality}_{readout}_classifier" if index else f"{modality}_classifier"
                for index, readout in enumerate(readouts_of(value))
            }
            for modality, value in zip(MODALITIES, values, strict=True)
        )
        return image, text

    def classifiers(self, architecture: Architecture) -> tuple[nn.Linear, nn.Linear]:
        """Return the classifiers of images and texts that a slice uses.

        Args:
            architecture: The architecture of the slice.
        """
        assert isinstance(architecture, PMFArchitecture)
        image, text = (
            cast(nn.Linear, self.get_submodule(names[readout]))
            for names, readout in zip(self._classifier_names, architecture.readouts, strict=True)
        )
        return image, text

    def forward(self, features: Features, architecture: Architecture | None = None) -> Tensor:
        """Return the logits for base features: the mean of both classifiers, (B, C)."""
        features, chosen = features.to_dtype_of(self.image_classifier), self._own(architecture or self.architecture)
        if features.whole_layers or is_traced() or self._trains_encoders(chosen):
            return self._classify(chosen, *self._fuse_whole(features, chosen))
        layers = self.layer_weights(chosen)
        read_first = partial(read_first_layer, self._encoders, layers[0], features, len(layers), chosen.readouts)
        return self._classify(chosen, *fuse(layers, read_first))

    @staticmethod
    def _own(architecture: Architecture) -> PMFArchitecture:
        assert isinstance(architecture, PMFArchitecture)
        return architecture

    def _trains_encoders(self, architecture: PMFArchitecture) -> bool:
        """Return whether gradients are recorded for any weight of the fusing layers, which are otherwise constants."""
        fusing = architecture.prompted_layers(self.sizes)
        return torch.is_grad_enabled() and any(
            parameter.requires_grad
            for encoder in self._encoders
            for layer in encoder.layers[-fusing:]
            for parameter in layer.module.parameters()
        )

    def _fuse_whole(self, features: Features, architecture: PMFArchitecture) -> tuple[Tensor, Tensor]:
        """Run whole layers of transformers, and call the mappings as modules where they are used as they are."""

        def run(encoder: Encoder, index: int, tokens: Tensor, bias: Tensor | None) -> Tensor:
            return encoder.run(tokens, bias, start=index, stop=index + 1, whole=True)

        layers = self._fusion_layers if architecture == self.architecture else self.layer_weights(architecture)
        tokens = features.image_tokens, features.text_tokens
        return fuse_whole(self._encoders, layers, tokens, features.text_mask, run, architecture.readouts)

    def population_logits(self, features: Features, architectures: Sequence[Architecture]) -> list[Tensor]:
        """Return the logits (B, C) of each of several architectures with the same fusion layer, without a graph.

        The data tokens are read in the first fusing layer once for all of them: the result depends on the query prompts
        alone, and those of each architecture are a prefix of the largest ones; if it is the last layer, on the readout.
        """
        with torch.no_grad():
            features = features.to_dtype_of(self.image_classifier)
            fusing = len(self.layer_weights(architectures[0]))
            place = len(self._fusion_layers) - fusing
            whole = self._fusion_layers[place].weights(self.architecture.at(place))
            first = SharedFirstLayer(self._encoders, whole, features, fusing)
            return [
                self._classify(entry, *fuse(self.layer_weights(entry), partial(first.read, entry.readouts)))
                for entry in map(self._own, architectures)
            ]

    @classmethod
    def parameter_count(cls, encoders: tuple[Encoder, Encoder], architecture: Architecture, num_classes: int) -> int:
        """Return the number of trained scalars by the closed form."""
        assert isinstance(architecture, PMFArchitecture)
        sizes = sizes_of(*encoders)
        return trainable_parameter_count(
            image_hidden_size=sizes.image_hidden_size,
            text_hidden_size=sizes.text_hidden_size,
            fusing_layers=architecture.prompted_layers(sizes),
            architecture=architecture,
            num_classes=num_classes,
        )

    def used_parameters(self, architecture: Architecture) -> list[nn.Parameter]:
        """Return all parameters except those of fusing layers below the first one of the slice, and left out ones."""
        chosen = self._own(architecture)
        fusing = [
            parameter
            for index, layer in enumerate(self._fusing(architecture))
            for parameter in layer.used_parameters(chosen.at(index))
        ]
        return [*fusing, *(entry for module in self.classifiers(architecture) for entry in module.parameters())]

    def source_of(self, name: str, architecture: Architecture) -> str:
        module, _, rest = name.partition(".")
        for own, names, readout in zip(
            ("image_classifier", "text_classifier"),
            self._classifier_names,
            self._own(architecture).readouts,
            strict=True,
        ):
            if module == own:
                return f"{names[readout]}.{rest}"
        if module != "fusion_layers":
            return name
        index, _, rest = rest.partition(".")
        return f"{module}.{int(index) + len(self.fusion_layers) - len(self._fusing(architecture))}.{rest}"

    def layer_weights(self, architecture: Architecture) -> list[FusionLayerWeights]:
        """Return the slices of the fusing layers that an architecture uses, first fusing layer first."""
        assert isinstance(architecture, PMFArchitecture)
        return [layer.weights(architecture.at(index)) for index, layer in enumerate(self._fusing(architecture))]

    @property
    def _fusion_layers(self) -> list[FusionLayer]:
        """The fusing layers, with their type, which `ModuleList` hides."""
        return cast(list[FusionLayer], list(self.fusion_layers))

    def _fusing(self, architecture: Architecture) -> list[FusionLayer]:
        """Return the fusing layers of a slice: a layer has the same weights in all architectures that fuse there."""
        return self._fusion_layers[architecture.first_layer - self.architecture.first_layer :]

    def _classify(self, architecture: PMFArchitecture, image_readout: Tensor, text_readout: Tensor) -> Tensor:
        image, text = self.classifiers(architecture)
        return (classify(image, image_readout) + classify(text, text_readout)) / 2
