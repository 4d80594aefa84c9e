"""A complete small project on disk: images, manifest, encoder checkpoints and a search file.

The checkpoints are `vit`, `bert`, and `clip` with both encoders and their projections.
"""

import csv
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from transformers import BertTokenizer
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.support.search_file import SEARCH, search_values
from tests.support.tiny import bert_model, vit_model
from tests.support.tiny_families import clip_model

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 210)}
WORDS = ("apple", "boat", "cat", "dog", "egg", "fox")


@dataclass(frozen=True)
class Project:
    """Paths of the small project."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.csv"

    @property
    def images(self) -> Path:
        return self.root / "images"

    def values(self, **changes: Any) -> dict[str, Any]:
        """Return the search file with some dotted keys changed: `values(**{"budget.trials": 3})`."""
        return search_values(**changes)

    def write(self, name: str = "search.yaml", **changes: Any) -> Path:
        """Write a search file with some dotted keys changed; returns its path."""
        path = self.root / name
        path.write_text(yaml.safe_dump(self.values(**changes)))
        return path


def build_project(root: Path, samples: int = 60, colour_noise: int = 25) -> Project:
    """Write the project; the label is the colour of the image, and texts are unrelated to it.

    Args:
        root: The folder of the project.
        samples: The number of samples of all splits.
        colour_noise: The largest deviation of an image's colour, out of 255: with 25 every model is soon perfect, with
            200 colours are confused and scores differ.
    """
    root.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    (root / "images").mkdir()
    rows = []
    for index in range(samples):
        colour = list(COLOURS)[index % 3]
        name = f"{index:03}.png"
        pixels = tuple(
            min(max(value + generator.randint(-colour_noise, colour_noise), 0), 255) for value in COLOURS[colour]
        )
        Image.new("RGB", (20, 20), pixels).save(root / "images" / name)
        text = " ".join(generator.choices(WORDS, k=generator.randint(1, 5)))
        split = ("train", "train", "train", "validation", "test")[index // 3 % 5]
        rows.append({"image": name, "text": text, "label": colour, "split": split})
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "text", "label", "split"])
        writer.writeheader()
        writer.writerows(rows)
    vit_model(num_layers=4, dtype=torch.float32).save_pretrained(root / "vit")
    ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(
        root / "vit"
    )
    bert_model(num_layers=3, dtype=torch.float32).save_pretrained(root / "bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (root / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(vocab=str(root / "vocab.txt")).save_pretrained(root / "bert")
    clip_model(vocabulary=len(vocabulary), end=vocabulary.index("[SEP]")).save_pretrained(root / "clip")
    for name in ("vit/preprocessor_config.json", "bert/tokenizer.json", "bert/tokenizer_config.json"):
        shutil.copy(root / name, root / "clip")
    (root / "search.yaml").write_text(SEARCH)
    return Project(root)
