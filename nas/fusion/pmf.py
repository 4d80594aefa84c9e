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

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, relu

from nas.encoders import EncoderLayer, FrozenEncoder, KeysValues, padding_bias
from nas.space import Architecture

PROMPT_STANDARD_DEVIATION = 0.02


@dataclass(frozen=True)
class DirectionWeights:
    """What one direction of one fusing layer has learned; tensors may be views into larger ones."""

    query_prompts: Tensor  # QP (M_qp, D_from)
    query_context_prompts: Tensor  # QCP (M_qcp, D_from)
    fusion_context_prompts: Tensor  # FCP (M_fcp, D_to)
    inner_weight: Tensor  # (h, D_from)
    inner_bias: Tensor  # (h,)
    outer_weight: Tensor  # (D_to, h)
    outer_bias: Tensor  # (D_to,)

    def map(self, rows: Tensor) -> Tensor:
        """f: (B, M_qp, D_from) → (B, M_qp, D_to)."""
        return linear(relu(linear(rows, self.inner_weight, self.inner_bias)), self.outer_weight, self.outer_bias)


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
        architecture: Gives the prompt lengths and the mapping width.
    """

    def __init__(self, *, width_from: int, width_to: int, architecture: Architecture) -> None:
        super().__init__()
        self.query_prompts = nn.Parameter(torch.empty(architecture.query_prompts, width_from))
        self.query_context_prompts = nn.Parameter(torch.empty(architecture.query_context_prompts, width_from))
        self.fusion_context_prompts = nn.Parameter(torch.empty(architecture.fusion_context_prompts, width_to))
        self.inner = nn.Linear(width_from, architecture.mapping_width)
        self.outer = nn.Linear(architecture.mapping_width, width_to)
        for prompts in (self.query_prompts, self.query_context_prompts, self.fusion_context_prompts):
            if prompts.numel():
                nn.init.normal_(prompts, std=PROMPT_STANDARD_DEVIATION)

    def weights(self, architecture: Architecture) -> DirectionWeights:
        """The first M rows of every prompt and the first h units of the mapping, as views that pass gradients on."""
        width = architecture.mapping_width
        return DirectionWeights(
            query_prompts=self.query_prompts[: architecture.query_prompts],
            query_context_prompts=self.query_context_prompts[: architecture.query_context_prompts],
            fusion_context_prompts=self.fusion_context_prompts[: architecture.fusion_context_prompts],
            inner_weight=self.inner.weight[:width],
            inner_bias=self.inner.bias[:width],
            outer_weight=self.outer.weight[:, :width],
            outer_bias=self.outer.bias,
        )


class FusionLayer(nn.Module):
    """The trained tensors of one fusing layer."""

    def __init__(self, *, image_width: int, text_width: int, architecture: Architecture) -> None:
        super().__init__()
        self.image_to_text = Direction(width_from=image_width, width_to=text_width, architecture=architecture)
        self.text_to_image = Direction(width_from=text_width, width_to=image_width, architecture=architecture)

    def weights(self, architecture: Architecture) -> FusionLayerWeights:
        return FusionLayerWeights(self.image_to_text.weights(architecture), self.text_to_image.weights(architecture))


def query_stage(layer: EncoderLayer, data: KeysValues, bias: Tensor | None, weights: DirectionWeights) -> Tensor:
    """y = f(rows of QP in layer([x ; QCP ; QP])), of shape (B, M_qp, D_to).

    Only QP's rows are computed: no other row's output is kept, and within one layer rows meet only as keys and values.

    Args:
        layer: The frozen layer of the modality that tells.
        data: Keys and values of its tokens x, (B, H, R, d).
        bias: Additive bias over those tokens, (B, 1, 1, R), or None.
        weights: The direction's prompts and mapping.
    """
    batch_size = data.keys.shape[0]
    # Prompts are the same for every sample, so their keys and values are computed once: (1, M_qcp + M_qp, D).
    prompts = torch.cat([weights.query_context_prompts, weights.query_prompts])[None]
    context = KeysValues.concatenate([data, layer.keys_values(prompts).expand(batch_size)])
    rows = weights.query_prompts.expand(batch_size, -1, -1)  # (B, M_qp, D_from)
    return weights.map(layer.attend(rows, context, extend_bias(bias, context)))


def fusion_stage(
    layer: EncoderLayer, rows: Tensor, data: KeysValues, bias: Tensor | None, message: Tensor, weights: DirectionWeights
) -> Tensor:
    """Given rows of x in layer([x ; FCP ; y]), of shape (B, R', D).

    Args:
        layer: The frozen layer of the modality that is told.
        rows: Those rows of its tokens x whose outputs are wanted, (B, R', D).
        data: Keys and values of all its tokens x, (B, H, R, d); the same ones that its query stage read.
        bias: Additive bias over those tokens, (B, 1, 1, R), or None.
        message: y, what the other modality tells, (B, M_qp, D).
        weights: The direction's prompts.
    """
    shared = layer.keys_values(weights.fusion_context_prompts[None]).expand(message.shape[0])
    context = KeysValues.concatenate([data, shared, layer.keys_values(message)])
    return layer.attend(rows, context, extend_bias(bias, context))


def extend_bias(bias: Tensor | None, context: KeysValues) -> Tensor | None:
    """Let the prompts behind the data be seen by all: zeros up to the number of keys, (B, 1, 1, R + M)."""
    return None if bias is None else pad(bias, (0, context.keys.shape[2] - bias.shape[-1]))


def fuse(
    image_encoder: FrozenEncoder,
    text_encoder: FrozenEncoder,
    layers: Sequence[FusionLayerWeights],
    image_tokens: Tensor,
    text_tokens: Tensor,
    text_mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The last n = len(layers) layers of both encoders, fused.

    Args:
        image_encoder: Frozen; its last n layers are used.
        text_encoder: Frozen; its last n layers are used.
        layers: Learned weights, first fusing layer first.
        image_tokens: z at the first fusing layer, (B, S, D_img).
        text_tokens: t at the first fusing layer, (B, T, D_txt).
        text_mask: True where there is a text token, (B, T); None where no text is padded.

    Returns:
        The finished readout rows of both modalities, (B, D_img) and (B, D_txt).
    """
    z, t = image_tokens, text_tokens
    text_bias = None if text_mask is None else padding_bias(text_mask, t.dtype)
    fusing = len(layers)
    for index, (image_layer, text_layer, weights) in enumerate(
        zip(image_encoder.layers[-fusing:], text_encoder.layers[-fusing:], layers, strict=True)
    ):
        # Keys and values of the data depend on each row alone: query and fusion stage share them.
        z_data, t_data = image_layer.keys_values(z), text_layer.keys_values(t)
        told_text = query_stage(image_layer, z_data, None, weights.image_to_text)  # (B, M_qp, D_txt)
        told_image = query_stage(text_layer, t_data, text_bias, weights.text_to_image)  # (B, M_qp, D_img)
        if index == fusing - 1:
            # After the last layer only the readout rows are read; no row's output depends on another row's output.
            z, t = image_encoder.readout_rows(z, None), text_encoder.readout_rows(t, text_mask)
        z = fusion_stage(image_layer, z, z_data, None, told_image, weights.text_to_image)
        t = fusion_stage(text_layer, t, t_data, text_bias, told_text, weights.image_to_text)
    return image_encoder.pool(image_encoder.finish(z)), text_encoder.pool(text_encoder.finish(t))


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
        image_encoder: FrozenEncoder,
        text_encoder: FrozenEncoder,
        architecture: Architecture,
        class_count: int,
    ) -> None:
        super().__init__()
        shallower = min(image_encoder.depth, text_encoder.depth)
        if not 0 <= architecture.fusion_layer < shallower:
            raise ValueError(
                f"fusion_layer must be 0 to {shallower - 1} for these encoders, got {architecture.fusion_layer}"
            )
        if architecture.query_prompts < 1 or architecture.mapping_width < 1:
            raise ValueError(f"query_prompts and mapping_width must be at least 1, got {architecture}")
        self.architecture = architecture
        # A tuple keeps the frozen encoders out of parameters() and state_dict().
        self._encoders = (image_encoder, text_encoder)
        self.fusion_layers = nn.ModuleList(
            FusionLayer(image_width=image_encoder.width, text_width=text_encoder.width, architecture=architecture)
            for _ in range(shallower - architecture.fusion_layer)
        )
        self.image_classifier = nn.Linear(image_encoder.width, class_count)
        self.text_classifier = nn.Linear(text_encoder.width, class_count)

    @property
    def encoders(self) -> tuple[FrozenEncoder, FrozenEncoder]:
        """The frozen image and text encoder."""
        return self._encoders

    def forward(
        self,
        image_tokens: Tensor,
        text_tokens: Tensor,
        text_mask: Tensor | None,
        architecture: Architecture | None = None,
    ) -> Tensor:
        """Logits from base features.

        Args:
            image_tokens: z at the architecture's first fusing layer, (B, S, D_img).
            text_tokens: t at the architecture's first fusing layer, (B, T, D_txt).
            text_mask: True where there is a text token, (B, T); None where no text is padded.
            architecture: A smaller one whose prefix slices are used; this model's own by default.

        Returns:
            Mean of the two classifiers' logits, (B, C).
        """
        architecture = architecture or self.architecture
        skipped = architecture.fusion_layer - self.architecture.fusion_layer
        layers = [layer.weights(architecture) for layer in list(self.fusion_layers)[skipped:]]  # type: ignore[operator]
        image_readout, text_readout = fuse(*self._encoders, layers, image_tokens, text_tokens, text_mask)
        logits: Tensor = (self.image_classifier(image_readout) + self.text_classifier(text_readout)) / 2
        return logits


def first_fusing_layers(
    image_encoder: FrozenEncoder, text_encoder: FrozenEncoder, fusion_layer: int
) -> tuple[int, int]:
    """Layers of each encoder that run alone: depth − n each, with n = min(depths) − L_f (paper, section 4.6)."""
    fusing = min(image_encoder.depth, text_encoder.depth) - fusion_layer
    return image_encoder.depth - fusing, text_encoder.depth - fusing


@torch.no_grad()
def base_features(
    image_encoder: FrozenEncoder,
    text_encoder: FrozenEncoder,
    fusion_layer: int,
    pixel_values: Tensor,
    input_ids: Tensor,
    text_mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """z and t at the first fusing layer, from raw inputs.

    Args:
        image_encoder: Frozen image encoder.
        text_encoder: Frozen text encoder.
        fusion_layer: L_f.
        pixel_values: (B, 3, height, width).
        input_ids: (B, T).
        text_mask: (B, T), true where there is a token; None where no text is padded.

    Returns:
        z (B, S, D_img) and t (B, T, D_txt).
    """
    image_start, text_start = first_fusing_layers(image_encoder, text_encoder, fusion_layer)
    z = image_encoder.run(image_encoder.embed(pixel_values), None, start=0, stop=image_start)
    t = text_encoder.embed(input_ids)
    text_bias = None if text_mask is None else padding_bias(text_mask, t.dtype)
    return z, text_encoder.run(t, text_bias, start=0, stop=text_start)


def trainable_parameter_count(
    *, image_width: int, text_width: int, fusing_layers: int, architecture: Architecture, class_count: int
) -> int:
    """Closed form of the number of trained scalars (pinned to the published counts in the tests)."""
    both, width = image_width + text_width, architecture.mapping_width
    prompts = both * (
        architecture.query_prompts + architecture.query_context_prompts + architecture.fusion_context_prompts
    )
    mappings = 2 * width * both + 2 * width + both
    return fusing_layers * (prompts + mappings) + both * class_count + 2 * class_count
