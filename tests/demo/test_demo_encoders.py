"""The demo encoders load and have the stated architecture; `.ci/run` checks their accuracy against their card."""

from __future__ import annotations

import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTModel

from demo.probe import IMAGE_ENCODER
from demo.text_encoder import encode_texts, text_encoder_directory


def test_image_encoder_has_the_stated_architecture() -> None:
    """It has 12 layers of hidden size 192, 65 tokens, finite half-precision weights, and no pooling layer."""
    model = ViTModel.from_pretrained(IMAGE_ENCODER, add_pooling_layer=False)
    assert model.dtype == torch.float16
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (12, 192)
    assert all(torch.isfinite(weights).all() for weights in model.parameters())
    processor = AutoImageProcessor.from_pretrained(IMAGE_ENCODER, backend="pil")
    pixels = processor(images=Image.new("RGB", (100, 50), "white"), return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, torch.ones(1, 3, 64, 64))
    assert model.float()(pixels).last_hidden_state.shape == (1, 65, 192)


def test_text_encoder_ignores_padding() -> None:
    """A text has the same features alone and in a batch with a longer one."""
    assert (text_encoder_directory() / "tokenizer.json").is_file()
    alone = encode_texts(["lion"])
    padded = encode_texts(["lion", "a much longer title of some other drawing"])
    assert alone.shape == (1, 384)
    assert torch.allclose(alone[0], padded[0], atol=1e-4)
