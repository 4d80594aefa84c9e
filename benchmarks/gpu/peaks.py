"""Compare predicted peaks of training steps at base size with those that the allocator of a GPU counts.

Every case is an architecture of a family with its default recipe of the search space, batch 32 and texts of 128 tokens,
trained for two steps by the trainer of the workers, with the frozen weights that a worker holds. Compared are the bytes
of all tensors: the context, the workspaces and the gaps of the allocator are predicted by constants, and stated apart.

Run: python -m benchmarks.gpu.peaks [--device cuda] [--short] [--json FILE]
"""

import gc
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.family_memory import random_batch
from benchmarks.gpu.part import Part, run_part
from benchmarks.gpu.steps import CLASSES, TEXT_TOKENS
from benchmarks.models import DEMO, random_encoders
from nas.common.devices import allocated_peak_bytes, is_accelerator, outside_bytes, peak_bytes, start_peak
from nas.common.precision import PRECISIONS, Precision
from nas.common.units import format_bytes
from nas.config.data_schema import FeaturesConfig
from nas.config.load import load_config
from nas.config.training_schema import RecipeConfig
from nas.memory.prediction import MemoryModel, TraceCache
from nas.memory.step_tracing import TaskShapes
from nas.models.encoders.base import Encoder
from nas.models.encoders.partial_checkpoint import load_tail, save_tail
from nas.models.fusion.base import sizes_of
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.supernet import build_model
from nas.run.tables import text_table
from nas.search.space import RAW, Architecture, SearchSpace
from nas.search.space.family_registry import FAMILIES, load_architecture_class
from nas.training.losses import Loss
from nas.training.trainer import Trainer

MEDIAN_BAR, LARGEST_BAR = 0.03, 0.08
_IMAGE_TOKENS = 197


@dataclass(frozen=True)
class Case:
    """A training whose peak is predicted and measured.

    Args:
        family: Name of the family.
        architecture: An architecture of it.
        precision: The precision of products.
    """

    family: str
    architecture: Architecture
    precision: Precision


def measure(part: Part) -> bool:
    """Measure all cases, print a table, and return whether a bar is missed."""
    if not is_accelerator(part.device):
        print("peaks: nothing to measure; the CPU has no allocator that counts. See benchmarks.memory_prediction")
        part.write({"cases": []})
        return False
    encoders = random_encoders("tiny" if part.is_short else "base")
    batch_size = 4 if part.is_short else 32
    recipe = load_config(DEMO).recipe.replace(batch_size=batch_size)
    found: list[dict[str, Any]] = []
    for case in _cases(encoders, is_short=part.is_short):
        figures = _measure_case(case, encoders, recipe.replace(precision=case.precision), part.device)
        found.append(figures)
        part.write({"batch": batch_size, "cases": found, **_summary(found)})
    rows = [
        (
            f"{figures['family']} {figures['architecture']}",
            figures["precision"],
            *(format_bytes(figures[name]) for name in ("predicted_bytes", "measured_bytes", "reserved_bytes")),
            f"{figures['predicted_bytes'] / figures['measured_bytes'] - 1:+.1%}",
        )
        for figures in found
    ]
    print(text_table(("architecture", "precision", "predicted", "measured", "reserved", "error"), rows))
    summary = _summary(found)
    return part.missed(
        {
            f"median error {summary['median_error']:.1%}, at most {MEDIAN_BAR:.0%}": summary["median_error"]
            <= MEDIAN_BAR,
            f"largest error {summary['largest_error']:.1%}, at most {LARGEST_BAR:.0%}": summary["largest_error"]
            <= LARGEST_BAR,
        }
    )


def _cases(encoders: tuple[Encoder, Encoder], *, is_short: bool) -> list[Case]:
    """Return PMF from several fusion layers on, and every other family as its paper has it."""
    sizes = sizes_of(*encoders)
    count = encoders[0].num_layers
    layers = (1,) if is_short else (0, 4, 8, 10)
    width = encoders[0].hidden_size // 2
    cases = [
        Case("pmf", PMFArchitecture(layer, 4, 4, 4, width), precision)
        for layer in layers
        if layer < count
        for precision in PRECISIONS
    ]
    others = ("mbt", "late_concat") if is_short else _others()
    return cases + [Case(name, load_architecture_class(name).default(sizes), "float32") for name in others]


def _others() -> tuple[str, ...]:
    """Return the families that fit a ViT and a BERT, but PMF and the linear classifier."""
    others = (name for name in FAMILIES if name not in ("pmf", "linear"))
    return tuple(name for name in others if not load_architecture_class(name).reads_class_texts)


def _measure_case(
    case: Case, encoders: tuple[Encoder, Encoder], recipe: RecipeConfig, device: torch.device
) -> dict[str, Any]:
    """Return the predicted and the measured bytes of two steps."""
    predicted = _predicted(case, encoders, recipe, device)
    gc.collect()
    start_peak(device)
    before = allocated_peak_bytes(device)
    sizes = sizes_of(*encoders)
    reads = case.architecture.entry_layers(sizes)
    with tempfile.TemporaryDirectory() as folder:
        tails = []
        for name, encoder, layer in zip(("image", "text"), encoders, reads, strict=True):
            start, path = _first_layer(layer, encoder), Path(folder) / f"{name}.pt"
            save_tail(encoder, start, path, case.precision)
            place = torch.device("cpu") if start == RAW else device  # a family that trains an encoder copies it
            tails.append(load_tail(encoder.config, start, path, place))
    model = build_model(
        image_encoder=tails[0],
        text_encoder=tails[1],
        architecture=case.architecture,
        num_classes=CLASSES,
        seed=0,
    ).to(device)
    trainer = Trainer(model=model, recipe=recipe, step_count=2, loss=Loss(None, recipe.label_smoothing))
    batch = random_batch(encoders, reads, recipe.batch_size)
    start_peak(device)
    for step in range(2):
        trainer.step(step, [batch], recipe.batch_size)
    trainer.losses.finish()
    return {
        "family": case.family,
        "architecture": str(case.architecture) if case.architecture.genes else "",
        "precision": case.precision,
        "predicted_bytes": predicted,
        "measured_bytes": allocated_peak_bytes(device) - before,
        "reserved_bytes": peak_bytes(device),
        "outside_bytes": outside_bytes(device),
    }


def _predicted(case: Case, encoders: tuple[Encoder, Encoder], recipe: RecipeConfig, device: torch.device) -> int:
    """Return the predicted bytes of all tensors of a training, those of the frozen weights included."""
    sizes, number = sizes_of(*encoders), load_architecture_class(case.family).num_layers
    memory = MemoryModel(
        image_config=encoders[0].config,
        text_config=encoders[1].config,
        recipe=recipe,
        features=FeaturesConfig(dtype="float32", disk_bytes=1, attention=False, views=1),
        task=TaskShapes((3, 224, 224), _IMAGE_TOKENS, TEXT_TOKENS, CLASSES),
        space=SearchSpace.around(case.architecture, number(sizes)),
        traces=TraceCache(device),
    )
    memory.holds_supernet = False
    image, text = case.architecture.entry_layers(sizes)
    memory.first_layers = _first_layer(image, encoders[0]), _first_layer(text, encoders[1])
    prediction = memory.predict(case.architecture)
    return prediction.peak_bytes - prediction.process_bytes - prediction.allocator_bytes


def _first_layer(layer: int | None, encoder: Encoder) -> int:
    """Return the first layer whose weights a worker holds; an encoder that is not used has none."""
    return encoder.num_layers if layer is None else layer


def _summary(found: list[dict[str, Any]]) -> dict[str, float]:
    errors = [abs(figures["predicted_bytes"] / figures["measured_bytes"] - 1) for figures in found]
    return {"median_error": statistics.median(errors), "largest_error": max(errors)}


def main(arguments: list[str] | None = None) -> int:
    """Measure, and return the exit status."""
    return run_part(__doc__, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
