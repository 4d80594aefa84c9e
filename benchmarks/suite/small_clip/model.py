"""Build an untrained `CLIPModel`: the image side of a Vision Transformer, a new text side, and their tokenizer.

The image side is the Vision Transformer block for block, with two differences of form. CLIP has no bias in its patch
embedding: it is added to the positions of the patches. And CLIP has one LayerNorm more, `pre_layrnorm`, before the
first layer. So that the checkpoint starts as the encoder it was copied from, this norm starts close to the identity:
a constant of `OFFSET` times a fixed direction is added to all positions, so that the deviation of every row is nearly
the same; the norm's weight and bias, a linear regression, undo both. What the norm removes is the mean of every row,
to which all layers are blind, as each starts with a LayerNorm of its own, and the differences between rows along the
direction, which is that in which they differ least (in the demo's encoder, by 1 % of their size). The readout of the
demo's encoder changes by 2 % (cosine similarity 0.999).

The tokenizer is the text encoder's, with the pieces of its vocabulary in ASCII (titles in other scripts are unknown
words; accents are stripped). Every text ends with one end-of-text token, [SEP], which is `eos_token_id`: transformers
reads the first of them, and `nas` the last token that is not padding, which is the same one. The token embeddings
start as the first principal components of the text encoder's.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    ViTConfig,
    ViTModel,
)

TEXT_LAYERS, TEXT_WIDTH, TEXT_MLP, TEXT_HEADS = 4, 256, 384, 4
"""The text side; the narrow MLP keeps the folder below 30 MB."""
EMBEDDING = 192
"""The width in which pictures and texts are compared."""
MAX_TOKENS = 77
"""As in CLIP; titles are much shorter."""
OFFSET = 16.0
_TOKEN_SCALE = 0.2
"""The root mean square of the token embeddings at the start."""
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SIDE_TOKENS = 8
"""Every CLS row counts as this many rows in the regression of the extra norm, since all classifiers read it."""


def build(vit: ViTModel, text_encoder: Path, tokenizer_folder: Path, pixels: Tensor) -> CLIPModel:
    """Return the untrained model, in evaluation mode; its random weights follow from torch's global generator.

    Args:
        vit: The Vision Transformer.
        text_encoder: The folder of a `BertModel` with its tokenizer.
        tokenizer_folder: The folder that gets the new tokenizer.
        pixels: Pictures on which the extra norm is fitted, (N, 3, H, H).
    """
    rows = write_tokenizer(text_encoder, tokenizer_folder)
    ids: dict[str, Any] = {
        name: AutoTokenizer.from_pretrained(tokenizer_folder).convert_tokens_to_ids(name) for name in _SPECIAL
    }
    text = CLIPTextConfig(
        vocab_size=len(rows),
        hidden_size=TEXT_WIDTH,
        intermediate_size=TEXT_MLP,
        projection_dim=EMBEDDING,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_HEADS,
        max_position_embeddings=MAX_TOKENS,
        hidden_act="gelu",
        pad_token_id=ids["[PAD]"],
        bos_token_id=ids["[CLS]"],
        eos_token_id=ids["[SEP]"],
    )
    config = CLIPConfig(
        text_config=text.to_dict(),
        vision_config=vision_config(vit.config).to_dict(),
        projection_dim=EMBEDDING,
    )
    model: CLIPModel = CLIPModel(config).eval()
    copy_blocks(vit, model.vision_model)
    fit_extra_norm(model.vision_model, vit.embeddings(pixels))
    words = BertModel.from_pretrained(text_encoder, add_pooling_layer=False).embeddings.word_embeddings.weight
    with torch.no_grad():
        model.text_model.embeddings.token_embedding.weight.copy_(principal_components(words[rows], TEXT_WIDTH))
    return model


def vision_config(vit: ViTConfig) -> CLIPVisionConfig:
    """Return the configuration of CLIP's image side with the sizes of a Vision Transformer."""
    return CLIPVisionConfig(
        hidden_size=vit.hidden_size,
        intermediate_size=vit.intermediate_size,
        projection_dim=EMBEDDING,
        num_hidden_layers=vit.num_hidden_layers,
        num_attention_heads=vit.num_attention_heads,
        image_size=vit.image_size,
        patch_size=vit.patch_size,
        hidden_act=vit.hidden_act,
        layer_norm_eps=vit.layer_norm_eps,
    )


@torch.no_grad()
def copy_blocks(vit: ViTModel, target: CLIPVisionModel) -> None:
    """Copy all weights of a Vision Transformer; `pre_layrnorm` stays as it is."""
    source: Any = vit.embeddings
    into = target.embeddings
    positions = source.position_embeddings[0].clone()  # (1 + patches, D)
    positions[1:] += source.patch_embeddings.projection.bias
    into.class_embedding.copy_(source.cls_token[0, 0])
    into.position_embedding.weight.copy_(positions)
    into.patch_embedding.weight.copy_(source.patch_embeddings.projection.weight)
    for old, new in zip(vit.layers, target.encoder.layers, strict=True):
        for module, copy in _copies(old, new):
            copy.load_state_dict(module.state_dict())
    target.post_layernorm.load_state_dict(vit.layernorm.state_dict())


def _copies(old: Any, new: Any) -> list[tuple[nn.Module, nn.Module]]:
    """Return the modules of a layer of both models, in pairs."""
    return [
        (old.attention.q_proj, new.self_attn.q_proj),
        (old.attention.k_proj, new.self_attn.k_proj),
        (old.attention.v_proj, new.self_attn.v_proj),
        (old.attention.o_proj, new.self_attn.out_proj),
        (old.layernorm_before, new.layer_norm1),
        (old.layernorm_after, new.layer_norm2),
        (old.mlp.fc1, new.mlp.fc1),
        (old.mlp.fc2, new.mlp.fc2),
    ]


@torch.no_grad()
def fit_extra_norm(target: CLIPVisionModel, rows: Tensor, offset: float = OFFSET) -> None:
    """Make `pre_layrnorm` nearly the identity, up to the mean of each row.

    Args:
        target: The image side; its positions get the offset.
        rows: Rows before the first layer, (N, 1 + patches, D), as the Vision Transformer has them.
        offset: The offset, relative to a direction with mean 0 and variance 1. The difference to the identity falls
            with it, until rounding in half precision grows.
    """
    patches, readouts = rows.flatten(0, 1), rows[:1, 0].expand(_SIDE_TOKENS * len(rows), -1)
    wanted = torch.cat([patches, readouts]).double()
    wanted = wanted - wanted.mean(dim=1, keepdim=True)
    ones = torch.ones(wanted.shape[1], dtype=torch.float64)
    # The direction in which the rows vary least, orthogonal to the ones, so that the offset is the same for all rows.
    spread = torch.cov(wanted.T)
    direction = torch.linalg.eigh(spread + spread.trace() * torch.outer(ones, ones))[1][:, 0]
    direction = direction - direction.mean()
    direction = direction / direction.std(unbiased=False) * offset
    target.embeddings.position_embedding.weight.add_(direction)
    normed = wanted + direction
    normed = normed / (normed.var(dim=1, unbiased=False, keepdim=True) + target.pre_layrnorm.eps).sqrt()
    centred, means = normed - normed.mean(dim=0), wanted.mean(dim=0)
    weight = (centred * (wanted - means)).mean(dim=0) / centred.square().mean(dim=0)
    target.pre_layrnorm.weight.copy_(weight)
    target.pre_layrnorm.bias.copy_(means - weight * normed.mean(dim=0))


def principal_components(rows: Tensor, count: int) -> Tensor:
    """Return the first principal components of rows (N, D), scaled by one factor, (N, count)."""
    centred = rows.double() - rows.double().mean(dim=0)
    axes = torch.linalg.eigh(centred.T @ centred)[1].flip(1)[:, :count]
    scores = centred @ axes
    result: Tensor = (scores * (_TOKEN_SCALE / scores.square().mean().sqrt())).to(rows.dtype)
    return result


def write_tokenizer(source: Path, folder: Path) -> list[int]:
    """Write a tokenizer without the pieces of a vocabulary that are not ASCII or were never used.

    Args:
        source: The folder of the complete tokenizer, WordPiece.
        folder: The folder of the new one.

    Returns:
        The number of each kept piece in the complete vocabulary.
    """
    content = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = content["model"]["vocab"]
    kept = [piece for piece in vocabulary if piece.isascii() and not piece.startswith("[unused")]
    number = {piece: index for index, piece in enumerate(kept)}
    content["model"]["vocab"] = number
    content["truncation"] = content["padding"] = None
    for token in content["added_tokens"]:
        token["id"] = number[token["content"]]
    for token in content["post_processor"]["special_tokens"].values():
        token["ids"] = [number[name] for name in token["tokens"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_TOKENS,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "bos_token": "[CLS]",
        "cls_token": "[CLS]",
        "eos_token": "[SEP]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return [vocabulary[piece] for piece in kept]


def copy_processor(image_encoder: Path, folder: Path) -> None:
    """Copy the image processor of the Vision Transformer."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image_encoder / "preprocessor_config.json", folder / "preprocessor_config.json")
