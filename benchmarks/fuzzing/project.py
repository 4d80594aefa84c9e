"""A small valid project: a data set in several formats, two encoders, a search file, a finished run and its model."""

import csv
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BertConfig, BertModel, BertTokenizer, ViTConfig, ViTModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from nas.models.encoders.pretrained import silence_transformers

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40)}
WORDS = ("apple", "boat", "cat", "dog", "egg", "fox", "grün", "海")
SAMPLES = 20
MANIFESTS = {"manifest.csv": ",", "manifest.tsv": "\t", "manifest.jsonl": None}
SEARCH = """\
name: little
data: {manifest: manifest.csv, images: images, max_text_tokens: 8}
encoders: {image: ./vit, text: ./bert}
space:
  fusion_layer: [0, 1]
  query_prompts: [1, 2]
  query_context_prompts: [0, 2]
  fusion_context_prompts: [0, 1]
  mapping_width: [4, 8]
recipe:
  optimizer: adamw
  learning_rates: {prompts: 1e-2, mappings: 1e-2, classifiers: 1e-2}
  weight_decay: 1e-4
  schedule: cosine
  warmup_fraction: 0.1
  clip_norm: 1.0
  batch_size: 8
  epochs: 2
supernet: {steps: 2, checkpoint_steps: 4, sampling: balanced, architectures_per_step: 1}
search:
  strategy: evolution
  objective: accuracy
  proxy_metric: objective
  eval_batch: 2
  round_size: 2
  promotion_fraction: 0.5
  short_training_steps: 1
  finalists: 1
  rerun_seeds: 0
  evolution: {population: 4, parents: 2}
budget: {trials: 2, memory: 4GiB}
seed: 1
"""


def build_project(root: Path) -> None:
    """Write the data set, the encoders and the search file.

    Args:
        root: The folder of the project, which does not exist yet.
    """
    (root / "images").mkdir(parents=True)
    generator = random.Random(0)
    rows = []
    for index in range(SAMPLES):
        label = list(COLOURS)[index % 2]
        name = f"{index:02}.{('png', 'jpg', 'webp')[index % 3]}"
        noisy = tuple(min(max(value + generator.randint(-25, 25), 0), 255) for value in COLOURS[label])
        Image.new("RGB", (20, 24), noisy).save(root / "images" / name)
        text = " ".join(generator.choices(WORDS, k=generator.randint(1, 5)))
        split = ("train", "train", "train", "validation", "test")[index // 2 % 5]
        rows.append({"image": name, "text": text, "label": label, "split": split})
    for name, delimiter in MANIFESTS.items():
        with (root / name).open("w", encoding="utf-8", newline="") as file:
            if delimiter is None:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            else:
                writer = csv.DictWriter(file, ["image", "text", "label", "split"], delimiter=delimiter)
                writer.writeheader()
                writer.writerows(rows)
    with zipfile.ZipFile(root / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((root / "images").iterdir()):
            archive.write(path, path.name)
    _write_encoders(root)
    (root / "search.yaml").write_text(SEARCH, encoding="utf-8")


def _write_encoders(root: Path) -> None:
    silence_transformers()
    torch.manual_seed(1)
    shared: dict[str, Any] = {"num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    vit: Any = ViTModel(ViTConfig(num_hidden_layers=3, image_size=16, patch_size=8, **shared), add_pooling_layer=False)
    bert: Any = BertModel(
        BertConfig(num_hidden_layers=3, vocab_size=50, max_position_embeddings=20, **shared), add_pooling_layer=False
    )
    for model, name in ((vit, "vit"), (bert, "bert")):
        model.save_pretrained(root / name)
    statistics: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    ViTImageProcessorPil(size={"height": 16, "width": 16}, **statistics).save_pretrained(root / "vit")
    vocabulary = root / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]), encoding="utf-8")
    BertTokenizer(vocab=str(vocabulary)).save_pretrained(root / "bert")
    vocabulary.unlink()
