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
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nas.encoders import Encoder
from nas.fusion.attention import DataAttention
from nas.fusion.stages import DataRows, DirectionWeights, Modality, Side, read_data
from nas.space import Architecture, Sizes

PROMPT_STANDARD_DEVIATION = 0.02


@dataclass(frozen=True)
class Features:
    """What the frozen layers below the first fusing layer say of a batch: constants of the data set.

    Args:
        image_tokens: z, (B, S, D_img), of any floating-point type.
        text_tokens: t, (B, T, D_txt).
        text_mask: (B, T), true where there is a token, padding behind; None where nothing is padded.
        image_attention: What z attends to in itself at the first fusing layer, where that is stored.
        text_attention: What t attends to in itself, where that is stored.
    """

    image_tokens: Tensor
    text_tokens: Tensor
    text_mask: Tensor | None
    image_attention: DataAttention | None = None
    text_attention: DataAttention | None = None

    def to(self, dtype: torch.dtype) -> "Features":
        """With tokens of that type."""
        return replace(self, image_tokens=self.image_tokens.to(dtype), text_tokens=self.text_tokens.to(dtype))


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

    def __init__(self, *, width_from: int, width_to: int, sizes: Sizes) -> None:
        super().__init__()
        self.query_prompts = nn.Parameter(torch.empty(sizes.query_prompts, width_from))
        self.query_context_prompts = nn.Parameter(torch.empty(sizes.query_context_prompts, width_from))
        self.fusion_context_prompts = nn.Parameter(torch.empty(sizes.fusion_context_prompts, width_to))
        self.inner = nn.Linear(width_from, sizes.mapping_width)
        self.outer = nn.Linear(sizes.mapping_width, width_to)
        for prompts in (self.query_prompts, self.query_context_prompts, self.fusion_context_prompts):
            if prompts.numel():
                nn.init.normal_(prompts, std=PROMPT_STANDARD_DEVIATION)

    def weights(self, sizes: Sizes) -> DirectionWeights:
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
        image_width: D_img.
        text_width: D_txt.
        sizes: Image → text and text → image.
    """

    def __init__(self, *, image_width: int, text_width: int, sizes: tuple[Sizes, Sizes]) -> None:
        super().__init__()
        self.image_to_text = Direction(width_from=image_width, width_to=text_width, sizes=sizes[0])
        self.text_to_image = Direction(width_from=text_width, width_to=image_width, sizes=sizes[1])

    def weights(self, sizes: tuple[Sizes, Sizes]) -> FusionLayerWeights:
        return FusionLayerWeights(self.image_to_text.weights(sizes[0]), self.text_to_image.weights(sizes[1]))


def read_first_layer(
    image_encoder: Encoder,
    text_encoder: Encoder,
    weights: FusionLayerWeights,
    features: Features,
    fusing: int,
) -> tuple[DataRows, DataRows]:
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
            image_encoder.depth - fusing,
            image.layout.pack(features.image_tokens),
            weights.image_to_text.query_prompts,
            is_first=True,
            known=features.image_attention,
        ),
        read_data(
            text,
            text_encoder.depth - fusing,
            text.layout.pack(features.text_tokens),
            weights.text_to_image.query_prompts,
            is_first=True,
            known=features.text_attention,
        ),
    )


def fuse(
    layers: Sequence[FusionLayerWeights], read_first: Callable[[], tuple[DataRows, DataRows]]
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
    image = Side(image_rows, tells=layers[0].image_to_text, is_told=layers[0].text_to_image)
    text = Side(text_rows, tells=layers[0].text_to_image, is_told=layers[0].image_to_text)
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
) -> Side:
    """One modality in a fusing layer behind the first, with so many layers left, itself included."""
    index = modality.encoder.depth - layers_left
    return Side(read_data(modality, index, rows, tells.query_prompts, is_first=False), tells=tells, is_told=is_told)


class PMF(nn.Module):
    """Trained part of a PMF model of one architecture, beside two frozen encoders.

    The encoders are not part of `state_dict`: what is trained is what is saved.

    Args:
        image_encoder: Frozen image encoder.
        text_encoder: Frozen text encoder.
        architecture: Its sizes; `fusion_layer` counts layers of the shallower encoder.
        class_count: C.

    Raises:
        ValueError: If the architecture leaves no layer to fuse, or asks for prompt lengths that PMF does not have.
    """

    def __init__(
        self,
        *,
        image_encoder: Encoder,
        text_encoder: Encoder,
        architecture: Architecture,
        class_count: int,
    ) -> None:
        super().__init__()
        shallower = min(image_encoder.depth, text_encoder.depth)
        if not 0 <= architecture.fusion_layer < shallower:
            raise ValueError(
                f"fusion_layer must be 0 to {shallower - 1} for these encoders, got {architecture.fusion_layer}"
            )
        fusing = shallower - architecture.fusion_layer
        if architecture.layer_count not in (None, fusing):
            raise ValueError(f"{architecture} has {architecture.layer_count} fusing layers, these encoders {fusing}")
        sizes = [architecture.at(index) for index in range(fusing)]
        if any(side.query_prompts < 1 or side.mapping_width < 1 for layer in sizes for side in layer):
            raise ValueError(f"query_prompts and mapping_width must be at least 1, got {architecture}")
        self.architecture = architecture
        # A tuple keeps the frozen encoders out of parameters() and state_dict().
        self._encoders = (image_encoder, text_encoder)
        self.fusion_layers = nn.ModuleList(
            FusionLayer(image_width=image_encoder.width, text_width=text_encoder.width, sizes=layer) for layer in sizes
        )
        self.image_classifier = nn.Linear(image_encoder.width, class_count)
        self.text_classifier = nn.Linear(text_encoder.width, class_count)

    @property
    def encoders(self) -> tuple[Encoder, Encoder]:
        """The frozen image and text encoder."""
        return self._encoders

    def forward(
        self,
        features: Features,
        architecture: Architecture | None = None,
    ) -> Tensor:
        """Logits from base features.

        Args:
            features: At the architecture's first fusing layer.
            architecture: A smaller one whose prefix slices are used; this model's own by default.

        Returns:
            Mean of the two classifiers' logits, (B, C).
        """
        architecture = architecture or self.architecture
        layers = self._layers(architecture)
        features = features.to(self.image_classifier.weight.dtype)
        return self._classify(
            *fuse(layers, lambda: read_first_layer(*self._encoders, layers[0], features, len(layers)))
        )

    def population_logits(self, features: Features, architectures: Sequence[Architecture]) -> list[Tensor]:
        """Logits of several architectures that start to fuse at one layer, without a graph.

        What the first fusing layer reads of the data is computed once for all. The logits of an architecture are the
        same to the last bit whichever others are beside it.

        Args:
            features: At their first fusing layer.
            architectures: With one `fusion_layer`; smaller ones or this model's own.

        Returns:
            Of each, (B, C).
        """
        with torch.no_grad():
            features = features.to(self.image_classifier.weight.dtype)
            fusing = len(self._layers(architectures[0]))
            place = len(self.fusion_layers) - fusing
            first: FusionLayer = self.fusion_layers[place]  # type: ignore[assignment]
            whole = first.weights(self.architecture.at(place))
            shared = read_first_layer(*self._encoders, whole, features, fusing)
            return [self._classify(*fuse(self._layers(architecture), lambda: shared)) for architecture in architectures]

    def _layers(self, architecture: Architecture) -> list[FusionLayerWeights]:
        """Slices of the fusing layers of an architecture."""
        skipped = architecture.fusion_layer - self.architecture.fusion_layer
        layers = list(self.fusion_layers)[skipped:]
        return [layer.weights(architecture.at(index)) for index, layer in enumerate(layers)]  # type: ignore[operator]

    def _classify(self, image_readout: Tensor, text_readout: Tensor) -> Tensor:
        logits: Tensor = (self.image_classifier(image_readout) + self.text_classifier(text_readout)) / 2
        return logits


def first_fusing_layers(image_encoder: Encoder, text_encoder: Encoder, fusion_layer: int) -> tuple[int, int]:
    """Layers of each encoder that run alone: depth − n each, with n = min(depths) − L_f (paper, section 4.6)."""
    fusing = min(image_encoder.depth, text_encoder.depth) - fusion_layer
    return image_encoder.depth - fusing, text_encoder.depth - fusing


@torch.no_grad()
def base_features(
    image_encoder: Encoder,
    text_encoder: Encoder,
    fusion_layer: int,
    pixel_values: Tensor,
    input_ids: Tensor,
    text_mask: Tensor | None,
) -> Features:
    """z and t at the first fusing layer, from raw inputs.

    Args:
        image_encoder: Frozen image encoder.
        text_encoder: Frozen text encoder.
        fusion_layer: L_f.
        pixel_values: (B, 3, height, width).
        input_ids: (B, T).
        text_mask: (B, T), true where there is a token; None where no text is padded.
    """
    image_start, text_start = first_fusing_layers(image_encoder, text_encoder, fusion_layer)
    z = image_encoder.run(image_encoder.embed(pixel_values), None, start=0, stop=image_start)
    t = text_encoder.embed(input_ids)
    text_bias = text_encoder.data_bias(text_mask, t.shape[1], t.dtype)
    return Features(z, text_encoder.run(t, text_bias, start=0, stop=text_start), text_mask)


def trainable_parameter_count(
    *, image_width: int, text_width: int, fusing_layers: int, architecture: Architecture, class_count: int
) -> int:
    """Closed form of the number of trained scalars (pinned to the published counts in the tests)."""

    def direction(sizes: Sizes, width_from: int, width_to: int) -> int:
        queries = (sizes.query_prompts + sizes.query_context_prompts) * width_from
        prompts = queries + sizes.fusion_context_prompts * width_to
        return prompts + sizes.mapping_width * (width_from + width_to + 1) + width_to

    layers = (architecture.at(index) for index in range(fusing_layers))
    fused = sum(
        direction(to_text, image_width, text_width) + direction(to_image, text_width, image_width)
        for to_text, to_image in layers
    )
    return fused + (image_width + text_width + 2) * class_count
