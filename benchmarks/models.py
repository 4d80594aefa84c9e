"""Encoders that several measurements share."""

from pathlib import Path

import torch
from transformers import BertConfig, ViTConfig

from nas.config import Config
from nas.data import Preprocessor
from nas.encoders import (
    FrozenEncoder,
    build_encoder,
    load_encoder,
    load_image_processor,
    load_tokenizer,
    resolve_checkpoint,
)

DEMO = Path(__file__).resolve().parent.parent / "search_spaces" / "demo.yaml"
SIZES: dict[str, dict[str, int]] = {
    "base": {},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
"""What ViT-B and BERT-B, ViT-L and BERT-L have in common, beside what transformers takes by default."""


def empty_encoders(size: str) -> tuple[FrozenEncoder, FrozenEncoder]:
    """ViT and BERT whose weights are yet to be filled in."""
    image = build_encoder(ViTConfig(attn_implementation="sdpa", **SIZES[size]))  # type: ignore[arg-type]
    return image, build_encoder(BertConfig(attn_implementation="sdpa", **SIZES[size]))  # type: ignore[arg-type]


def random_encoders(size: str) -> tuple[FrozenEncoder, FrozenEncoder]:
    """ViT and BERT with random weights of the usual deviation."""
    torch.manual_seed(0)
    encoders = empty_encoders(size)
    with torch.no_grad():
        for encoder in encoders:
            for name, parameter in encoder.named_parameters():
                is_norm = "norm" in name.lower() and name.endswith("weight")
                parameter.copy_(torch.randn_like(parameter) * 0.02 + is_norm)
    return encoders


def demo_encoders(config: Config) -> tuple[FrozenEncoder, FrozenEncoder, Preprocessor]:
    """The demo's, with what prepares their inputs."""
    names = [resolve_checkpoint(name, Path.cwd()) for name in (config.encoders.image, config.encoders.text)]
    text_encoder = load_encoder(names[1], "text")
    preprocessor = Preprocessor(
        image_processor=load_image_processor(names[0]),
        tokenizer=load_tokenizer(names[1]),
        max_text_tokens=config.data.max_text_tokens or text_encoder.max_text_tokens,
    )
    return load_encoder(names[0], "image"), text_encoder, preprocessor
