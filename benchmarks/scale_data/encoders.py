"""Encoders of any depth that compute next to nothing."""

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, BertTokenizer, ViTConfig, ViTModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from benchmarks.scale_data.samples import PICTURE_SIZE, WORDS
from nas.models.encoders.pretrained import silence_transformers

_HIDDEN = 16


def write_encoders(folder: Path, layers: int) -> tuple[Path, Path]:
    """Write a ViT for pictures of 16×16 and a BERT for the generated texts, with random weights.

    Args:
        folder: The folder of both.
        layers: The number of layers of each.

    Returns:
        The folders of the image and of the text encoder.
    """
    silence_transformers()
    torch.manual_seed(1)
    shared: dict[str, Any] = {
        "num_attention_heads": 2,
        "hidden_size": _HIDDEN,
        "intermediate_size": 2 * _HIDDEN,
        "num_hidden_layers": layers,
    }
    vit: Any = ViTModel(ViTConfig(image_size=PICTURE_SIZE, patch_size=8, **shared), add_pooling_layer=False)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    bert_config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=512, **shared)
    bert: Any = BertModel(bert_config, add_pooling_layer=False)
    image, text = folder / "vit", folder / "bert"
    vit.save_pretrained(image)
    bert.save_pretrained(text)
    size = {"height": PICTURE_SIZE, "width": PICTURE_SIZE}
    statistics: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    ViTImageProcessorPil(size=size, **statistics).save_pretrained(image)
    names = folder / "vocabulary.txt"
    names.write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizer(vocab=str(names)).save_pretrained(text)
    names.unlink()
    return image, text
