"""Tiny random encoders and models for the tests: real `transformers` models, small enough to be fast."""

from typing import Any, TypeVar, cast

import torch
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from nas.models.encoders.base import Encoder
from nas.models.encoders.bert import BertEncoder
from nas.models.encoders.vit import ViTEncoder
from nas.models.fusion.base import Features, features_of, sizes_of
from nas.models.fusion.pmf.architecture import entry_layers_from
from nas.models.fusion.pmf.model import PMF
from nas.models.fusion.supernet import build_model
from nas.search.space import Architecture, EntryLayers

ModelType = TypeVar("ModelType", bound=torch.nn.Module)


def vit_model(num_layers: int = 4, width: int = 24, heads: int = 3, dtype: torch.dtype = torch.float64) -> ViTModel:
    torch.manual_seed(1)
    config_class: Any = ViTConfig  # its annotations omit attn_implementation
    config = config_class(
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        image_size=16,
        patch_size=8,
        attn_implementation="sdpa",
    )
    model: Any = perturbed(ViTModel(config, add_pooling_layer=False))
    return cast(ViTModel, model.to(dtype).eval())


def bert_model(num_layers: int = 3, width: int = 16, heads: int = 2, dtype: torch.dtype = torch.float64) -> BertModel:
    torch.manual_seed(2)
    config_class: Any = BertConfig
    config = config_class(
        vocab_size=50,
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        max_position_embeddings=20,
        attn_implementation="sdpa",
    )
    model: Any = perturbed(BertModel(config, add_pooling_layer=False))
    return cast(BertModel, model.to(dtype).eval())


def perturbed(model: ModelType) -> ModelType:
    """Give zero biases and unit norms random values, so that skipping one changes the result."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def encoders(image_layers: int = 4, text_layers: int = 3) -> tuple[Encoder, Encoder]:
    return ViTEncoder(vit_model(image_layers)), BertEncoder(bert_model(text_layers))


def pmf_model(architecture: Architecture, pair: tuple[Encoder, Encoder], *, num_classes: int = 6, seed: int = 3) -> PMF:
    """Build a PMF model with the dtype of its encoders."""
    image, text = pair
    model = build_model(
        image_encoder=image, text_encoder=text, architecture=architecture, num_classes=num_classes, seed=seed
    )
    assert isinstance(model, PMF)
    return model.to(next(image.parameters()).dtype)


def raw_batch(size: int = 5, length: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return pixel values, token ids and a mask of texts of different lengths; the first one is not padded."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(size, 3, 16, 16, generator=generator, dtype=torch.float64)
    ids = torch.randint(1, 50, (size, length), generator=generator)
    lengths = torch.randint(2, length, (size,), generator=generator)
    lengths[0] = length
    return pixels, ids, torch.arange(length)[None] < lengths[:, None]


def base_features(
    image_encoder: Encoder,
    text_encoder: Encoder,
    fusion_layer: int,
    pixels: torch.Tensor,
    ids: torch.Tensor,
    mask: torch.Tensor | None,
) -> Features:
    """Return the base features of a PMF model with that fusion layer."""
    encoders = (image_encoder, text_encoder)
    return features_of(encoders, entry_layers_from(sizes_of(*encoders), fusion_layer), pixels, ids, mask)


def reads_at(fusion_layer: int) -> EntryLayers:
    """Return the entry layers of a PMF model of the tiny encoders, which have 4 and 3 layers."""
    return EntryLayers(fusion_layer + 1, fusion_layer)
