"""Predict the peak training memory of every fusion family, as in the memory column of the PMF paper's comparison.

Every family has its paper's default architecture, with ViT-B and BERT-B, float32, SGD with momentum, 128 text tokens
and 101 classes. Those that compare images with the texts of the classes have the encoders of CLIP ViT-B/16 and texts of
7 to 9 tokens. Peaks are predicted without running a step; on a GPU those of trainings are measured as well, except for
families with CLIP's encoders. The memory of a training comprises all weights in use (frozen ones from the first
computed layer on), gradients, optimizer state, activations and inputs. For families that can be pretrained, there is
the peak of a pretraining on all of their objectives, too, which adds the heads, the moving average of all weights and a
queue of 1,024 pairs.

`pmf` reads stored base features. `pmf_straightforward` is the straightforward implementation of `training_memory.py`,
to which the paper's "up to 66 % less" applies.

Run: python -m benchmarks.family_memory [--batch 32] [--device cpu|cuda] [--json FILE] [--quick]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import BertConfig, CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig, ViTConfig

from benchmarks.models import empty_encoders, random_encoders
from benchmarks.training_memory import CLASSES, TEXT_TOKENS, pmf, size_of
from nas.common.devices import allocated_peak_bytes, device_of, start_peak
from nas.common.units import format_bytes
from nas.config.data_schema import FeaturesConfig
from nas.config.load import load_config
from nas.config.pretraining_schema import PretrainingConfig
from nas.config.training_schema import RecipeConfig
from nas.data.features.store import Batch
from nas.memory.prediction import MemoryModel
from nas.memory.step_tracing import TaskShapes
from nas.models.class_texts import ClassTexts
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import build_encoder
from nas.models.encoders.contrastive import HEAD
from nas.models.encoders.partial_checkpoint import tail_weights
from nas.models.fusion.base import sizes_of
from nas.models.fusion.supernet import build_model
from nas.run.tables import text_table
from nas.search.space import RAW, WHOLE, Architecture, EncoderSizes, EntryLayers, SearchSpace
from nas.search.space.family_registry import FAMILIES, load_architecture_class
from nas.training.losses import Loss
from nas.training.pretraining.settings import PretrainingSettings
from nas.training.trainer import Trainer

STRAIGHTFORWARD = "pmf_straightforward"
FULL = "late_concat"
"""The reference of all savings: full fine-tuning of both encoders."""

_RECIPE = Path(__file__).resolve().parent.parent / "search_spaces" / "food101.yaml"
_IMAGE_TOKENS = 197
_CLIP_TEXT: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
"""The sizes of the text encoder of CLIP ViT-B/16; its image encoder is ViT-B."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="samples per batch (default: 32)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda also measures the peaks")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="three families, to try the script")
    options = parser.parse_args()
    names = ["linear", FULL, "pmf"] if options.quick else list(FAMILIES)
    recipe = load_config(_RECIPE).recipe.replace(batch_size=options.batch)
    with FakeTensorMode():
        encoders, clip = empty_encoders("base"), clip_encoders()
        straightforward, _ = pmf(
            *encoders, options.batch, load_architecture_class("pmf").default(sizes_of(*encoders)).first_layer
        )
    with_clip = [name for name in names if load_architecture_class(name).reads_class_texts]
    families = {name: predicted(name, clip if name in with_clip else encoders, recipe) for name in names}
    if options.device == "cuda":
        for name in names:
            if name not in with_clip:
                families[name]["measured_bytes"] = measured(name, recipe)
    families[STRAIGHTFORWARD] = {"bytes": straightforward}
    for entry in families.values():
        entry["saving"] = 1 - entry["bytes"] / families[FULL]["bytes"]
    figures = {"batch": options.batch, "text_tokens": TEXT_TOKENS, "families": families}
    show(families)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def clip_encoders() -> tuple[Encoder, Encoder]:
    """Build both encoders of CLIP ViT-B/16 with their projections, with uninitialized weights."""
    configs: list[PreTrainedConfig] = [CLIPVisionConfig(image_size=224, patch_size=16), CLIPTextConfig(**_CLIP_TEXT)]
    for config in configs:
        config._attn_implementation = "sdpa"
        setattr(config, HEAD, {"projection_size": 512, "logit_scale": 100.0})
    return build_encoder(configs[0]), build_encoder(configs[1])


def class_texts() -> ClassTexts:
    """Return texts such as "a photo of a {}" for classes with names of one to three tokens."""
    return ClassTexts.of([[[1, 5, 6, 7, 8, *[9] * (1 + index % 3), 2] for index in range(CLASSES)]], [4])


def predicted(name: str, encoders: tuple[Encoder, Encoder], recipe: RecipeConfig) -> dict[str, Any]:
    """Return the predicted memory of a training, in total and by purpose."""
    sizes = sizes_of(*encoders)
    architecture = load_architecture_class(name).default(sizes)
    has_texts = architecture.reads_class_texts
    memory = MemoryModel(
        image_config=encoders[0].config if has_texts else ViTConfig(),
        text_config=encoders[1].config if has_texts else BertConfig(),
        recipe=recipe,
        task=TaskShapes(
            (3, 224, 224), _IMAGE_TOKENS, TEXT_TOKENS, CLASSES, class_texts=class_texts() if has_texts else None
        ),
        features=FeaturesConfig(dtype="float32", disk_bytes=1, attention=False, views=1),
        space=SearchSpace.around(architecture, load_architecture_class(name).num_layers(sizes)),
    )
    memory.holds_supernet = False
    prediction = memory.predict(architecture)
    frozen = frozen_bytes(encoders, architecture, sizes)
    pretraining: dict[str, int] = {}
    if architecture.pretraining_objectives:
        config = PretrainingConfig(steps=1)
        memory.pretraining = PretrainingSettings(config, architecture.pretraining_objectives, recipe)
        needed = memory.predict(architecture)
        assert needed.momentum_bytes, "a pretraining needs more than a training"
        pretraining = {
            "pretraining_bytes": frozen + needed.training_bytes,
            "pretraining_momentum_bytes": needed.momentum_bytes,
        }
    return {
        "architecture": str(architecture) if architecture.genes else "",
        "trainable_parameters": memory.parameter_count(architecture),
        "bytes": frozen + prediction.training_bytes,
        "frozen_bytes": frozen,
        "trained_bytes": prediction.trained_bytes,
        "optimizer_bytes": prediction.optimizer_bytes,
        "step_bytes": prediction.step_bytes,
        **pretraining,
    }


def frozen_bytes(encoders: tuple[Encoder, Encoder], architecture: Architecture, sizes: EncoderSizes) -> int:
    """Return the bytes of the frozen weights that a training computes with.

    Args:
        encoders: The image and the text encoder.
        architecture: The architecture. With class texts, it reads the text encoder from its token ids on.
        sizes: The sizes of the encoders.
    """
    image, text = architecture.entry_layers(sizes)
    return sum(
        size_of(tail_weights(encoder, layer).values())
        for encoder, layer in zip(encoders, (image, WHOLE if architecture.reads_class_texts else text), strict=True)
        if layer not in (None, RAW)
    )


def measured(name: str, recipe: RecipeConfig) -> int:
    """Return the peak of two training steps that the allocator of the accelerator reports, in bytes.

    Only the encoder weights that the family needs are moved to the GPU.
    """
    device = device_of("cuda")
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
    batch = random_batch(encoders, reads, recipe.batch_size)
    trainer = Trainer(model=model, recipe=recipe, step_count=2, loss=Loss(None, recipe.label_smoothing))
    start_peak(device)
    for step in range(2):
        trainer.step(step, [batch], recipe.batch_size)
    return allocated_peak_bytes(device)


def random_batch(encoders: tuple[Encoder, Encoder], reads: EntryLayers, size: int) -> Batch:
    """Return random raw inputs or features, as the layers that a family reads require.

    Args:
        encoders: The image and the text encoder.
        reads: The layer of each encoder whose input is read, `RAW`, or None for an unused encoder.
        size: The number of samples.
    """
    tokens = []
    for encoder, layer, raw, count in zip(
        encoders,
        reads,
        (torch.randn(size, 3, 224, 224), torch.ones(size, TEXT_TOKENS, dtype=torch.int64)),
        (_IMAGE_TOKENS, TEXT_TOKENS),
        strict=True,
    ):
        if layer is None:
            tokens.append(torch.empty(size, 0))
        else:
            tokens.append(raw if layer == RAW else torch.randn(size, count, encoder.hidden_size))
    return Batch(
        image_tokens=tokens[0],
        text_tokens=tokens[1],
        text_mask=torch.ones(size, TEXT_TOKENS, dtype=torch.bool),
        labels=torch.zeros(size, dtype=torch.int64),
    )


def show(families: dict[str, dict[str, Any]]) -> None:
    """Print a table of all families, the smallest peak first."""
    rows = [
        (
            name,
            entry.get("architecture", ""),
            f"{entry['trainable_parameters']:,}" if "trainable_parameters" in entry else "",
            format_bytes(entry["bytes"]),
            format_bytes(entry["pretraining_bytes"]) if "pretraining_bytes" in entry else "",
            format_bytes(entry["pretraining_momentum_bytes"]) if "pretraining_bytes" in entry else "",
            format_bytes(entry["measured_bytes"]) if "measured_bytes" in entry else "",
            f"{entry['saving']:.0%}",
        )
        for name, entry in sorted(families.items(), key=lambda item: item[1]["bytes"])
    ]
    header = (
        *("family", "architecture", "trainable parameters", "predicted", "in pretraining", "average and queue"),
        *("measured", f"saving against {FULL}"),
    )
    print(text_table(header, rows))


if __name__ == "__main__":
    main()
