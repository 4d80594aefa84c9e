"""Check a search before it starts: data, images, encoders, memory and time, without training anything to the end."""

import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nas.common.devices import CPU
from nas.common.errors import BudgetError
from nas.common.progress import Reporter
from nas.common.units import format_seconds
from nas.config.load import Arm
from nas.config.schema import Config
from nas.data.features.build import FeatureBuild
from nas.data.features.cache import open_or_build
from nas.data.features.inputs import FeatureSources
from nas.data.features.store import FeatureStore
from nas.data.features.threads import BuildLimits
from nas.data.samples import Dataset, Samples
from nas.execution.placement import Node, Placement, Share
from nas.memory.prediction import MemoryModel
from nas.models.class_texts import ClassTexts
from nas.models.fusion.supernet import build_model
from nas.run.checks import check_memory, mask_vocabulary
from nas.run.defaults import complete
from nas.run.phase_plan import least_seconds, plan_phases
from nas.run.prepare import predict_memory
from nas.run.progress_lines import plan_lines
from nas.run.sources import read_class_texts, read_sources
from nas.run.space_summary import describe_space
from nas.run.speed import TrainingSpeed
from nas.search.space import Architecture
from nas.training.pretraining.settings import PretrainingSettings
from nas.training.speed import EVALUATION_SECONDS, PRETRAINING_SECONDS, START_SECONDS, STEP_SECONDS, measure_speed

_TRAIN_BATCHES = 4
"""The number of training batches that speeds are measured with; of validation, one batch is enough."""


def check_arm(arm: Arm, source: str, cache_directory: Path, reporter: Reporter) -> None:
    """Check the search of an arm on this machine's processor, and show what it needs.

    Args:
        arm: The arm of a search file.
        source: The name of the search file, for messages.
        cache_directory: The cache, which remembers the images that were decoded.
        reporter: The receiver of what was found.

    Raises:
        NasError: If the search would be refused; names the key, the file or the row.
    """
    config = complete(arm.config, source=source, reporter=reporter)
    sources = read_sources(config, source=source, cache_directory=cache_directory, reporter=reporter)
    memory, default = predict_memory(config, source=source)
    check_memory(config, memory)
    describe_space(config, memory, default, reporter)
    reporter.note("")
    reporter.note(FeatureBuild(sources, config.features).plan.describe(config.features))
    with _few(sources, config.recipe.batch_size) as (few, folder):
        started = time.monotonic()
        store = open_or_build(
            few,
            config.features,
            folder,
            on_progress=lambda done, total: None,
            on_note=lambda note: None,
            limits=BuildLimits(torch.get_num_threads(), config.budget.memory_bytes),
        )
        share = _sample_count(sources.dataset) / _sample_count(few.dataset)
        seconds = share * (time.monotonic() - started)
        reporter.note(f"Computing them takes about {format_seconds(seconds)}, once for each data set")
        texts = read_class_texts(
            config, source, sources.text_encoder, sources.preprocessor, sources.dataset.class_names
        )
        speed = _measured_speed(config, sources, store, memory, default, texts)
    _show_plan(config, speed, len(sources.dataset.splits["train"]), reporter)


@contextmanager
def _few(sources: FeatureSources, batch_size: int) -> Iterator[tuple[FeatureSources, Path]]:
    """Yield the same sources with a few evenly distributed samples of each split, and a folder for their features."""
    with tempfile.TemporaryDirectory(prefix="pmf-nas-check-") as folder:
        splits = {
            name: _evenly(samples, batch_size * (_TRAIN_BATCHES if name == "train" else 1))
            for name, samples in sources.dataset.splits.items()
        }
        yield replace(sources, dataset=replace(sources.dataset, splits=splits)), Path(folder)


def _evenly(samples: Samples, count: int) -> Samples:
    kept = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(np.int64)).tolist()
    return Samples(
        images=tuple(samples.images[index] for index in kept),
        texts=tuple(samples.texts[index] for index in kept),
        labels=samples.labels[kept],
        places=tuple(samples.places[index] for index in kept) if samples.places else (),
    )


def _sample_count(dataset: Dataset) -> int:
    return sum(map(len, dataset.splits.values()))


def _measured_speed(
    config: Config,
    sources: FeatureSources,
    store: FeatureStore,
    memory: MemoryModel,
    default: Architecture,
    class_texts: ClassTexts | None,
) -> TrainingSpeed:
    """Return the speed of as many workers as a search has here, measured in one process with the threads of one."""
    share = _share(config, memory, default)
    threads = torch.get_num_threads()
    torch.set_num_threads(share.threads)
    try:
        model = build_model(
            image_encoder=sources.image_encoder,
            text_encoder=sources.text_encoder,
            architecture=default,
            num_classes=len(store.class_names),
            seed=0,
            class_texts=class_texts,
        )
        found = measure_speed(
            model,
            store.splits,
            config.recipe,
            batch_size=config.recipe.batch_size,
            pretraining=PretrainingSettings.of(
                config, type(default), mask_vocabulary(config, sources.preprocessor.tokenizer, config.name)
            ),
        )
    finally:
        torch.set_num_threads(threads)
    whole, few = sources.dataset.splits, store.splits
    return TrainingSpeed(
        step_seconds=found[STEP_SECONDS] * config.recipe.batch_size / min(config.recipe.batch_size, len(few["train"])),
        evaluation_seconds=found[EVALUATION_SECONDS] * len(whole["validation"]) / len(few["validation"]),
        process_count=share.worker_count,
        start_seconds=found.get(PRETRAINING_SECONDS, 0.0)
        + found[START_SECONDS] * len(whole["train"]) / len(few["train"]),
    )


def _share(config: Config, memory: MemoryModel, default: Architecture) -> Share:
    placement = Placement(
        worker_count=None,
        most_by_memory=config.budget.memory_bytes // memory.predict(default).peak_bytes,
        threads=config.threads if config.deterministic else None,
        device=CPU.type,
    )
    (share,) = placement.shares([Node("here", os.cpu_count() or 1, 0)])
    return share


def _show_plan(config: Config, speed: TrainingSpeed, train_samples: int, reporter: Reporter) -> None:
    """Show the division of the time budget.

    Raises:
        BudgetError: If it holds no full training of the default.
    """
    steps = config.recipe.step_count(train_samples)
    reporter.note(
        f"A full training of the default takes about {format_seconds(speed.full_seconds(steps))} ({steps} steps), with "
        f"{speed.process_count} at a time"
    )
    seconds = config.budget.time_seconds
    if seconds is None:
        return
    needed = least_seconds(config, speed, steps)
    if seconds < needed:
        raise BudgetError(
            f"budget.time: {format_seconds(seconds)} hold no full training of the default; expected at least "
            f"{format_seconds(math.ceil(needed))}"
        )
    for line in plan_lines(plan_phases(config, speed, full_steps=steps, tuned_steps=steps, spent_seconds=0.0), seconds):
        reporter.note(line)
