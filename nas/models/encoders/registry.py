"""Encoder families: how a model of each is built and read from a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import (
    BertModel,
    CLIPTextModel,
    CLIPVisionModel,
    DeiTModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    DistilBertModel,
    ElectraModel,
    MPNetModel,
    RobertaModel,
    SiglipVisionModel,
    ViTModel,
)
from transformers.utils import logging as transformers_logging

from nas.models.encoders.bert import BertEncoder, ElectraEncoder, RobertaEncoder
from nas.models.encoders.clip import CLIPTextEncoder, CLIPVisionEncoder
from nas.models.encoders.dinov2 import Dinov2Encoder
from nas.models.encoders.distilbert import DistilBertEncoder
from nas.models.encoders.mpnet import MPNetEncoder
from nas.models.encoders.siglip import SiglipVisionEncoder
from nas.models.encoders.vit import ViTEncoder

# Heads of a checkpoint that fusion does not use are left out on purpose; transformers would print a table of them.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class Family:
    """One block family: how a model of it is built and read from a checkpoint.

    Args:
        modality: "image" or "text".
        model_class: Of transformers.
        encoder_class: Of `nas.models.encoders`; takes such a model.
        options: Keyword arguments of the model class.
        activation: The configuration's key that names the feed-forward's activation.
    """

    modality: str
    model_class: Any
    encoder_class: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    activation: str = "hidden_act"


_NO_POOLER = {"add_pooling_layer": False}

FAMILIES: Mapping[str, Family] = {
    "vit": Family("image", ViTModel, ViTEncoder, _NO_POOLER),
    "deit": Family("image", DeiTModel, ViTEncoder, _NO_POOLER),
    "dinov2": Family("image", Dinov2Model, Dinov2Encoder),
    "dinov2_with_registers": Family("image", Dinov2WithRegistersModel, Dinov2Encoder),
    "clip_vision_model": Family("image", CLIPVisionModel, CLIPVisionEncoder),
    "siglip_vision_model": Family("image", SiglipVisionModel, SiglipVisionEncoder),
    "bert": Family("text", BertModel, BertEncoder, _NO_POOLER),
    "roberta": Family("text", RobertaModel, RobertaEncoder, _NO_POOLER),
    "electra": Family("text", ElectraModel, ElectraEncoder),
    "distilbert": Family("text", DistilBertModel, DistilBertEncoder, activation="activation"),
    "mpnet": Family("text", MPNetModel, MPNetEncoder, _NO_POOLER),
    "clip_text_model": Family("text", CLIPTextModel, CLIPTextEncoder),
}
"""`model_type` of a checkpoint → its family."""

HALVES: Mapping[tuple[str, str], str] = {
    ("clip", "image"): "vision_config",
    ("clip", "text"): "text_config",
    ("siglip", "image"): "vision_config",
}
"""`model_type` of a checkpoint that holds two encoders, and a modality → where its configuration has that half's."""
