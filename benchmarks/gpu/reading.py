"""Measure the share of training steps that is spent waiting for batches which are read from the memory map.

Features are stored at every entry layer, at the lowest one only, and at every layer in 8 bits. Batches of random
samples are read by the code of the workers: on an accelerator a thread reads the next one into pinned memory while the
device computes, on the CPU a batch is read when it is needed. The host waits for the device after each step, so that
all waiting for a batch is time in which the device computes nothing. Stated, too, is how long it takes to read a batch
while nothing else runs. The files are in the page cache. Pictures and texts are those of the demo, the encoders ViT-B
and BERT-B with random weights, the steps those of PMF that fuses the last two layers, in batches of 32.

Run: python -m benchmarks.gpu.reading [--device cuda] [--short] [--json FILE]
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.feature_store import BATCH, Case, make_case, seconds_of
from benchmarks.gpu.part import Part, run_part
from nas.common.devices import fast_precision, is_accelerator, synchronize
from nas.config.choices import FeatureDtype, FeatureStorage
from nas.data.features.cache import open_or_build
from nas.data.features.store import FeatureSplit, FeatureStore
from nas.data.features.threads import BuildLimits
from nas.models.encoders.partial_checkpoint import load_tail, save_tail
from nas.models.fusion.base import FusionModel, sizes_of
from nas.models.fusion.pmf.architecture import PMFArchitecture, entry_layers_from
from nas.models.fusion.supernet import build_model
from nas.run.tables import text_table
from nas.training.batches import BatchRead, BatchSchedule, read_ahead
from nas.training.losses import Loss
from nas.training.trainer import Trainer

BAR = 0.05
"""The largest share of a step that an accelerator may wait for its batch."""


@dataclass(frozen=True)
class Way:
    """A way to store features.

    Args:
        storage: The layers whose tokens are stored.
        dtype: The storage type.
    """

    storage: FeatureStorage
    dtype: FeatureDtype


WAYS = {
    "every layer, float16": Way("every_layer", "float16"),
    "lowest layer, float16": Way("lowest_layer", "float16"),
    "every layer, int8": Way("every_layer", "int8"),
}


def measure(part: Part) -> bool:
    """Measure all ways to store, print a table, and return whether an accelerator waits for too long."""
    count, steps = (32, 2) if part.is_short else (1024 if is_accelerator(part.device) else 96, 40)
    case = make_case("demo" if part.is_short else "base", count)
    case = replace(case, sources=replace(case.sources, device=part.device))
    settings = {"samples": count, "batch": BATCH, "steps": steps, "precision": fast_precision(part.device)}
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for text, way in WAYS.items():
            with _training(case, way, Path(name)) as (trainer, split):
                found[text] = _measure_steps(trainer, split, steps)
            part.write({**settings, "ways": found})
    rows = [
        (
            text,
            f"{figures['read_seconds'] * 1e3:.2f}",
            f"{figures['step_seconds'] * 1e3:.2f}",
            f"{figures['waiting_share']:.1%}",
        )
        for text, figures in found.items()
    ]
    print(text_table(("stored", "ms to read a batch", "ms a step", "of it waiting"), rows))
    if not is_accelerator(part.device):
        print("The CPU reads a batch when it needs it; the bar is for accelerators.")
        return False
    return part.missed(
        {
            f"{text}: waiting {figures['waiting_share']:.1%} of a step, at most {BAR:.0%}": figures["waiting_share"]
            <= BAR
            for text, figures in found.items()
        }
    )


@contextmanager
def _training(case: Case, way: Way, directory: Path) -> Iterator[tuple[Trainer, FeatureSplit]]:
    """Build the features, and yield the training of a model with the weights that a worker holds, and its samples.

    Args:
        case: The data and encoders.
        way: The way to store features.
        directory: The folder of caches and weights.
    """
    sources, device = case.sources, case.sources.device
    config = case.config.features.replace(storage=way.storage, dtype=way.dtype, attention=False, disk_bytes=2**40)
    built = open_or_build(
        sources,
        config,
        directory,
        on_progress=lambda done, total: None,
        on_note=lambda note: None,
        limits=BuildLimits(torch.get_num_threads(), case.config.budget.memory_bytes),
    )
    precision, encoders = fast_precision(device), (sources.image_encoder, sources.text_encoder)
    sizes = sizes_of(*encoders)
    with tempfile.TemporaryDirectory(dir=directory) as weights:
        tails = []
        for number, (encoder, start) in enumerate(
            zip(encoders, entry_layers_from(sizes, case.fusion_layers[0]), strict=True)
        ):
            assert start is not None  # PMF uses both encoders
            path = Path(weights) / f"{number}.pt"
            save_tail(encoder, start, path, precision)
            tails.append(load_tail(encoder.config, start, path, device))
        store = FeatureStore(built.directory, (tails[0], tails[1]))
        model: FusionModel = build_model(
            image_encoder=tails[0],
            text_encoder=tails[1],
            architecture=replace(PMFArchitecture.default(sizes), fusion_layer=case.fusion_layers[1]),
            num_classes=len(store.class_names),
            seed=0,
        ).to(device)
        recipe = case.config.recipe.replace(precision=precision)
        trainer = Trainer(model=model, recipe=recipe, step_count=10**6, loss=Loss(None, recipe.label_smoothing))
        yield trainer, store.splits["train"]


def _measure_steps(trainer: Trainer, split: FeatureSplit, steps: int) -> dict[str, Any]:
    """Return the seconds of reading a batch alone, those of a step, and the share of steps spent waiting for batches.

    Args:
        trainer: The training.
        split: The samples.
        steps: The number of steps that are measured, after a few others.
    """
    schedule, device = BatchSchedule(len(split), BATCH, seed=0), trainer.device
    warm_up = max(steps // 4, 1)

    def reads() -> Iterator[BatchRead]:
        for step in range(warm_up + steps):
            yield from schedule.select(split, step).reads(trainer.model.entry_layers())

    alone = [seconds_of(read) for read in reads()][warm_up:]
    waiting, whole = [], []
    batches = read_ahead(reads(), device)
    for step in range(warm_up + steps):
        started = time.perf_counter()
        batch = next(batches)
        waiting.append(time.perf_counter() - started)
        trainer.step(step, [batch], BATCH)
        synchronize(device)
        whole.append(time.perf_counter() - started)
    trainer.losses.finish()
    return {
        "read_seconds": statistics.median(alone),
        "step_seconds": statistics.median(whole[warm_up:]),
        "waiting_share": sum(waiting[warm_up:]) / sum(whole[warm_up:]),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, and return the exit status."""
    return run_part(__doc__, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
