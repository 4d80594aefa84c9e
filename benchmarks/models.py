"""Encoders, models and data that several benchmarks share."""

import argparse
import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, ViTConfig

from nas.common.devices import AUTO, CPU, accelerator, precision_of
from nas.common.files import write_atomically
from nas.common.precision import PRECISION_CHOICES
from nas.config.load import load_config
from nas.config.schema import Config
from nas.config.space_schema import NUM_LAYERS, space_as_dict
from nas.data.preprocessing import Preprocessor
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import build_encoder, load_encoder, resolve_checkpoint
from nas.models.encoders.pretrained import load_image_processor, load_tokenizer
from nas.models.fusion.pmf.architecture import GENES, PMFArchitecture
from nas.models.fusion.pmf.model import PMF
from nas.models.fusion.supernet import build_model
from nas.search.space import SearchSpace

DEMO = Path(__file__).resolve().parent.parent / "search_spaces" / "demo.yaml"
SIZES: dict[str, dict[str, Any]] = {
    "base": {},
    "tiny": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
"""The settings that ViT and BERT of a size share and that differ from the defaults of transformers."""

_AS_BEFORE = (("steps", None), ("classifier_start", "random"), ("precision", "float32"), ("precision", AUTO))
"""Keys of the recipe that are newer than recorded figures, with the value that all figures before had."""


def empty_encoders(size: str) -> tuple[Encoder, Encoder]:
    """Build ViT and BERT with uninitialized weights."""
    values = {"attn_implementation": "sdpa", **SIZES[size]}
    return build_encoder(ViTConfig(**values)), build_encoder(BertConfig(**values))


def random_encoders(size: str) -> tuple[Encoder, Encoder]:
    """Build ViT and BERT with random weights of standard deviation 0.02."""
    torch.manual_seed(0)
    encoders = empty_encoders(size)
    with torch.no_grad():
        for encoder in encoders:
            for name, parameter in encoder.named_parameters():
                is_norm = "norm" in name.lower() and name.endswith("weight")
                parameter.copy_(torch.randn_like(parameter) * 0.02 + is_norm)
    return encoders


def demo_encoders(config: Config) -> tuple[Encoder, Encoder, Preprocessor]:
    """Load the encoders of the demo and the preprocessor of their inputs."""
    names = [resolve_checkpoint(name, Path.cwd()) for name in (config.encoders.image, config.encoders.text)]
    text_encoder = load_encoder(names[1], "text")
    preprocessor = Preprocessor(
        image_processor=load_image_processor(names[0]),
        tokenizer=load_tokenizer(names[1]),
        max_text_tokens=config.data.max_text_tokens or text_encoder.max_text_tokens,
    )
    return load_encoder(names[0], "image"), text_encoder, preprocessor


def build_pmf(encoders: tuple[Encoder, Encoder], architecture: PMFArchitecture, *, num_classes: int, seed: int) -> PMF:
    """Build a PMF model with random initial weights."""
    image, text = encoders
    model = build_model(
        image_encoder=image, text_encoder=text, architecture=architecture, num_classes=num_classes, seed=seed
    )
    assert isinstance(model, PMF)
    return model


def papers_space(space: SearchSpace) -> SearchSpace:
    """Return the part of a space of PMF with the paper's readouts: the space of PMF-Bench, and of figures about it."""
    choices = {gene: space.choices[gene] for gene in GENES}
    return SearchSpace(space.architecture_class, choices, space.granularity, space.num_layers)


def plain_space(space: SearchSpace) -> dict[str, Any]:
    """Return a space with the paper's readouts as a search file stated it before there were others."""
    return {key: value for key, value in space_as_dict(space).items() if key in (*GENES, NUM_LAYERS)}


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add the option `--precision` of a benchmark that trains."""
    parser.add_argument(
        "--precision", choices=PRECISION_CHOICES, default=AUTO, help="auto: what the device is fast at (default)"
    )


def in_precision(config: Config, choice: str) -> Config:
    """Return a configuration with the precision of `--precision` for the device of this machine."""
    precision = precision_of(choice, accelerator() or CPU)
    return config.replace(recipe=config.recipe.replace(precision=precision))


def decisive_recipe(config: Config) -> dict[str, Any]:
    """Return the recipe of a configuration without newer keys that change nothing: recorded figures stay valid."""
    values: dict[str, Any] = config.as_dict()["recipe"]
    return {key: value for key, value in values.items() if (key, value) not in _AS_BEFORE}


def few_samples(directory: Path) -> Config:
    """Return the demo's configuration with four samples of each class and split, and two steps of short training."""
    config = load_config(DEMO)
    manifest, columns = directory / "few.csv", config.data.columns
    with Path(config.data.location).open(newline="") as file:
        rows = list(csv.DictReader(file))
    taken: Counter[tuple[str, str]] = Counter()
    kept = []
    for row in rows:
        place = row[columns.split or ""], row[columns.label]
        taken[place] += 1
        if taken[place] <= 4:
            kept.append(row)
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(kept)
    data = config.data.replace(manifest=str(manifest.resolve()))
    return config.replace(data=data, search=config.search.replace(short_training_steps=2))


def write_figures(path: Path | None, figures: dict[str, Any]) -> None:
    """Write the file of `--json`, if there is one; a killed run leaves the previous file intact."""
    if path is not None:
        write_atomically(path, json.dumps(figures, indent=1).encode())
