"""The fusing layers of PMF, from the data tokens of the first one to the inputs of the classifiers.

Shapes: B samples, S image tokens, T text tokens, D_img and D_txt hidden sizes, M_qp query prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from nas.models.encoders.base import Encoder
from nas.models.fusion.base import Features
from nas.models.fusion.pmf.data_tokens import DataTokens, Modality, read_data
from nas.models.fusion.pmf.layer import DirectionWeights, ModalityFusionLayer
from nas.models.fusion.pmf.packing import PackedBatch
from nas.models.fusion.readouts import Readout


@dataclass(frozen=True)
class FusionLayerWeights:
    """The trained tensors of both directions of one fusing layer."""

    image_to_text: DirectionWeights
    text_to_image: DirectionWeights


def read_first_layer(
    encoders: tuple[Encoder, Encoder],
    weights: FusionLayerWeights,
    features: Features,
    fusing: int,
    readouts: tuple[Readout, Readout],
) -> tuple[DataTokens, DataTokens]:
    """Read z and t in the first fusing layer.

    Args:
        encoders: The frozen image and text encoder.
        weights: The weights of that layer; the query prompts of each architecture are a prefix of these.
        features: The base features z and t.
        fusing: The number of fusing layers n.
        readouts: What the classifiers of images and texts read.
    """
    (image, text), (of_image, of_text) = encoders, readouts
    return (
        _read_image(image, weights, features, fusing, of_image),
        _read_text(text, weights, features, fusing, of_text),
    )


def _read_image(
    encoder: Encoder, weights: FusionLayerWeights, features: Features, fusing: int, readout: Readout
) -> DataTokens:
    tokens = features.image_tokens
    modality = Modality.of(encoder, readout, PackedBatch.of(tokens, None), tokens.dtype)
    return read_data(
        modality,
        encoder.num_layers - fusing,
        modality.layout.pack(tokens),
        weights.image_to_text.query_prompts,
        is_first=True,
        stored=features.image_attention,
    )


def _read_text(
    encoder: Encoder, weights: FusionLayerWeights, features: Features, fusing: int, readout: Readout
) -> DataTokens:
    layout = PackedBatch.of(features.text_tokens, features.text_mask, features.text_places)
    tokens = features.text_tokens
    modality = Modality.of(encoder, readout, layout, tokens.dtype)
    return read_data(
        modality,
        encoder.num_layers - fusing,
        layout.pack(tokens),
        weights.text_to_image.query_prompts,
        is_first=True,
        stored=features.text_attention,
    )


class SharedFirstLayer:
    """Reads z and t in the first fusing layer once for all architectures that start to fuse there.

    Args:
        encoders: The frozen image and text encoder.
        weights: The weights of that layer; the query prompts of each architecture are a prefix of these.
        features: The base features z and t.
        fusing: The number of fusing layers n.
    """

    def __init__(
        self, encoders: tuple[Encoder, Encoder], weights: FusionLayerWeights, features: Features, fusing: int
    ) -> None:
        self._encoders = encoders
        self._weights = weights
        self._features = features
        self._fusing = fusing
        self._images: dict[Readout, DataTokens] = {}
        self._texts: dict[Readout, DataTokens] = {}

    def read(self, readouts: tuple[Readout, Readout]) -> tuple[DataTokens, DataTokens]:
        """Return z and t in that layer for architectures with these readouts, see `read_first_layer`."""
        (image, text), (of_image, of_text) = self._encoders, readouts
        shared = self._weights, self._features, self._fusing
        return (
            self._once(self._images, of_image, lambda: _read_image(image, *shared, of_image)),
            self._once(self._texts, of_text, lambda: _read_text(text, *shared, of_text)),
        )

    def _once(self, known: dict[Readout, DataTokens], readout: Readout, read: Callable[[], DataTokens]) -> DataTokens:
        """Return the tokens for a readout: only the last layer computes other tokens for another one."""
        if readout not in known:
            other = next(iter(known.values()), None)
            if other is None or self._fusing == 1:
                known[readout] = read()
            else:
                known[readout] = replace(other, modality=replace(other.modality, readout=readout))
        return known[readout]


def fuse(
    layers: Sequence[FusionLayerWeights], read_first: Callable[[], tuple[DataTokens, DataTokens]]
) -> tuple[Tensor, Tensor]:
    """Run the last n = len(layers) layers of both encoders, fused.

    Args:
        layers: The trained weights, first fusing layer first.
        read_first: Function that reads z and t in the first fusing layer. It is called here, so that no caller keeps
            the result in memory until the end.

    Returns:
        The inputs of the classifiers, (B, D_img) and (B, D_txt).
    """
    image_tokens, text_tokens = read_first()
    image_of, text_of, fusing = image_tokens.modality, text_tokens.modality, len(layers)
    image = ModalityFusionLayer(image_tokens, outgoing=layers[0].image_to_text, incoming=layers[0].text_to_image)
    text = ModalityFusionLayer(text_tokens, outgoing=layers[0].text_to_image, incoming=layers[0].image_to_text)
    del image_tokens, text_tokens
    for index in range(fusing):
        to_text, to_image = image.query_stage(), text.query_stage()  # (B, M_qp, D_txt), (B, M_qp, D_img)
        following = layers[index + 1] if index + 1 < fusing else None
        z = image.fusion_stage(to_image)
        # The modalities move to the next layer one after the other. The backward pass runs in the opposite order and
        # has released all that the text kept in a layer before it reaches the image, so their peaks do not coincide.
        if following is not None:
            image = _next_layer(image_of, fusing - index - 1, z, following.image_to_text, following.text_to_image)
        t = text.fusion_stage(to_text)
        if following is not None:
            text = _next_layer(text_of, fusing - index - 1, t, following.text_to_image, following.image_to_text)
    return image_of.pool(z), text_of.pool(t)


def _next_layer(
    modality: Modality, layers_left: int, tokens: Tensor, outgoing: DirectionWeights, incoming: DirectionWeights
) -> ModalityFusionLayer:
    """Enter a fusing layer after the first; `layers_left` includes it."""
    index = modality.encoder.num_layers - layers_left
    data = read_data(modality, index, tokens, outgoing.query_prompts, is_first=False)
    return ModalityFusionLayer(data, outgoing=outgoing, incoming=incoming)
