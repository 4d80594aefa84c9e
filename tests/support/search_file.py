"""The search file of the tests: small, and complete but for the data that it names."""

from pathlib import Path
from typing import Any

import yaml

from nas.config.load import parse_config
from nas.config.schema import Config

SEARCH = """
name: little
data: {manifest: manifest.csv, images: images, max_text_tokens: 8}
encoders: {image: ./vit, text: ./bert}
space:
  fusion_layer: [0, 1, 2]
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
  precision: float32
supernet: {steps: 12, checkpoint_steps: 4, sampling: balanced, architectures_per_step: 1}
search:
  strategy: evolution
  objective: accuracy
  proxy_metric: objective
  eval_batch: 2
  round_size: 4
  promotion_fraction: 0.5
  short_training_steps: 3
  finalists: 2
  rerun_seeds: 0
  evolution: {population: 4, parents: 2}
budget: {trials: 8, memory: 4GiB}
seed: 1
"""


def search_values(**changes: Any) -> dict[str, Any]:
    """Return the content of the file with some dotted keys changed: `search_values(**{"budget.trials": 3})`."""
    values: dict[str, Any] = yaml.safe_load(SEARCH)
    for path, value in changes.items():
        *sections, key = path.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[key] = value
    return values


def make_search_config(**changes: Any) -> Config:
    """Return the configuration of the file, as if it were in the folder `/project`, with some dotted keys changed."""
    return parse_config(search_values(**changes), source="search.yaml", base_directory=Path("/project"))
