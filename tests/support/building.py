"""Build the features of the tiny project: in a test, or in a separate process that a test may kill.

`python -m tests.support.building PROJECT CACHE HOLD` pauses after its second block until the file HOLD is deleted.
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nas.config.data_schema import FeaturesConfig
from nas.config.load import load_config
from nas.data.contents import Contents, describe_contents, encoder_parts
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.digests import image_digests
from nas.data.features import blocks as feature_blocks
from nas.data.features import inputs as feature_inputs
from nas.data.features.cache import open_or_build
from nas.data.features.helpers import BuildHelpers
from nas.data.features.inputs import FeatureSources
from nas.data.features.store import FeatureStore
from nas.data.features.threads import BuildLimits
from nas.data.preprocessing import Preprocessor
from nas.models.encoders.checkpoints import load_encoder
from nas.models.encoders.pretrained import load_image_processor, load_tokenizer
from tests.support.project import Project
from tests.support.tiny import reads_at


def feature_sources(project: Project) -> FeatureSources:
    """Return the data and the encoders of a project, for models that start to fuse at layers 0, 1 and 2."""
    config = load_config(project.root / "search.yaml")
    sources = FeatureSources(
        dataset=read_dataset(config.data, ("train", "validation")),
        images=open_dataset_images(config.data),
        preprocessor=Preprocessor(
            image_processor=load_image_processor(config.encoders.image),
            tokenizer=load_tokenizer(config.encoders.text),
            max_text_tokens=8,
        ),
        image_encoder=load_encoder(config.encoders.image, "image"),
        text_encoder=load_encoder(config.encoders.text, "text"),
        entry_layers=frozenset(reads_at(layer) for layer in (0, 1, 2)),
        uses_attention=True,
        contents=Contents({}, (), {}),
    )
    return described(sources)


def described(sources: FeatureSources, **changes: Any) -> FeatureSources:
    """Return sources with some fields changed and the description of their present content."""
    changed = dataclasses.replace(sources, **changes)
    names = [name for samples in changed.dataset.splits.values() for name in samples.images]
    encoders = (changed.image_encoder, changed.text_encoder)
    parts = encoder_parts(encoders, changed.preprocessor, ("image", "text"), cache_directory=None)
    contents = describe_contents(changed.dataset, image_digests(changed.images, names, None), parts)
    return dataclasses.replace(changed, contents=contents)


def build(
    sources: FeatureSources,
    cache: Path,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_note: Callable[[str], None] = lambda text: None,
    limits: BuildLimits | None = None,
    helpers: BuildHelpers | None = None,
    **changes: Any,
) -> FeatureStore:
    """Open or build the features of some sources.

    Args:
        sources: The data and the encoders.
        cache: The cache directory.
        on_progress: Callback that receives the numbers of images and texts done and in total.
        on_note: Callback that receives notes for the user.
        limits: The cores and the memory that the build may use; None for one core.
        helpers: What else computes; None for nothing.
        changes: Values of `FeaturesConfig` other than the defaults of these tests.
    """
    features = FeaturesConfig(dtype="float16", disk_bytes=2**30, views=1, attention=False)
    return open_or_build(
        sources,
        features.replace(**changes),
        cache,
        on_progress=on_progress,
        on_note=on_note,
        limits=limits,
        helpers=helpers,
    )


def content(store: FeatureStore) -> dict[str, bytes]:
    """Return the content of all files of a store."""
    return {name: (store.directory / name).read_bytes() for name in store.contents.files}


def finished_blocks(building: Path) -> int:
    """Return the number of blocks that a build has recorded."""
    return sum(path.read_bytes().count(b"\n") for path in building.glob("blocks/*.finished"))


def main(project: str, cache: str, hold: str) -> None:
    """Build in this process, and pause after the second block until the file `hold` is deleted."""
    torch.set_num_threads(1)
    feature_blocks.SAVE_SECONDS, feature_inputs.BLOCK_SIZE = 0.0, feature_inputs.BATCH_SIZE

    def wait(done: int, total: int) -> None:
        while done > 32 and Path(hold).exists():
            time.sleep(0.02)

    build(feature_sources(Project(Path(project))), Path(cache), on_progress=wait)


if __name__ == "__main__":
    main(*sys.argv[1:])
