"""Build the little project's features: in a test, or in a process of its own that a test may kill.

`python -m tests.support.building PROJECT CACHE HOLD` stops behind its second step until the file HOLD is gone.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nas.config.load import load_config
from nas.config.schema import FeaturesConfig
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.features import writer as feature_writing
from nas.data.features.cache import open_or_build
from nas.data.features.store import FeatureStore
from nas.data.preprocessing import Preprocessor
from nas.models.encoders.checkpoints import load_encoder, load_image_processor, load_tokenizer
from tests.support.project import Project
from tests.support.tiny import reads_at


def parts(project: Project) -> dict[str, Any]:
    """Everything that `open_or_build` takes besides how features are stored, and where."""
    config = load_config(project.root / "search.yaml")
    return {
        "dataset": read_dataset(config.data, ("train", "validation")),
        "images": open_dataset_images(config.data),
        "preprocessor": Preprocessor(
            image_processor=load_image_processor(config.encoders.image),
            tokenizer=load_tokenizer(config.encoders.text),
            max_text_tokens=8,
        ),
        "image_encoder": load_encoder(config.encoders.image, "image"),
        "text_encoder": load_encoder(config.encoders.text, "text"),
        "reads": [reads_at(layer) for layer in (0, 1, 2)],
        "has_attention": True,
    }


def features_config(**changes: Any) -> FeaturesConfig:
    """Defaults of a search file, with some changed."""
    return FeaturesConfig(**({"dtype": "float16", "disk_bytes": 2**30, "views": 1, "attention": False} | changes))


def build(
    given: dict[str, Any],
    cache: Path,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_note: Callable[[str], None] = lambda text: None,
    **changes: Any,
) -> FeatureStore:
    """Features of the parts, stored with some settings changed."""
    return open_or_build(
        **given,
        features=features_config(**changes),
        cache_directory=cache,
        on_progress=on_progress,
        on_note=on_note,
    )


def main(project: str, cache: str, hold: str) -> None:
    torch.set_num_threads(1)
    feature_writing.CHECKPOINT_SECONDS = 0.0

    def wait(done: int, total: int) -> None:
        while done > 32 and Path(hold).exists():
            time.sleep(0.02)

    build(parts(Project(Path(project))), Path(cache), on_progress=wait)


if __name__ == "__main__":
    main(*sys.argv[1:])
