"""The contrastive head of a checkpoint with two encoders: its projections into one space, and the scale of its logits.

Radford et al., ICML 2021: an image and a text are compared by the cosine of their projected readouts, times a learned
scale. The head is loaded only where a model reads it. The configuration of each encoder then describes it, so that
every copy of the encoder (in workers, without weights, in an exported model) is built with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import CLIPConfig, PreTrainedConfig, PreTrainedModel, SiglipConfig

from nas.common.boundary import shown
from nas.common.errors import EncoderError
from nas.models.encoders import pretrained
from nas.models.encoders.folder_check import ErrorType

HEAD = "contrastive"
"""The key of an encoder's configuration that describes its head."""
PROJECTION = "contrastive_projection"
"""The module of an encoder's model that projects its readout."""

_MAX_SIZE = 2**20
_MAX_SCALE = 1e6


@dataclass(frozen=True)
class ContrastiveHead:
    """The head of one encoder, except for the weights of its projection.

    Args:
        projection_size: The size E of the space in which both encoders are compared.
        logit_scale: The factor of cosines, 1 / temperature.
    """

    projection_size: int
    logit_scale: float


def head_of(config: PreTrainedConfig) -> ContrastiveHead | None:
    """Return the head that the configuration of an encoder describes; None if it has none."""
    values: dict[str, Any] | None = getattr(config, HEAD, None)
    return None if values is None else ContrastiveHead(**values)


def check_head(config: PreTrainedConfig, where: str, error: ErrorType = EncoderError) -> None:
    """Check what the configuration of an encoder says about its head, if anything.

    Args:
        config: The configuration.
        where: The file, and the key in it if the configuration is a part of another, for messages.
        error: The type of the error.

    Raises:
        NasError: If it describes no head.
    """
    values = getattr(config, HEAD, None)
    if values is None:
        return
    size, scale = (values.get(key) for key in ("projection_size", "logit_scale")) if _is_head(values) else (None, None)
    if not (type(size) is int and 0 < size <= _MAX_SIZE and _is_scale(scale)):
        raise error(
            f"{where}: {HEAD}: not allowed; expected projection_size from 1 to {_MAX_SIZE:,} and logit_scale above 0, "
            f"got {shown(values)}"
        )


def _is_head(values: Any) -> bool:
    return isinstance(values, Mapping) and values.keys() == {"projection_size", "logit_scale"}


def _is_scale(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 < value <= _MAX_SCALE


def add_projection(model: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Give the model of an encoder its projection, if its configuration describes one.

    Args:
        model: The model of transformers; the projection becomes a part of it, and so of its weights.
        config: The configuration of the encoder.
    """
    head = head_of(config)
    if head is not None:
        model.add_module(PROJECTION, nn.Linear(int(config.hidden_size), head.projection_size, bias=False))


class _CLIPHead(PreTrainedModel):
    """The weights of a `clip` checkpoint besides both encoders."""

    config_class = CLIPConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        image, text = config.vision_config, config.text_config
        self.visual_projection = nn.Linear(image.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(text.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(0.0))
        self.post_init()  # type: ignore[no-untyped-call]


def has_head(checkpoint: str) -> bool:
    """Return whether a checkpoint has projections of an image and a text encoder into one space.

    Args:
        checkpoint: The result of `resolve_checkpoint`.

    Raises:
        EncoderError: If its configuration cannot be read.
    """
    return isinstance(pretrained.load_config(checkpoint), CLIPConfig)


_PROJECTIONS = {"image": "visual_projection", "text": "text_projection"}


def load_head(
    checkpoint: str, modality: str, where: str, dtype: torch.dtype
) -> tuple[ContrastiveHead, dict[str, torch.Tensor]]:
    """Load the head of a checkpoint for one of its encoders.

    Args:
        checkpoint: The result of `resolve_checkpoint`.
        modality: "image" or "text".
        where: The file of the weights, for messages.
        dtype: The floating-point dtype of the weights.

    Returns:
        The head, and the weights of its projection by their name in the model of the encoder.

    Raises:
        EncoderError: If the checkpoint has no projections, or they cannot be read.
    """
    config = pretrained.load_config(checkpoint)
    if isinstance(config, SiglipConfig):
        raise EncoderError(
            f"encoder {checkpoint!r}: cannot be compared with texts, since the text encoder of SigLIP, which was "
            "trained to read padding up to a fixed length as tokens, is not supported; expected model_type clip, got "
            f"{config.model_type!r}"
        )
    if not isinstance(config, CLIPConfig):
        raise EncoderError(
            f"encoder {checkpoint!r}: has no projections into a space of images and texts; expected model_type clip, "
            f"got {config.model_type!r}"
        )
    model, report = pretrained.load_model(_CLIPHead, checkpoint, config, where, dtype=dtype)
    unfit = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    if unfit:
        raise EncoderError(
            f"{where}: {min(unfit)} is missing or does not have the size given by config.json; expected both "
            "projections and logit_scale"
        )
    scale = float(model.logit_scale.detach().double().exp())
    if not _is_scale(scale):
        found = model.logit_scale.item()
        raise EncoderError(f"{where}: logit_scale: expected at most the logarithm of {_MAX_SCALE:,.0f}, got {found}")
    weight: torch.Tensor = getattr(model, _PROJECTIONS[modality]).weight.detach()
    if not bool(weight.isfinite().all()):
        raise EncoderError(f"{where}: {_PROJECTIONS[modality]}.weight is not finite; expected finite numbers only")
    return ContrastiveHead(weight.shape[0], scale), {f"{PROJECTION}.weight": weight}
