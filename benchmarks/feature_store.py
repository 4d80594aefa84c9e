"""The feature store: building against the bare encoder forward, and reading against what a training step needs.

The bare forward has its pixel values and token ids in memory already and goes over the same images and texts, in the
same batches, through the same layers. Building does all the rest as well: it hashes the weights, decodes and processes
images, tokenises, stores, and computes checksums. Both alternate; ratios are medians of rounds. The images and texts
are the demo's; `--size base` puts ViT-B and BERT-B with random weights in the place of the demo's encoders.

Run: python -m benchmarks.feature_store [--size base|demo] [--json FILE] [--quick]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from benchmarks.models import DEMO, demo_encoders, random_encoders
from nas.config.load import load_config
from nas.config.schema import Config
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.features.cache import open_or_build
from nas.data.features.inputs import FeatureSources
from nas.data.features.store import FeatureStore
from nas.data.preprocessing import Preprocessor
from nas.data.samples import Dataset, Samples
from nas.memory.measurement import keep_freed_memory
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import load_tokenizer, resolve_checkpoint
from nas.models.fusion.base import sizes_of
from nas.models.fusion.pmf.architecture import PMFArchitecture, entry_layers_from
from nas.models.fusion.supernet import build_model
from nas.run.tables import text_table
from nas.training.batches import BatchSchedule
from nas.training.losses import Loss
from nas.training.trainer import Trainer

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("base", "demo"), default="base")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="24 samples, one round: shows that the script works")
    options = parser.parse_args()
    keep_freed_memory()  # both sides gain
    config = load_config(DEMO)
    image, text, preprocessor = base_encoders(config) if options.size == "base" else demo_encoders(config)
    count = 24 if options.quick else 192 if options.size == "base" else None
    samples = read_dataset(config.data, ("train",))
    train = samples.splits["train"]
    chosen = train if count is None else _first(train, count)
    dataset = Dataset(samples.class_names, {"train": chosen})
    images = open_dataset_images(config.data)
    shallower = min(image.num_layers, text.num_layers)
    fusion_layers = (shallower - 3, shallower - 2, shallower - 1)

    sources = FeatureSources(
        dataset=dataset,
        images=images,
        preprocessor=preprocessor,
        image_encoder=image,
        text_encoder=text,
        entry_layers=frozenset(entry_layers_from(sizes_of(image, text), layer) for layer in fusion_layers),
        uses_attention=True,
    )

    def build(directory: Path) -> FeatureStore:
        return open_or_build(
            sources,
            config.features,
            directory,
            on_progress=lambda done, total: None,
            on_note=lambda note: None,
        )

    names = list(dict.fromkeys(chosen.images))
    pixels = [
        preprocessor.pixel_values([images.open(name) for name in names[start : start + BATCH]])
        for start in range(0, len(names), BATCH)
    ]
    by_length = sorted(chosen.texts, key=lambda entry: len(preprocessor.tokenize([entry])[0][0]))
    tokens = [preprocessor.tokenize(by_length[start : start + BATCH]) for start in range(0, len(by_length), BATCH)]
    stops = entry_layers_from(sizes_of(image, text), fusion_layers[-1])

    def bare() -> None:
        with torch.no_grad():
            for values in pixels:
                image.run(image.embed(values), None, start=0, stop=stops.image)
            for ids, mask in tokens:
                rows = text.embed(ids)
                text.run(rows, text.data_bias(mask, rows.shape[1], rows.dtype), start=0, stop=stops.text)

    building, forward = [], []
    with tempfile.TemporaryDirectory() as directory:
        bare()  # a warm-up
        for index in range(1 if options.quick else 5):
            forward.append(seconds_of(bare))
            building.append(seconds_of(lambda index=index: build(Path(directory) / str(index))))  # type: ignore[misc]
        store = build(Path(directory) / "0")
        reading, need = read_and_train(config, store, image, text, fusion_layers[1])
        size_bytes = store.size_bytes
    figures = {
        "overhead_ratio": statistics.median(a / b for a, b in zip(building, forward, strict=True)),
        "building_seconds": statistics.median(building),
        "bare_forward_seconds": statistics.median(forward),
        "samples": len(chosen),
        "store_bytes": size_bytes,
        "read_samples_per_second": reading,
        "training_step_samples_per_second": need,
        "reading_share_of_a_step": need / reading,
    }
    print(text_table(("figure", "value"), [(name, f"{value:.4g}") for name, value in figures.items()]))
    if options.json:
        options.json.write_text(json.dumps({"size": options.size, **figures}, indent=1))


def _first(samples: Samples, count: int) -> Samples:
    return replace(samples, images=samples.images[:count], texts=samples.texts[:count], labels=samples.labels[:count])


def base_encoders(config: Config) -> tuple[Encoder, Encoder, Preprocessor]:
    """ViT-B and BERT-B with random weights; images are processed for 224 × 224."""
    tokenizer = load_tokenizer(resolve_checkpoint(config.encoders.text, Path.cwd()))  # BERT's own vocabulary
    processor = Preprocessor(image_processor=ViTImageProcessorPil(), tokenizer=tokenizer, max_text_tokens=128)
    return *random_encoders("base"), processor


def read_and_train(
    config: Config, store: FeatureStore, image: Encoder, text: Encoder, fusion_layer: int
) -> tuple[float, float]:
    """Samples a second: read in random batches, and used up by a training step."""
    split = store.splits["train"]
    schedule = BatchSchedule(len(split), BATCH, seed=0)
    steps = 60
    architecture = replace(PMFArchitecture.default(sizes_of(image, text)), fusion_layer=fusion_layer)
    model = build_model(
        image_encoder=image,
        text_encoder=text,
        architecture=architecture,
        num_classes=len(store.class_names),
        seed=0,
    )

    def read_all() -> None:
        for step in range(steps):
            list(schedule.select(split, step).read(model.entry_layers()))

    read_all()  # a warm-up
    reading = BATCH * steps / seconds_of(read_all)
    trainer = Trainer(model=model, recipe=config.recipe, step_count=10, loss=Loss(None, config.recipe.label_smoothing))
    seconds = []
    for step in range(8):
        parts = list(schedule.select(split, step).read(model.entry_layers()))
        seconds.append(seconds_of(lambda parts=parts, step=step: trainer.step(step, parts, BATCH)))  # type: ignore[misc]
    return reading, BATCH / statistics.median(np.array(seconds[2:]))


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
