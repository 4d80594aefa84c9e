"""All that a search does with the samples of a data set, one phase after another, with the code of the search."""

import gc
import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import build_pmf, demo_encoders
from benchmarks.scaling.stopwatch import Stopwatch
from nas.config.load import load_config
from nas.config.schema import Config
from nas.data.contents import describe_contents, encoder_parts
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.digests import image_digests
from nas.data.duplicates import DuplicateFinder
from nas.data.features.build import FeatureBuild
from nas.data.features.cache import open_or_build
from nas.data.features.inputs import FeatureSources
from nas.data.features.store import FeatureStore
from nas.data.image_check import check_images
from nas.data.readers.base import load_reader
from nas.data.samples import SPLITS, Dataset
from nas.data.splits import hold_out_missing_splits
from nas.data.summary import summarize
from nas.data.text_check import check_texts
from nas.memory.measurement import private_bytes, release_freed_memory
from nas.models.fusion.base import sizes_of
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.sources import needed_entry_layers, resolve_checkpoints
from nas.search.space import EntryLayers
from nas.training.batches import BatchSchedule
from nas.training.evaluate import predict_logits
from nas.training.metrics import evaluate_logits, load_torchmetrics

_BATCH = 32
_EVALUATION_BATCH = 256
_READ_IMAGES = 500
_TEXTS = 1024


def measure_samples(count: int, search_file: Path, cache: Path) -> dict[str, Any]:
    """Measure every phase in this process.

    Args:
        count: The number of samples.
        search_file: The search file of the data set.
        cache: A folder for everything that is computed from the data, which does not exist.

    Returns:
        The figures of the phases, and the private memory of this process before them.
    """
    watch = Stopwatch()
    config = load_config(search_file)
    load_torchmetrics()
    first = private_bytes()
    _measure_splitting(config, watch)
    sources = _read(config, cache, watch)
    store = _build(config, sources, cache, watch)
    _use(store, sources, watch)
    return {
        "samples": count,
        "start_bytes": first,
        "phases": [asdict(phase) for phase in watch.phases],
        "store": str(store.directory),
    }


def _measure_splitting(config: Config, watch: Stopwatch) -> None:
    """Measure alone what reading the data set does after one another."""
    reader = load_reader(config.data)
    with watch.phase("read the manifest"):
        raw = reader.find_samples()
    samples = list(itertools.chain.from_iterable(raw.splits.values()))
    with watch.phase("find duplicates"):
        duplicates = DuplicateFinder(reader.open_images).find(samples)
    with watch.phase("split"):
        hold_out_missing_splits(raw.source, raw.splits, config.data.held_out, SPLITS, lambda some: duplicates)


def _read(config: Config, cache: Path, watch: Stopwatch) -> FeatureSources:
    """Read and check the data set as `nas.run.prepare` does."""
    image_encoder, text_encoder, preprocessor = demo_encoders(config)
    images = open_dataset_images(config.data)
    with watch.phase("read and check the data set"):
        whole = read_dataset(config.data, SPLITS)
    with watch.phase("check and count texts"):
        check_texts(whole, preprocessor)
        summarize(whole)
        for samples in whole.splits.values():
            for start in range(0, len(samples), _TEXTS):
                preprocessor.truncated_count(samples.texts[start : start + _TEXTS])
    with watch.phase("hash the images"):
        names = (name for samples in whole.splits.values() for name in samples.images)
        digests = image_digests(images, names, cache)
    with watch.phase("look the hashes up"):
        image_digests(images, list(digests), cache)
    with watch.phase("decode every image"):
        if check_images(images, digests, cache, lambda done, total: None).unreadable:
            raise SystemExit("some images are unreadable; expected none")
    dataset = Dataset(whole.class_names, {split: whole.splits[split] for split in ("train", "validation")})
    encoders = (image_encoder, text_encoder)
    parts = encoder_parts(encoders, preprocessor, resolve_checkpoints(config), cache)
    with watch.phase("describe the contents"):
        contents = describe_contents(dataset, digests, parts)
        contents.summary()
        contents.data_as_dict()
    return FeatureSources(
        dataset=dataset,
        images=images,
        preprocessor=preprocessor,
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        entry_layers=frozenset(needed_entry_layers(config.space, sizes_of(*encoders))),
        uses_attention=False,
        contents=contents,
    )


def _build(config: Config, sources: FeatureSources, cache: Path, watch: Stopwatch) -> FeatureStore:
    with watch.phase("plan the features"):
        FeatureBuild(sources, config.features)
    with watch.phase("build the features"):
        return open_or_build(
            sources, config.features, cache, on_progress=lambda done, total: None, on_note=lambda note: None
        )


def _use(store: FeatureStore, sources: FeatureSources, watch: Stopwatch) -> None:
    """Measure an epoch of batches, and an evaluation."""
    encoders = (sources.image_encoder, sources.text_encoder)
    (entry_layers,) = sources.entry_layers
    train, validation = store.splits["train"], store.splits["validation"]
    with watch.phase("an epoch of batches"):
        schedule = BatchSchedule(len(train), _BATCH, seed=0)
        for step in range(schedule.steps_per_epoch):
            list(schedule.select(train, step).read(entry_layers))
    default = PMFArchitecture.default(sizes_of(*encoders))
    model = build_pmf(encoders, default, num_classes=len(store.class_names), seed=0)
    with watch.phase("evaluate on validation"):
        logits = predict_logits(model, validation, batch_size=_EVALUATION_BATCH)
        evaluate_logits(logits, torch.from_numpy(validation.labels))
    with watch.phase("read all readouts"):
        train.readouts("pooled", "mean")


def read_alone(search_file: Path, store: Path) -> dict[str, int]:
    """Read some images and features in a process of its own, and return its private memory before, opened, and after.

    Args:
        search_file: The search file.
        store: The folder of the features.
    """
    config = load_config(search_file)
    names = [sample.image for sample in load_reader(config.data).find_samples().splits["train"][:_READ_IMAGES]]
    gc.collect()
    release_freed_memory()
    found = {"start": private_bytes()}
    images, features = open_dataset_images(config.data), FeatureStore(store)
    if images.is_missing(names[0]):
        raise SystemExit(f"{names[0]} is missing")
    release_freed_memory()
    found["opened"] = private_bytes()
    for name in names:
        images.open(name)
    split = features.splits["train"]
    schedule = BatchSchedule(len(split), _BATCH, seed=0)
    (image,), (text,) = features.contents.token_layers["image"], features.contents.token_layers["text"]
    for step in range(min(schedule.steps_per_epoch, _READ_IMAGES)):
        list(schedule.select(split, step).read(EntryLayers(image, text)))
    release_freed_memory()
    return {**found, "read": private_bytes()}
