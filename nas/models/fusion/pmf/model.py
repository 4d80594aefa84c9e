"""PMF, prompt-based multimodal fusion: Li, Quan, Zhu, Yang, "Efficient Multimodal Fusion via Interactive Prompting",
CVPR 2023 (arXiv 2304.06306), section 3.

Two frozen encoders run alone up to the fusion layer `L_f`. In each of the last n = min(L_img, L_txt) − L_f layers the
modalities tell each other something. For the direction image → text, with image tokens z and text tokens t:

    query stage    [z ; QCP ; QP] → frozen image layer → keep the rows of QP → f → y
    fusion stage   [t ; FCP ; y]  → frozen text layer  → keep the rows of t

and the mirror image for text → image; both directions read z and t from before this layer's fusion stage. QP, QCP and
FCP are learned prompts, f = Linear(d_from → h), ReLU, Linear(h → d_to). Prompts carry no position and stand at the end:
every data row sees every prompt row, every prompt row sees all unpadded data rows and all prompt rows.

Shapes: B samples, S image tokens, T text tokens, D_img and D_txt widths, M_qp, M_qcp, M_fcp prompt lengths, h mapping
width, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.models.encoders.base import Encoder
from nas.models.fusion.base import PROMPT_STANDARD_DEVIATION, Features, FusionModel, sizes_of
from nas.models.fusion.pmf.architecture import DirectionSizes, PMFArchitecture
from nas.models.fusion.pmf.layer import DataTokens, DirectionWeights, Modality, ModalityFusionLayer, read_data
from nas.search.space import Architecture


@dataclass(frozen=True)
class FusionLayerWeights:
    """Both directions of one fusing layer."""

    image_to_text: DirectionWeights
    text_to_image: DirectionWeights


class Direction(nn.Module):
    """The trained tensors of one direction of one fusing layer.

    Args:
        width_from: Hidden width of the modality that tells.
        width_to: Hidden width of the modality that is told.
        sizes: Prompt lengths and mapping width.
    """

    def __init__(self, *, width_from: int, width_to: int, sizes: DirectionSizes) -> None:
        super().__init__()
        self.query_prompts = nn.Parameter(torch.empty(sizes.query_prompts, width_from))
        self.query_context_prompts = nn.Parameter(torch.empty(sizes.query_context_prompts, width_from))
        self.fusion_context_prompts = nn.Parameter(torch.empty(sizes.fusion_context_prompts, width_to))
        self.inner = nn.Linear(width_from, sizes.mapping_width)
        self.outer = nn.Linear(sizes.mapping_width, width_to)
        for prompts in (self.query_prompts, self.query_context_prompts, self.fusion_context_prompts):
            if prompts.numel():
                nn.init.normal_(prompts, std=PROMPT_STANDARD_DEVIATION)

    def weights(self, sizes: DirectionSizes) -> DirectionWeights:
        """The first M rows of every prompt and the first h units of the mapping, as views that pass gradients on."""
        width = sizes.mapping_width
        return DirectionWeights(
            query_prompts=self.query_prompts[: sizes.query_prompts],
            query_context_prompts=self.query_context_prompts[: sizes.query_context_prompts],
            fusion_context_prompts=self.fusion_context_prompts[: sizes.fusion_context_prompts],
            inner_weight=self.inner.weight[:width],
            inner_bias=self.inner.bias[:width],
            outer_weight=self.outer.weight[:, :width],
            outer_bias=self.outer.bias,
        )


class FusionLayer(nn.Module):
    """The trained tensors of one fusing layer.

    Args:
        image_hidden_size: D_img.
        text_hidden_size: D_txt.
        sizes: Image → text and text → image.
    """

    def __init__(
        self, *, image_hidden_size: int, text_hidden_size: int, sizes: tuple[DirectionSizes, DirectionSizes]
    ) -> None:
        super().__init__()
        self.image_to_text = Direction(width_from=image_hidden_size, width_to=text_hidden_size, sizes=sizes[0])
        self.text_to_image = Direction(width_from=text_hidden_size, width_to=image_hidden_size, sizes=sizes[1])

    def weights(self, sizes: tuple[DirectionSizes, DirectionSizes]) -> FusionLayerWeights:
        return FusionLayerWeights(self.image_to_text.weights(sizes[0]), self.text_to_image.weights(sizes[1]))


def read_first_layer(
    image_encoder: Encoder,
    text_encoder: Encoder,
    weights: FusionLayerWeights,
    features: Features,
    fusing: int,
) -> tuple[DataTokens, DataTokens]:
    """What the first fusing layer reads of z and t: the same for all architectures that start to fuse there.

    Args:
        image_encoder: Frozen.
        text_encoder: Frozen.
        weights: Of that layer; the query prompts of every architecture are a prefix of theirs.
        features: z and t.
        fusing: n, the number of fusing layers.
    """
    image = Modality.of(image_encoder, features.image_tokens, None)
    text = Modality.of(text_encoder, features.text_tokens, features.text_mask)
    return (
        read_data(
            image,
            image_encoder.num_layers - fusing,
            image.layout.pack(features.image_tokens),
            weights.image_to_text.query_prompts,
            is_first=True,
            known=features.image_attention,
        ),
        read_data(
            text,
            text_encoder.num_layers - fusing,
            text.layout.pack(features.text_tokens),
            weights.text_to_image.query_prompts,
            is_first=True,
            known=features.text_attention,
        ),
    )


def fuse(
    layers: Sequence[FusionLayerWeights], read_first: Callable[[], tuple[DataTokens, DataTokens]]
) -> tuple[Tensor, Tensor]:
    """The last n = len(layers) layers of both encoders, fused.

    Args:
        layers: Learned weights, first fusing layer first.
        read_first: Gives z and t as the first fusing layer reads them; asked for them here, so that nobody else holds
            them in memory until the end.

    Returns:
        What the classifiers read, (B, D_img) and (B, D_txt).
    """
    image_rows, text_rows = read_first()
    image_of, text_of, fusing = image_rows.modality, text_rows.modality, len(layers)
    image = ModalityFusionLayer(image_rows, tells=layers[0].image_to_text, is_told=layers[0].text_to_image)
    text = ModalityFusionLayer(text_rows, tells=layers[0].text_to_image, is_told=layers[0].image_to_text)
    del image_rows, text_rows
    for index in range(fusing):
        told_text, told_image = image.query_stage(), text.query_stage()  # (B, M_qp, D_txt), (B, M_qp, D_img)
        following = layers[index + 1] if index + 1 < fusing else None
        z = image.fusion_stage(told_image)
        # One modality at a time moves to the next layer: backward, which goes in the opposite order, then has given
        # back all that the text held in a layer before it comes to the image: never are both at their largest.
        if following is not None:
            image = _read_side(image_of, fusing - index - 1, z, following.image_to_text, following.text_to_image)
        t = text.fusion_stage(told_text)
        if following is not None:
            text = _read_side(text_of, fusing - index - 1, t, following.text_to_image, following.image_to_text)
    return image_of.encoder.pool(image_of.encoder.finish(z)), text_of.encoder.pool(text_of.encoder.finish(t))


def _read_side(
    modality: Modality, layers_left: int, rows: Tensor, tells: DirectionWeights, is_told: DirectionWeights
) -> ModalityFusionLayer:
    """One modality in a fusing layer behind the first, with so many layers left, itself included."""
    index = modality.encoder.num_layers - layers_left
    return ModalityFusionLayer(
        read_data(modality, index, rows, tells.query_prompts, is_first=False), tells=tells, is_told=is_told
    )


class PMF(FusionModel):
    """Trained part of a PMF model of one architecture, beside two frozen encoders.

    Args:
        image_encoder: Frozen image encoder.
        text_encoder: Frozen text encoder.
        architecture: Its sizes; `fusion_layer` counts layers of the shallower encoder.
        num_classes: C.

    Raises:
        ValueError: If the architecture leaves no layer to fuse, or asks for prompt lengths that PMF does not have.
    """

    architecture_class = PMFArchitecture
    architecture: PMFArchitecture

    def build(self) -> None:
        image, text = self.encoders
        fusing = self.architecture.prompted_layers(self.sizes)
        sizes = [self.architecture.at(index) for index in range(fusing)]
        if any(side.query_prompts < 1 or side.mapping_width < 1 for layer in sizes for side in layer):
            raise ValueError(f"query_prompts and mapping_width must be at least 1, got {self.architecture}")
        self.fusion_layers = nn.ModuleList(
            FusionLayer(image_hidden_size=image.hidden_size, text_hidden_size=text.hidden_size, sizes=layer)
            for layer in sizes
        )
        self.image_classifier = nn.Linear(image.hidden_size, self.num_classes)
        self.text_classifier = nn.Linear(text.hidden_size, self.num_classes)

    def forward(
        self,
        features: Features,
        architecture: Architecture | None = None,
    ) -> Tensor:
        """Logits from base features: the mean of the two classifiers', (B, C)."""
        layers = self._layers(architecture or self.architecture)
        features = features.to(self.image_classifier.weight.dtype)
        return self._classify(
            *fuse(layers, lambda: read_first_layer(*self._encoders, layers[0], features, len(layers)))
        )

    def population_logits(self, features: Features, architectures: Sequence[Architecture]) -> list[Tensor]:
        """Logits of several architectures that start to fuse at one layer, (B, C) of each.

        What the first fusing layer reads of the data is computed once for all.
        """
        with torch.no_grad():
            features = features.to(self.image_classifier.weight.dtype)
            fusing = len(self._layers(architectures[0]))
            place = len(self.fusion_layers) - fusing
            first: FusionLayer = self.fusion_layers[place]  # type: ignore[assignment]
            whole = first.weights(self.architecture.at(place))
            shared = read_first_layer(*self._encoders, whole, features, fusing)
            return [self._classify(*fuse(self._layers(architecture), lambda: shared)) for architecture in architectures]

    @classmethod
    def parameter_count(cls, encoders: tuple[Encoder, Encoder], architecture: Architecture, num_classes: int) -> int:
        """By closed form."""
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
        """All but those of fusing layers below the slice's first."""
        modules = [*self._fusing(architecture), self.image_classifier, self.text_classifier]
        return [parameter for module in modules for parameter in module.parameters()]

    def source_of(self, name: str, architecture: Architecture) -> str:
        module, _, rest = name.partition(".")
        if module != "fusion_layers":
            return name
        index, _, rest = rest.partition(".")
        return f"{module}.{int(index) + len(self.fusion_layers) - len(self._fusing(architecture))}.{rest}"

    def _fusing(self, architecture: Architecture) -> list[nn.Module]:
        """Layers of a slice: fusing layer i has the same weights in all that fuse there."""
        return list(self.fusion_layers)[architecture.first_layer - self.architecture.first_layer :]

    def _layers(self, architecture: Architecture) -> list[FusionLayerWeights]:
        """Slices of the fusing layers of an architecture."""
        assert isinstance(architecture, PMFArchitecture)
        layers = enumerate(self._fusing(architecture))
        return [layer.weights(architecture.at(index)) for index, layer in layers]  # type: ignore[operator]

    def _classify(self, image_readout: Tensor, text_readout: Tensor) -> Tensor:
        logits: Tensor = (self.image_classifier(image_readout) + self.text_classifier(text_readout)) / 2
        return logits


def trainable_parameter_count(
    *,
    image_hidden_size: int,
    text_hidden_size: int,
    fusing_layers: int,
    architecture: PMFArchitecture,
    num_classes: int,
) -> int:
    """Closed form of the number of trained scalars (pinned to the published counts in the tests)."""

    def direction(sizes: DirectionSizes, width_from: int, width_to: int) -> int:
        queries = (sizes.query_prompts + sizes.query_context_prompts) * width_from
        prompts = queries + sizes.fusion_context_prompts * width_to
        return prompts + sizes.mapping_width * (width_from + width_to + 1) + width_to

    layers = (architecture.at(index) for index in range(fusing_layers))
    fused = sum(
        direction(to_text, image_hidden_size, text_hidden_size)
        + direction(to_image, text_hidden_size, image_hidden_size)
        for to_text, to_image in layers
    )
    return fused + (image_hidden_size + text_hidden_size + 2) * num_classes
