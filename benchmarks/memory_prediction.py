"""Predicted peaks of training steps against measured ones, and what a prediction costs.

Every case is one architecture, batch size and text length, and runs in a fresh process with a worker's environment: a
step to have programs, threads and mapped weights in place, what it has freed given back, and then two steps (the second
with optimiser state) between a reset of the system's high-water mark and a look at it. What is above the mark at the
reset is measured, against the prediction without process and supernet: neither frozen weights, which are mapped from a
file and all read before, nor the constant of the process are in either.

`--freed-memory kept` measures with the C library keeping what is freed, which is faster and leaves holes.

Run: python -m benchmarks.memory_prediction [--size base|demo] [--freed-memory mapped|kept] [--json FILE] [--quick]
"""

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, PreTrainedConfig, ViTConfig

from benchmarks.models import DEMO, demo_encoders, random_encoders
from nas.common.units import format_bytes
from nas.config.load import load_config
from nas.config.schema import Config
from nas.data.features.store import Batch
from nas.execution.worker_setup import process_environment
from nas.memory.measurement import keep_freed_memory, map_large_tensors, release_freed_memory
from nas.memory.prediction import MemoryModel
from nas.memory.step_tracing import TaskShapes
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import load_config as load_encoder_config
from nas.models.encoders.checkpoints import resolve_checkpoint
from nas.models.encoders.partial_checkpoint import load_tail, save_tail
from nas.models.fusion.data_attention import DataAttention
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.supernet import build_model
from nas.run.tables import text_table
from nas.search.space import Architecture
from nas.training.losses import Loss
from nas.training.trainer import Trainer

SPACES = {"base": DEMO.parent / "pmf_base.yaml", "demo": DEMO}
CLASSES = {"base": 101, "demo": 15}
TEXT_TOKENS = {"base": (128, 128, 77, 40, 16), "demo": (24, 24, 16, 8)}
BATCHES = (1, 2, 4, 8, 16, 32, 64)
POLICIES = {"mapped": map_large_tensors, "kept": keep_freed_memory}
MOST_LAYER_SAMPLES = {"base": 64, "demo": 10_000}
"""Fusing layers × samples of a case: more would take minutes."""


@dataclass(frozen=True)
class Case:
    """What is predicted and measured.

    Args:
        architecture: Of the size's search space.
        batch_size: B.
        text_tokens: T of all texts.
    """

    architecture: Architecture
    batch_size: int
    text_tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SPACES), help="one of them; both by default")
    parser.add_argument("--freed-memory", choices=tuple(POLICIES), default="mapped")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="two cases a size: shows that the script works")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # the process of one case: its arguments
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(**json.loads(options.case))))
        return
    sizes = [options.size] if options.size else list(SPACES)
    figures = {size: run_size(size, options.freed_memory, options.quick) for size in sizes}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def run_size(size: str, policy: str, quick: bool) -> dict[str, Any]:
    """Measure and predict all cases of a size; print a table."""
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
    """The same in every run: spread over L_f and batch sizes, random in the other genes."""
    rng, space, num_layers = random.Random(0), config.space, 12 if size == "base" else 6
    layers = space.choices["fusion_layer"]
    chosen = []
    for index in range(count):
        architecture = replace(space.sample(rng), fusion_layer=layers[index % len(layers)])
        most = MOST_LAYER_SAMPLES[size] // (num_layers - architecture.fusion_layer)
        batches = [batch for batch in BATCHES if batch <= most]
        batch = batches[(index // len(layers)) % len(batches)]
        chosen.append(Case(architecture, batch, TEXT_TOKENS[size][index % len(TEXT_TOKENS[size])]))
    return chosen


def encoder_configs(size: str, config: Config) -> tuple[PreTrainedConfig, PreTrainedConfig]:
    if size == "base":
        return ViTConfig(), BertConfig()
    image, text = (resolve_checkpoint(name, Path.cwd()) for name in (config.encoders.image, config.encoders.text))
    return load_encoder_config(image, "image"), load_encoder_config(text, "text")


def first_layers(encoders: tuple[PreTrainedConfig, PreTrainedConfig], config: Config) -> tuple[int, int]:
    """The first layer of each encoder that a worker of the space needs."""
    depths = [encoder.num_hidden_layers for encoder in encoders]
    fusing = min(depths) - config.space.largest.fusion_layer
    return depths[0] - fusing, depths[1] - fusing


def save_encoders(size: str, config: Config, folder: Path) -> None:
    encoders = random_encoders(size) if size == "base" else demo_encoders(config)[:2]
    starts = first_layers((encoders[0].config, encoders[1].config), config)
    for name, encoder, start in zip(("image", "text"), encoders, starts, strict=True):
        save_tail(encoder, start, folder / f"{name}.pt")


def image_tokens(image: PreTrainedConfig) -> int:
    return int((image.image_size // image.patch_size) ** 2 + 1)


def memory_model(size: str, config: Config, batch_size: int, text_tokens: int) -> MemoryModel:
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
    """Time of warm-up and of predictions over the space, and what interpolation is off by."""
    memory = memory_model(size, config, config.recipe.batch_size, TEXT_TOKENS[size][0])
    layers = config.space.choices["fusion_layer"]
    asked = [architecture for architecture in config.space if architecture.fusion_layer in layers[-1 if quick else 0 :]]
    started = time.perf_counter()
    for architecture in asked:
        memory.predict(architecture)
    warm = time.perf_counter()
    for architecture in asked:
        memory.predict(architecture)
    ended = time.perf_counter()
    sample = random.Random(1).sample(asked, 4 if quick else 60)
    interpolated = {architecture: memory.predict(architecture) for architecture in sample}
    before = time.perf_counter()
    # With its own peak as the budget, which could not be nearer, every one is rehearsed itself.
    direct = {
        architecture: memory.predict(architecture, budget_bytes=prediction.peak_bytes)
        for architecture, prediction in interpolated.items()
    }
    return {
        "architectures": len(asked),
        "warm_up_seconds": warm - started,
        "milliseconds_per_prediction": (ended - warm) / len(asked) * 1e3,
        "milliseconds_per_direct_prediction": (time.perf_counter() - before) / len(sample) * 1e3,
        "max_interpolation_error_bytes": max(
            abs(direct[architecture].peak_bytes - interpolated[architecture].peak_bytes) for architecture in sample
        ),
    }


def measure_apart(size: str, policy: str, case: Case, folder: str) -> dict[str, int]:
    """What `measure` says in a fresh process with a worker's environment."""
    arguments = {
        "size": size,
        "policy": policy,
        "genes": list(astuple(case.architecture)),
        "batch_size": case.batch_size,
        "text_tokens": case.text_tokens,
        "folder": folder,
    }
    environment = {**os.environ, **process_environment(1)}
    command = [sys.executable, "-m", "benchmarks.memory_prediction", "--case", json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case} failed:\n{done.stderr}")
    figures: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(
    *, size: str, policy: str, genes: list[int], batch_size: int, text_tokens: int, folder: str
) -> dict[str, int]:
    """What two steps hold at their peak above what the process holds without them, and what that is."""
    torch.set_num_threads(1)
    POLICIES[policy]()
    config = load_config(SPACES[size])
    configs = encoder_configs(size, config)
    image, text = (
        load_tail(entry, start, Path(folder) / f"{name}.pt")
        for name, entry, start in zip(("image", "text"), configs, first_layers(configs, config), strict=True)
    )
    architecture = PMFArchitecture(*genes)

    def steps(count: int) -> None:
        recipe = config.recipe.replace(batch_size=batch_size)
        model = build_model(
            image_encoder=image,
            text_encoder=text,
            architecture=architecture,
            num_classes=CLASSES[size],
            seed=0,
        )
        trainer = Trainer(model=model, recipe=recipe, step_count=count, loss=Loss(None, recipe.label_smoothing))
        for index in range(count):
            parts = (
                batch((image, text), architecture, config, batch_size, (image_tokens(configs[0]), text_tokens))
                for _ in range(1)
            )
            trainer.step(index, parts, batch_size)

    steps(1)
    gc.collect()
    release_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark of resident memory starts anew from here
    before = status()
    steps(2)
    after = status()
    if abs(after["RssFile"] - before["RssFile"]) > 2**18:  # beyond a few pages of code
        raise RuntimeError("the system has dropped or read mapped pages; there is too little memory to measure")
    return {"step_bytes": after["VmHWM"] - before["VmRSS"], "process_bytes": before["RssAnon"]}


def batch(
    encoders: tuple[Encoder, Encoder],
    architecture: Architecture,
    config: Config,
    size: int,
    tokens: tuple[int, int],
) -> Batch:
    """Random features as the store gives them, all texts of one length."""
    fusing = min(encoder.num_layers for encoder in encoders) - architecture.fusion_layer
    stores = config.features.attention and fusing > 1
    dtype = getattr(torch, config.features.dtype)
    rows = [
        torch.empty(size, count, encoder.hidden_size, dtype=dtype).normal_()
        for encoder, count in zip(encoders, tokens, strict=True)
    ]
    attention = [
        DataAttention(
            torch.empty_like(tensor).normal_(),
            torch.empty(*tensor.shape[:2], encoder.layers[0].projections.num_heads).normal_(),
        )
        if stores
        else None
        for tensor, encoder in zip(rows, encoders, strict=True)
    ]
    return Batch(
        image_tokens=rows[0],
        text_tokens=rows[1],
        text_mask=torch.ones(size, tokens[1], dtype=torch.bool),
        labels=torch.zeros(size, dtype=torch.int64),
        image_attention=attention[0],
        text_attention=attention[1],
    )


def status() -> dict[str, int]:
    """Memory figures of this process, in bytes, by the system's names."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


if __name__ == "__main__":
    main()
