"""Peak training memory of every fusion family at base size: the memory column of the PMF paper's comparison.

Each family with its paper's default, ViT-B and BERT-B, float32, SGD with momentum, 128 text tokens, 101 classes.
Predicted without running a step, and on a GPU also measured. A training's memory is all weights in use (frozen ones
from the first computed layer on), gradients, optimiser state, activations and inputs.

`pmf` reads stored base features. `pmf_straightforward` is PMF as one would write it down, from `training_memory.py`,
which the paper's "up to 66 % less" speaks of.

Run: python -m benchmarks.family_memory [--batch 32] [--device cpu|cuda] [--json FILE] [--quick]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import BertConfig, ViTConfig

from benchmarks.models import empty_encoders, random_encoders
from benchmarks.training_memory import CLASSES, TEXT_TOKENS, pmf, size_of
from nas.common.units import format_bytes
from nas.config.data_schema import FeaturesConfig
from nas.config.load import load_config
from nas.config.training_schema import RecipeConfig
from nas.data.features.store import Batch
from nas.memory.prediction import MemoryModel
from nas.memory.step_tracing import TaskShapes
from nas.models.encoders.base import Encoder
from nas.models.encoders.partial_checkpoint import tail_weights
from nas.models.fusion.base import sizes_of
from nas.models.fusion.supernet import build_model
from nas.run.tables import text_table
from nas.search.space import RAW, SearchSpace
from nas.search.space.families import FAMILIES, load_architecture_class
from nas.training.losses import Loss
from nas.training.trainer import Trainer

STRAIGHTFORWARD = "pmf_straightforward"
FULL = "late_concat"
"""Full fine-tuning of both encoders, with which the others are compared."""

_RECIPE = Path(__file__).resolve().parent.parent / "search_spaces" / "food101.yaml"
_IMAGE_TOKENS = 197


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda measures as well")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="three families: shows that the script works")
    options = parser.parse_args()
    names = ["linear", FULL, "pmf"] if options.quick else list(FAMILIES)
    recipe = load_config(_RECIPE).recipe.replace(batch_size=options.batch)
    with FakeTensorMode():
        encoders = empty_encoders("base")
        straightforward, _ = pmf(
            *encoders, options.batch, load_architecture_class("pmf").default(sizes_of(*encoders)).first_layer
        )
    families = {name: predicted(name, encoders, recipe) for name in names}
    if options.device == "cuda":
        for name in names:
            families[name]["measured_bytes"] = measured(name, recipe)
    families[STRAIGHTFORWARD] = {"bytes": straightforward}
    for entry in families.values():
        entry["saving"] = 1 - entry["bytes"] / families[FULL]["bytes"]
    figures = {"batch": options.batch, "text_tokens": TEXT_TOKENS, "families": families}
    show(families)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def predicted(name: str, encoders: tuple[Encoder, Encoder], recipe: RecipeConfig) -> dict[str, Any]:
    """Bytes of a training by what holds them."""
    sizes = sizes_of(*encoders)
    architecture = load_architecture_class(name).default(sizes)
    memory = MemoryModel(
        image_config=ViTConfig(),
        text_config=BertConfig(),
        recipe=recipe,
        task=TaskShapes((3, 224, 224), _IMAGE_TOKENS, TEXT_TOKENS, CLASSES),
        features=FeaturesConfig(dtype="float32", disk_bytes=1, attention=False, views=1),
        space=SearchSpace.around(architecture, load_architecture_class(name).num_layers(sizes)),
    )
    memory.holds_supernet = False
    prediction = memory.predict(architecture)
    frozen = sum(
        size_of(tail_weights(encoder, layer).values())
        for encoder, layer in zip(encoders, architecture.entry_layers(sizes), strict=True)
        if layer not in (None, RAW)
    )
    return {
        "architecture": str(architecture) if architecture.genes else "",
        "trainable_parameters": memory.parameter_count(architecture),
        "bytes": frozen + prediction.training_bytes,
        "frozen_bytes": frozen,
        "trained_bytes": prediction.trained_bytes,
        "optimizer_bytes": prediction.optimizer_bytes,
        "step_bytes": prediction.step_bytes,
    }


def measured(name: str, recipe: RecipeConfig) -> int:
    """Bytes that the GPU's allocator has handed out at the peak of two training steps, whole encoders left out."""
    device = torch.device("cuda")
    encoders = random_encoders("base")
    architecture = load_architecture_class(name).default(sizes_of(*encoders))
    reads = architecture.entry_layers(sizes_of(*encoders))
    model = build_model(
        image_encoder=encoders[0], text_encoder=encoders[1], architecture=architecture, num_classes=CLASSES, seed=0
    )
    for encoder, layer in zip(encoders, reads, strict=True):
        if layer not in (None, RAW):
            encoder.model.load_state_dict(
                {key: tensor.to(device) for key, tensor in tail_weights(encoder, layer).items()},
                strict=False,
                assign=True,
            )
            encoder.requires_grad_(False)
    model = model.to(device)
    tokens = []
    for layer, raw, count, width in zip(
        reads,
        (torch.randn(recipe.batch_size, 3, 224, 224), torch.ones(recipe.batch_size, TEXT_TOKENS, dtype=torch.int64)),
        (_IMAGE_TOKENS, TEXT_TOKENS),
        (encoders[0].width, encoders[1].width),
        strict=True,
    ):
        if layer is None:
            tokens.append(torch.empty(recipe.batch_size, 0))
        else:
            tokens.append(raw if layer == RAW else torch.randn(recipe.batch_size, count, width))
    batch = Batch(
        image_tokens=tokens[0],
        text_tokens=tokens[1],
        text_mask=torch.ones(recipe.batch_size, TEXT_TOKENS, dtype=torch.bool),
        labels=torch.zeros(recipe.batch_size, dtype=torch.int64),
    )
    trainer = Trainer(model=model, recipe=recipe, step_count=2, loss=Loss(None, recipe.label_smoothing))
    torch.cuda.reset_peak_memory_stats(device)
    for step in range(2):
        trainer.step(step, [batch], recipe.batch_size)
    return torch.cuda.max_memory_allocated(device)


def show(families: dict[str, dict[str, Any]]) -> None:
    rows = [
        (
            name,
            entry.get("architecture", ""),
            f"{entry['trainable_parameters']:,}" if "trainable_parameters" in entry else "",
            format_bytes(entry["bytes"]),
            format_bytes(entry["measured_bytes"]) if "measured_bytes" in entry else "",
            f"{entry['saving']:.0%}",
        )
        for name, entry in sorted(families.items(), key=lambda item: item[1]["bytes"])
    ]
    header = ("family", "architecture", "trainable parameters", "predicted", "measured", f"less than {FULL}")
    print(text_table(header, rows))


if __name__ == "__main__":
    main()
