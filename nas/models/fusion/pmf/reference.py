"""PMF as the paper defines it: whole frozen layers over whole sequences, twice per modality and fusing layer.

Li, Quan, Zhu, Yang, "Efficient Multimodal Fusion via Interactive Prompting", CVPR 2023 (arXiv 2304.06306), section 3.
`model.py` computes the same logits and gradients for a fraction of the work; the tests compare the two. It falls back
to `fuse_whole` with the layers of transformers where its shortcuts do not hold (`Features.whole_layers`).

Shapes: B samples, S image tokens z, T text tokens t (CLS first), hidden sizes D_img and D_txt; M_qp query prompts QP,
M_qcp query context prompts QCP and M_fcp fusion context prompts FCP per direction and layer; C classes.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from nas.models.encoders.base import Encoder
from nas.models.encoders.layers import EncoderLayer
from nas.models.fusion.base import classify, read_out
from nas.models.fusion.joint_attention import joint_bias
from nas.models.fusion.readouts import Readout

if TYPE_CHECKING:
    from nas.models.fusion.pmf.model import PMF


class Direction(Protocol):
    """The trained tensors of one direction of one fusing layer."""

    query_prompts: Tensor  # QP (M_qp, D_from)
    query_context_prompts: Tensor  # QCP (M_qcp, D_from)
    fusion_context_prompts: Tensor  # FCP (M_fcp, D_to)

    def map(self, tokens: Tensor) -> Tensor:
        """Apply f = Linear, ReLU, Linear: (B, M_qp, D_from) → (B, M_qp, D_to)."""


RunLayer = Callable[[EncoderLayer, Tensor, Tensor | None], Tensor]
"""Function of a frozen layer, its input (B, R, D) and an additive bias that returns the layer's output (B, R, D)."""


def run_whole_layer(layer: EncoderLayer, tokens: Tensor, bias: Tensor | None) -> Tensor:
    """Run a frozen layer over a whole sequence, (B, R, D) → (B, R, D)."""
    return layer.attend(tokens, layer.keys_values(tokens), bias)


def reference_logits(
    model: "PMF",
    pixel_values: Tensor,
    input_ids: Tensor,
    text_mask: Tensor | None,
    run_layer: RunLayer = run_whole_layer,
) -> Tensor:
    """Return the logits of a PMF model, (B, C); gradients flow to its trained tensors.

    Args:
        model: The model, which holds the trained tensors and the frozen encoders.
        pixel_values: Images, (B, 3, height, width).
        input_ids: Token ids, (B, T).
        text_mask: (B, T), true where there is a token; None where no text is padded.
        run_layer: Function that runs a frozen layer.
    """
    image, text = model.encoders

    def run(encoder: Encoder, index: int, tokens: Tensor, bias: Tensor | None) -> Tensor:
        return run_layer(encoder.layers[index], tokens, bias)

    layers = model.layer_weights(model.architecture)
    n = len(layers)  # the last n layers of both encoders fuse (section 4.6)

    # Base features: each encoder runs separately.
    z = image.embed(pixel_values)  # (B, S, D_img)
    t = text.embed(input_ids)  # (B, T, D_txt)
    for index in range(image.num_layers - n):
        z = run(image, index, z, joint_bias(image, z, None, further=0))  # (B, S, D_img)
    for index in range(text.num_layers - n):
        t = run(text, index, t, joint_bias(text, t, text_mask, further=0))  # (B, T, D_txt)

    # Head: one linear classifier on the readout (CLS) of each modality, and the mean of their logits.
    readouts = model.architecture.readouts
    image_readout, text_readout = fuse_whole(model.encoders, layers, (z, t), text_mask, run, readouts)
    image_logits, text_logits = (
        classify(model.image_classifier, image_readout),
        classify(model.text_classifier, text_readout),
    )
    return (image_logits + text_logits) / 2  # (B, C)


def fuse_whole(
    encoders: tuple[Encoder, Encoder],
    layers: Sequence[Any],
    tokens: tuple[Tensor, Tensor],
    text_mask: Tensor | None,
    run: Callable[[Encoder, int, Tensor, Tensor | None], Tensor],
    readouts: tuple[Readout, Readout],
) -> tuple[Tensor, Tensor]:
    """Return the inputs of the classifiers, (B, D_img) and (B, D_txt).

    Args:
        encoders: The image and the text encoder.
        layers: The fusing layers, first to last, each with the `Direction` parts `image_to_text` and `text_to_image`.
        tokens: The base features z, (B, S, D_img), and t, (B, T, D_txt).
        text_mask: (B, T), true where there is a token; None where no text is padded.
        run: Function of an encoder, the index of a layer, its input and an additive bias that runs that layer.
        readouts: What is read out of the image and the text encoder; the paper's are the CLS tokens.
    """
    image, text = encoders
    z, t = tokens
    image_count, text_count = z.shape[1], t.shape[1]
    first_image, first_text = image.num_layers - len(layers), text.num_layers - len(layers)

    def read(encoder: Encoder, index: int, data: Tensor, *prompts: Tensor) -> Tensor:
        """Run a frozen layer on [data ; prompts]; all tokens attend to all prompts, and to data as in the encoder."""
        mask = text_mask if encoder is text else None
        rows = torch.cat([data, *(entry.expand(data.shape[0], -1, -1) for entry in prompts)], dim=1)  # (B, R + M, D)
        bias = joint_bias(encoder, data, mask, further=rows.shape[1] - data.shape[1])  # over R + M tokens
        return run(encoder, index, rows, bias)  # (B, R + M, D)

    for i, layer in enumerate(layers):
        to_text, to_image = layer.image_to_text, layer.text_to_image

        # Query stage: [z ; QCP ; QP] → frozen image layer → outputs of QP → f → y, and the mirror image.
        image_query = to_text.query_context_prompts, to_text.query_prompts  # (M_qcp, D_img), (M_qp, D_img)
        text_query = to_image.query_context_prompts, to_image.query_prompts  # (M_qcp, D_txt), (M_qp, D_txt)
        y_text = _map(to_text, read(image, first_image + i, z, *image_query))  # (B, M_qp, D_txt)
        y_image = _map(to_image, read(text, first_text + i, t, *text_query))  # (B, M_qp, D_img)

        # Fusion stage: [t ; FCP ; y] → the same frozen text layer → outputs of t, and the mirror image.
        z = read(image, first_image + i, z, to_image.fusion_context_prompts, y_image)[:, :image_count]  # (B, S, D_img)
        t = read(text, first_text + i, t, to_text.fusion_context_prompts, y_text)[:, :text_count]  # (B, T, D_txt)

    return read_out(image, z, None, readouts[0]), read_out(text, t, text_mask, readouts[1])  # (B, D_img), (B, D_txt)


def _map(direction: Direction, queried: Tensor) -> Tensor:
    """Apply f to the outputs of QP, the last M_qp tokens, (B, R, D_from) → (B, M_qp, D_to)."""
    return direction.map(queried[:, queried.shape[1] - direction.query_prompts.shape[0] :])
