"""Benchmark the feature store: building against the bare encoder forward, and reading against a training step.

The bare forward has its pixel values and token ids in memory and runs the same images and texts, in the same batches,
through the same layers. Building also hashes the weights, decodes and processes images, tokenizes, stores, and computes
checksums. Both alternate; ratios are medians over rounds. Images and texts are those of the demo; `--size base`
replaces the encoders of the demo with ViT-B and BERT-B with random weights.

Run: python -m benchmarks.feature_store [--size base|demo] [--json FILE] [--quick]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from benchmarks.models import DEMO, demo_encoders, random_encoders
from nas.config.load import load_config
from nas.config.schema import Config
from nas.data.contents import describe_contents, encoder_parts
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.digests import image_digests
from nas.data.features.cache import open_or_build
from nas.data.features.inputs import FeatureSources
from nas.data.features.store import FeatureStore
from nas.data.preprocessing import Preprocessor
from nas.data.samples import Dataset, Samples
from nas.memory.measurement import keep_freed_memory
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import resolve_checkpoint
from nas.models.encoders.pretrained import load_tokenizer
from nas.models.fusion.base import sizes_of
from nas.models.fusion.pmf.architecture import PMFArchitecture, entry_layers_from
from nas.models.fusion.supernet import build_model
from nas.run.tables import text_table
from nas.training.batches import BatchSchedule
from nas.training.losses import Loss
from nas.training.trainer import Trainer

BATCH = 32


@dataclass(frozen=True)
class Case:
    """The data and encoders that are measured.

    Args:
        config: The configuration of the demo.
        sources: The data and encoders of the feature store.
        fusion_layers: The first fusing layers of the stored models, ascending.
    """

    config: Config
    sources: FeatureSources
    fusion_layers: tuple[int, int, int]


def main() -> None:
    """Measure, print the figures as a table and, on request, write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("base", "demo"), default="base")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="24 samples, one round: shows that the script works")
    options = parser.parse_args()
    keep_freed_memory()  # speeds up both sides
    count = 24 if options.quick else 192 if options.size == "base" else None
    figures = measure(make_case(options.size, count), rounds=1 if options.quick else 5)
    print(text_table(("figure", "value"), [(name, f"{value:.4g}") for name, value in figures.items()]))
    if options.json:
        options.json.write_text(json.dumps({"size": options.size, **figures}, indent=1))


def make_case(size: str, count: int | None) -> Case:
    """Return the case of a size of encoders.

    Args:
        size: "base" or "demo".
        count: The number of training samples; None for all.
    """
    config = load_config(DEMO)
    image, text, preprocessor = base_encoders(config) if size == "base" else demo_encoders(config)
    dataset = read_dataset(config.data, ("train",))
    train = dataset.splits["train"]
    shallower = min(image.num_layers, text.num_layers)
    fusion_layers = (shallower - 3, shallower - 2, shallower - 1)
    dataset = Dataset(dataset.class_names, {"train": train if count is None else _first(train, count)})
    images = open_dataset_images(config.data)
    digests = image_digests(images, dataset.splits["train"].images, None)
    parts = encoder_parts((image, text), preprocessor, (size, size), cache_directory=None)
    sources = FeatureSources(
        dataset=dataset,
        images=images,
        preprocessor=preprocessor,
        image_encoder=image,
        text_encoder=text,
        entry_layers=frozenset(entry_layers_from(sizes_of(image, text), layer) for layer in fusion_layers),
        uses_attention=True,
        contents=describe_contents(dataset, digests, parts),
    )
    return Case(config, sources, fusion_layers)


def measure(case: Case, rounds: int) -> dict[str, float]:
    """Return the figures of the benchmark.

    Args:
        case: The data and encoders.
        rounds: The number of builds.
    """

    def build(directory: Path) -> FeatureStore:
        return open_or_build(
            case.sources,
            case.config.features,
            directory,
            on_progress=lambda done, total: None,
            on_note=lambda note: None,
        )

    bare = bare_forward(case)
    building, forward = [], []
    with tempfile.TemporaryDirectory() as directory:
        bare()  # warm-up
        for index in range(rounds):
            forward.append(seconds_of(bare))
            building.append(seconds_of(partial(build, Path(directory) / str(index))))
        store = build(Path(directory) / "0")
        reading, need = read_and_train(case, store)
        size_bytes = store.size_bytes
    return {
        "overhead_ratio": statistics.median(a / b for a, b in zip(building, forward, strict=True)),
        "building_seconds": statistics.median(building),
        "bare_forward_seconds": statistics.median(forward),
        "samples": len(case.sources.dataset.splits["train"]),
        "store_bytes": size_bytes,
        "read_samples_per_second": reading,
        "training_step_samples_per_second": need,
        "reading_share_of_a_step": need / reading,
    }


def bare_forward(case: Case, *, whole: bool = False) -> Callable[[], None]:
    """Return a function that runs the encoders on inputs in memory.

    Args:
        case: The data and encoders.
        whole: Whether to run all layers, as building does for the readouts; otherwise those up to the last entry layer.
    """
    sources, samples = case.sources, case.sources.dataset.splits["train"]
    image, text, preprocessor = sources.image_encoder, sources.text_encoder, sources.preprocessor
    names = list(dict.fromkeys(samples.images))
    pixels = [
        preprocessor.pixel_values([sources.images.open(name) for name in names[start : start + BATCH]])
        for start in range(0, len(names), BATCH)
    ]
    by_length = sorted(samples.texts, key=lambda entry: len(preprocessor.tokenize([entry])[0][0]))
    tokens = [preprocessor.tokenize(by_length[start : start + BATCH]) for start in range(0, len(by_length), BATCH)]
    last = entry_layers_from(sizes_of(image, text), case.fusion_layers[-1])
    image_stop, text_stop = (image.num_layers, text.num_layers) if whole else (last.image, last.text)
    assert image_stop is not None and text_stop is not None  # PMF uses both encoders

    def run() -> None:
        with torch.no_grad():
            for values in pixels:
                image.run(image.embed(values), None, start=0, stop=image_stop)
            for ids, mask in tokens:
                rows = text.embed(ids)
                text.run(rows, text.data_bias(mask, rows.shape[1], rows.dtype), start=0, stop=text_stop)

    return run


def _first(samples: Samples, count: int) -> Samples:
    return replace(samples, images=samples.images[:count], texts=samples.texts[:count], labels=samples.labels[:count])


def base_encoders(config: Config) -> tuple[Encoder, Encoder, Preprocessor]:
    """Return ViT-B and BERT-B with random weights, and a preprocessor for 224 × 224 pixels."""
    tokenizer = load_tokenizer(resolve_checkpoint(config.encoders.text, Path.cwd()))  # with the vocabulary of BERT
    processor = Preprocessor(image_processor=ViTImageProcessorPil(), tokenizer=tokenizer, max_text_tokens=128)
    return *random_encoders("base"), processor


def read_and_train(case: Case, store: FeatureStore) -> tuple[float, float]:
    """Return the samples per second read in random batches, and those used by a training step."""
    image, text = case.sources.image_encoder, case.sources.text_encoder
    split = store.splits["train"]
    schedule = BatchSchedule(len(split), BATCH, seed=0)
    steps = 60
    architecture = replace(PMFArchitecture.default(sizes_of(image, text)), fusion_layer=case.fusion_layers[1])
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

    read_all()  # warm-up
    reading = BATCH * steps / seconds_of(read_all)
    recipe = case.config.recipe
    trainer = Trainer(model=model, recipe=recipe, step_count=10, loss=Loss(None, recipe.label_smoothing))
    seconds = []
    for step in range(8):
        parts = list(schedule.select(split, step).read(model.entry_layers()))
        seconds.append(seconds_of(partial(trainer.step, step, parts, BATCH)))
    return reading, BATCH / statistics.median(np.array(seconds[2:]))


def seconds_of(work: Callable[[], object]) -> float:
    """Return the wall-clock time of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
