"""Measure the peak memory of the training steps of one case, in a fresh process with the environment of a worker."""

import gc
import json
import os
import subprocess
import sys
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from transformers import BertConfig, PreTrainedConfig, ViTConfig

from benchmarks.models import DEMO
from nas.config.load import load_config
from nas.config.schema import Config
from nas.data.features.store import Batch
from nas.execution.worker_setup import process_environment
from nas.memory.measurement import keep_freed_memory, map_large_tensors, release_freed_memory
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import load_config as load_encoder_config
from nas.models.encoders.checkpoints import resolve_checkpoint
from nas.models.encoders.partial_checkpoint import load_tail
from nas.models.fusion.data_attention import DataAttention
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.supernet import build_model
from nas.search.space import Architecture
from nas.training.losses import Loss
from nas.training.trainer import Trainer

SPACES = {"base": DEMO.parent / "pmf_base.yaml", "demo": DEMO}
CLASSES = {"base": 101, "demo": 15}
POLICIES = {"mapped": map_large_tensors, "kept": keep_freed_memory}


@dataclass(frozen=True)
class Case:
    """The training step of a prediction and its measurement.

    Args:
        architecture: An architecture of the search space.
        batch_size: The batch size B.
        text_tokens: The length T of all texts, in tokens.
    """

    architecture: PMFArchitecture
    batch_size: int
    text_tokens: int


def encoder_configs(size: str, config: Config) -> tuple[PreTrainedConfig, PreTrainedConfig]:
    """Return the configurations of the image and the text encoder."""
    if size == "base":
        return ViTConfig(), BertConfig()
    image, text = (resolve_checkpoint(name, Path.cwd()) for name in (config.encoders.image, config.encoders.text))
    return load_encoder_config(image, "image"), load_encoder_config(text, "text")


def first_layers(encoders: tuple[PreTrainedConfig, PreTrainedConfig], config: Config) -> tuple[int, int]:
    """Return the lowest layer of each encoder that a worker of the space needs."""
    image_layers, text_layers = (encoder.num_hidden_layers for encoder in encoders)
    fusing = min(image_layers, text_layers) - config.space.largest.first_layer
    return image_layers - fusing, text_layers - fusing


def image_tokens(image: PreTrainedConfig) -> int:
    """Return the number of image tokens, CLS included."""
    return int((image.image_size // image.patch_size) ** 2 + 1)


def measure_apart(size: str, policy: str, case: Case, folder: str) -> dict[str, int]:
    """Run `measure` in a fresh process with the environment of a worker.

    Args:
        size: The size, `base` or `demo`.
        policy: The handling of freed memory, a key of `POLICIES`.
        case: The training step.
        folder: The folder of the encoder weights.

    Raises:
        RuntimeError: If the process fails.
    """
    arguments = {
        "size": size,
        "policy": policy,
        "genes": list(astuple(case.architecture)),
        "batch_size": case.batch_size,
        "text_tokens": case.text_tokens,
        "folder": folder,
    }
    environment = {**os.environ, **process_environment(1)}
    command = [sys.executable, "-m", "benchmarks.step_memory", json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case}: the measurement failed:\n{done.stderr}")
    figures: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(
    *, size: str, policy: str, genes: list[int], batch_size: int, text_tokens: int, folder: str
) -> dict[str, int]:
    """Return the peak of two training steps above the memory of the process, and that memory, in bytes.

    Raises:
        RuntimeError: If the system dropped or read mapped pages during the steps.
    """
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
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark of resident memory
    before = status()
    steps(2)
    after = status()
    if abs(after["RssFile"] - before["RssFile"]) > 2**18:  # beyond a few pages of code
        raise RuntimeError(
            "measurement: the system dropped or read mapped pages; expected enough free memory to keep them"
        )
    return {"step_bytes": after["VmHWM"] - before["VmRSS"], "process_bytes": before["RssAnon"]}


def batch(
    encoders: tuple[Encoder, Encoder],
    architecture: Architecture,
    config: Config,
    size: int,
    tokens: tuple[int, int],
) -> Batch:
    """Return random features as from the feature store, with texts of one length.

    Args:
        encoders: The image and the text encoder.
        architecture: The architecture that reads the features.
        config: The configuration, with the dtype of the features.
        size: The number of samples.
        tokens: The number of tokens per image and per text.
    """
    fusing = min(encoder.num_layers for encoder in encoders) - architecture.first_layer
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
    """Return the memory figures of this process in bytes, by their names in /proc."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
