"""A tiny contrastive checkpoint and the texts of some classes, for the families that read them."""

from typing import Any, cast

import torch
from transformers import CLIPVisionConfig

from nas.models.class_texts import ClassTexts
from nas.models.encoders.base import Encoder
from nas.models.encoders.bert import BertEncoder
from nas.models.encoders.clip import CLIPTextEncoder, CLIPVisionEncoder
from nas.models.encoders.contrastive import HEAD, PROJECTION, add_projection
from nas.models.encoders.vit import ViTEncoder
from nas.search.space.family_registry import load_architecture_class
from tests.support.tiny import bert_model, vit_model
from tests.support.tiny_families import END, IMAGE_FAMILIES, TEXT_FAMILIES

START, SCALE, COMMON_SIZE = 48, 1.5, 8

_IMAGE = next(family for family in IMAGE_FAMILIES if family.model_type == "clip_vision_model")
_TEXT = next(family for family in TEXT_FAMILIES if family.model_type == "clip_text_model")


def clip_pair(dtype: torch.dtype = torch.float64, *, image_hidden_size: int = 24) -> tuple[Encoder, Encoder]:
    """Return an image encoder of 4 and a text encoder of 3 layers with projections into one space."""
    image = with_head(_IMAGE.model(4, image_hidden_size, dtype), seed=5)
    text = with_head(_TEXT.model(3, 16, dtype), seed=6)
    return CLIPVisionEncoder(image), CLIPTextEncoder(text)


def with_head(model: Any, *, seed: int) -> Any:
    """Give a model of transformers a random projection."""
    setattr(model.config, HEAD, {"projection_size": COMMON_SIZE, "logit_scale": SCALE})
    torch.manual_seed(seed)
    add_projection(model, cast(CLIPVisionConfig, model.config))
    getattr(model, PROJECTION).to(model.dtype)
    return model


def class_texts(num_classes: int = 5) -> ClassTexts:
    """Return texts of classes under two templates, of different lengths; the first has 3 tokens before the name."""
    names = [[20 + index, 30 + index][: 1 + index % 2] for index in range(num_classes)]
    return ClassTexts.of(
        [[[START, 5, 6, 7, *name, END] for name in names], [[START, 9, *name, 8, 10, END] for name in names]], [3, 1]
    )


def reads_class_texts(family: str) -> bool:
    return load_architecture_class(family).reads_class_texts


def pair_for(
    family: str, dtype: torch.dtype = torch.float64, *, image_hidden_size: int = 24
) -> tuple[Encoder, Encoder]:
    """Return tiny encoders that a family fits: a ViT and a BERT, or those of a contrastive checkpoint."""
    if reads_class_texts(family):
        return clip_pair(dtype, image_hidden_size=image_hidden_size)
    image = vit_model(width=image_hidden_size, heads=image_hidden_size // 8, dtype=dtype)
    return ViTEncoder(image), BertEncoder(bert_model(dtype=dtype))


def texts_for(family: str, num_classes: int = 5) -> ClassTexts | None:
    """Return the texts of the classes for a family that reads them."""
    return class_texts(num_classes) if reads_class_texts(family) else None
