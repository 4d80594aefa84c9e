"""Compare predicted peaks of training steps with measured ones, and measure the cost of a prediction.

Every case is one architecture, batch size and text length. It runs in a fresh process with the environment of a worker:
first one step, which loads code, starts threads and reads the mapped weights; then freed memory is returned to the
system and the high-water mark of resident memory is reset; then two steps, the second one with optimizer state. The
measured memory is the high-water mark after these steps minus the memory at the reset. It is compared with the
prediction without process and supernet, so neither side contains frozen weights or the constant memory of a process.

With `--freed-memory kept` the C library keeps freed memory, which is faster and causes fragmentation.

Run: python -m benchmarks.memory_prediction [--size base|demo] [--freed-memory mapped|kept] [--json FILE] [--quick]
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from benchmarks.models import demo_encoders, random_encoders
from benchmarks.step_memory import (
    CLASSES,
    POLICIES,
    SPACES,
    Case,
    encoder_configs,
    first_layers,
    image_tokens,
    measure_apart,
)
from nas.common.units import format_bytes
from nas.config.load import load_config
from nas.config.schema import Config
from nas.memory.prediction import MemoryModel
from nas.memory.step_tracing import TaskShapes
from nas.models.encoders.partial_checkpoint import save_tail
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.tables import text_table

TEXT_TOKENS = {"base": (128, 128, 77, 40, 16), "demo": (24, 24, 16, 8)}
BATCHES = (1, 2, 4, 8, 16, 32, 64)
MOST_LAYER_SAMPLES = {"base": 64, "demo": 10_000}
"""The largest product of fusing layers and samples in a case; larger ones would take minutes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SPACES), help="encoders and search space (default: both)")
    parser.add_argument(
        "--freed-memory",
        choices=tuple(POLICIES),
        default="mapped",
        help="what happens to freed memory (default: mapped)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="two cases per size, to try the script")
    options = parser.parse_args()
    sizes = [options.size] if options.size else list(SPACES)
    figures = {size: run_size(size, options.freed_memory, options.quick) for size in sizes}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def run_size(size: str, policy: str, quick: bool) -> dict[str, Any]:
    """Measure and predict all cases of a size, print a table and return the figures."""
    config = load_config(SPACES[size])
    chosen = cases(size, config, 2 if quick else 42)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        save_encoders(size, config, Path(folder))
        for case in chosen:
            model = memory_model(size, config, case.batch_size, case.text_tokens)
            prediction = model.predict(case.architecture)
            predicted = prediction.peak_bytes - prediction.process_bytes - prediction.supernet_bytes
            measured = measure_apart(size, policy, case, folder)
            rows.append((case, predicted, measured["step_bytes"], measured["process_bytes"]))
            figure = f"{predicted / measured['step_bytes'] - 1:+.1%}"
            print(
                f"{len(rows)}/{len(chosen)} {case.architecture} B={case.batch_size} T={case.text_tokens}: {figure}",
                flush=True,
            )
    errors = [abs(predicted - measured) / measured for _, predicted, measured, _ in rows]
    header = ("architecture", "B", "T", "predicted", "measured", "error")
    shown = [
        (
            str(case.architecture),
            str(case.batch_size),
            str(case.text_tokens),
            format_bytes(predicted),
            format_bytes(measured),
            f"{predicted / measured - 1:+.1%}",
        )
        for case, predicted, measured, _ in rows
    ]
    print(text_table(header, shown))
    figures: dict[str, Any] = {
        "size": size,
        "freed_memory": policy,
        "cases": len(rows),
        "median_relative_error": statistics.median(errors),
        "max_relative_error": max(errors),
        "max_process_bytes": max(process for *_, process in rows),
        **cost(size, config, quick),
    }
    print(
        text_table(
            ("figure", "value"),
            [(name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in figures.items()],
        )
    )
    figures["by_case"] = [
        {
            "architecture": list(astuple(case.architecture)),
            "batch_size": case.batch_size,
            "text_tokens": case.text_tokens,
            "predicted_bytes": predicted,
            "measured_bytes": measured,
        }
        for case, predicted, measured, _ in rows
    ]
    return figures


def cases(size: str, config: Config, count: int) -> list[Case]:
    """Return the cases of a size, the same in every run: spread over L_f and batch sizes, otherwise random."""
    rng, space, num_layers = random.Random(0), config.space, 12 if size == "base" else 6
    layers = space.choices["fusion_layer"]
    chosen = []
    for index in range(count):
        sampled = space.sample(rng)
        assert isinstance(sampled, PMFArchitecture)
        architecture = replace(sampled, fusion_layer=layers[index % len(layers)])
        most = MOST_LAYER_SAMPLES[size] // (num_layers - architecture.fusion_layer)
        batches = [batch for batch in BATCHES if batch <= most]
        batch = batches[(index // len(layers)) % len(batches)]
        chosen.append(Case(architecture, batch, TEXT_TOKENS[size][index % len(TEXT_TOKENS[size])]))
    return chosen


def save_encoders(size: str, config: Config, folder: Path) -> None:
    """Write the weights of both encoders that a worker needs, to be mapped by the processes of all cases."""
    encoders = random_encoders(size) if size == "base" else demo_encoders(config)[:2]
    starts = first_layers((encoders[0].config, encoders[1].config), config)
    for name, encoder, start in zip(("image", "text"), encoders, starts, strict=True):
        save_tail(encoder, start, folder / f"{name}.pt")


def memory_model(size: str, config: Config, batch_size: int, text_tokens: int) -> MemoryModel:
    """Return the predictor for a size, with a batch size and a text length."""
    image, text = encoder_configs(size, config)
    return MemoryModel(
        image_config=image,
        text_config=text,
        recipe=config.recipe.replace(batch_size=batch_size),
        features=config.features,
        space=config.space,
        task=TaskShapes((3, image.image_size, image.image_size), image_tokens(image), text_tokens, CLASSES[size]),
    )


def cost(size: str, config: Config, quick: bool) -> dict[str, Any]:
    """Measure the time of warm-up and predictions over the space, and the error of interpolation."""
    memory = memory_model(size, config, config.recipe.batch_size, TEXT_TOKENS[size][0])
    layers = config.space.choices["fusion_layer"]
    chosen = [architecture for architecture in config.space if architecture.first_layer in layers[-1 if quick else 0 :]]
    started = time.perf_counter()
    for architecture in chosen:
        memory.predict(architecture)
    warm = time.perf_counter()
    for architecture in chosen:
        memory.predict(architecture)
    ended = time.perf_counter()
    sample = random.Random(1).sample(chosen, 4 if quick else 60)
    interpolated = {architecture: memory.predict(architecture) for architecture in sample}
    before = time.perf_counter()
    # Close to the budget a step is traced, not interpolated; here the budget is the predicted peak itself.
    direct = {
        architecture: memory.predict(architecture, budget_bytes=prediction.peak_bytes)
        for architecture, prediction in interpolated.items()
    }
    return {
        "architectures": len(chosen),
        "warm_up_seconds": warm - started,
        "milliseconds_per_prediction": (ended - warm) / len(chosen) * 1e3,
        "milliseconds_per_direct_prediction": (time.perf_counter() - before) / len(sample) * 1e3,
        "max_interpolation_error_bytes": max(
            abs(direct[architecture].peak_bytes - interpolated[architecture].peak_bytes) for architecture in sample
        ),
    }


if __name__ == "__main__":
    main()
