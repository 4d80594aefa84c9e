"""Compare training steps of PMF on a GPU with the straightforward ones, on the same weights and batches.

Sides, all with the same optimizer (SGD with momentum, fused on a GPU) and precision (bfloat16 by autocast):

- `straightforward`: from pixels and token ids, PyTorch's fused attention; the base layers run without a graph.
- `straightforward_stored`: the same from stored base features in float16.
- `fast`: from these features, with the frozen weights held in the precision, as workers hold them.
- `fast_attention`: also with the stored attention of the tokens to each other in the first fusing layer.
- `fast_replayed`, `fast_attention_replayed`: the same steps, whose kernels were recorded once (CUDA graphs).

Steps of one side follow each other without a wait, as in a training; sides alternate. Ratios are medians over rounds.

Run: python -m benchmarks.gpu.steps [--device cuda] [--short] [--json FILE]
"""

import copy
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.part import Part, run_part
from benchmarks.models import build_pmf, random_encoders
from benchmarks.step_operations import seconds_of
from benchmarks.straightforward import StraightforwardPMF
from benchmarks.training_step import Step, stored_attention
from nas.common.devices import product_dtype, replayed
from nas.common.precision import PRECISIONS, Precision
from nas.models.encoders.held_weights import hold_products_in
from nas.models.fusion.base import Features, features_of, sizes_of
from nas.models.fusion.data_attention import DataAttention
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.pmf.model import PMF
from nas.run.tables import text_table

CLASSES, TEXT_TOKENS = 101, 128
STRAIGHTFORWARD, STORED = "straightforward", "straightforward_stored"
BARS = {"fast": 1.5, "fast_attention_replayed": 3.0}
"""The least ratios to `straightforward` at base size, batch 32, in bfloat16."""

_ROUND_SECONDS = 0.25
_MOST_STEPS = 40


@dataclass(frozen=True)
class Measured:
    """What is measured.

    Args:
        sizes: The sizes of the encoders.
        batches: The numbers of samples.
        rounds: The number of rounds, after a warm-up.
    """

    sizes: tuple[str, ...] = ("base", "large")
    batches: tuple[int, ...] = (32, 64, 256)
    rounds: int = 3


def measure(part: Part) -> bool:
    """Measure all cases, print a table, and return whether a bar is missed."""
    chosen = Measured(("tiny",), (4,), 1) if part.is_short else Measured()
    cases: list[dict[str, Any]] = []
    for size in chosen.sizes:
        models = _models(size, part.device)
        for batch, precision in product(chosen.batches, PRECISIONS):
            sides = _sides(models["float32"], models[precision], batch, precision)
            figures = {"size": size, "batch": batch, "precision": precision}
            figures |= _compare(sides, part.device, chosen.rounds)
            print(f"{size}, batch {batch}, {precision}")
            print(_table(figures))
            cases.append(figures)
            part.write({"cases": cases})
            del sides
        del models
    return part.missed(_bars(cases))


def _models(size: str, device: torch.device) -> dict[Precision, PMF]:
    """Return the same model with its frozen weights in each precision."""
    encoders = random_encoders(size)
    architecture = PMFArchitecture.default(sizes_of(*encoders))
    models: dict[Precision, PMF] = {}
    for precision in PRECISIONS:
        own = copy.deepcopy(encoders)
        if precision != "float32":
            for encoder in own:
                hold_products_in(encoder, product_dtype(precision))
        image, text = (encoder.to(device) for encoder in own)
        models[precision] = build_pmf((image, text), architecture, num_classes=CLASSES, seed=7).to(device)
    return models


def _sides(whole: PMF, held: PMF, batch: int, precision: Precision) -> dict[str, Step]:
    """Return the steps of all sides on one batch of random inputs.

    Args:
        whole: The model with frozen weights in float32, which autocast casts.
        held: The model with frozen weights in the precision.
        batch: The number of samples.
        precision: The precision of products.
    """
    device = next(whole.parameters()).device
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(batch, 3, 224, 224, generator=generator).to(device)
    ids = torch.randint(1000, 30000, (batch, TEXT_TOKENS), generator=generator).to(device)
    labels = torch.randint(CLASSES, (batch,), generator=generator).to(device)
    features = features_of(whole.encoders, whole.entry_layers(), pixels, ids, None)
    with_attention = _as_stored(stored_attention(whole, features))
    stored = replace(with_attention, image_attention=None, text_attention=None)
    slow = StraightforwardPMF(whole)

    def step(forward: Callable[[], Tensor], model: PMF) -> Step:
        return Step(forward, model, labels, precision)

    return {
        STRAIGHTFORWARD: step(lambda: slow(pixels, ids, None), whole),
        STORED: step(lambda: slow.from_features(stored.image_tokens.float(), stored.text_tokens.float(), None), whole),
        "fast": step(lambda: held(stored), held),
        "fast_attention": step(lambda: held(with_attention), held),
    }


def _as_stored(features: Features) -> Features:
    """Return features as a store has them by default: in float16, but for the logsumexp of the attention."""

    def attention(values: DataAttention | None) -> DataAttention | None:
        return None if values is None else DataAttention(values.attended.half(), values.logsumexp)

    return replace(
        features,
        image_tokens=features.image_tokens.half(),
        text_tokens=features.text_tokens.half(),
        image_attention=attention(features.image_attention),
        text_attention=attention(features.text_attention),
    )


def _compare(sides: dict[str, Step], device: torch.device, rounds: int) -> dict[str, Any]:
    """Return the seconds of a step of each side, its ratios, and how far its logits are from the straightforward ones.

    Args:
        sides: The steps.
        device: The device.
        rounds: The number of rounds.
    """
    runs: dict[str, Callable[[], object]] = dict(sides)
    logits = {}
    for name, step in sides.items():
        step()
        logits[name] = step.logits
    for name in ("fast", "fast_attention"):
        if (graph := replayed(sides[name], device)) is not None:
            runs[f"{name}_replayed"] = graph
            logits[f"{name}_replayed"] = sides[name].logits  # of the recorded step, which the recording writes
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(_seconds_a_step(run, device))

    def ratios(opponent: str) -> dict[str, float]:
        return {
            name: statistics.median(a / b for a, b in zip(seconds[opponent], seconds[name], strict=True))
            for name in runs
        }

    return {
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratio_to_straightforward": ratios(STRAIGHTFORWARD),
        "ratio_to_straightforward_stored": ratios(STORED),
        "max_logit_difference": {
            name: float((values.float() - logits[STRAIGHTFORWARD].float()).abs().max())
            for name, values in logits.items()
        },
    }


def _seconds_a_step(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one of several steps in a row."""
    run()
    count = max(min(int(_ROUND_SECONDS / max(seconds_of(run, device), 1e-6)), _MOST_STEPS), 1)

    def steps() -> None:
        for _ in range(count):
            run()

    return seconds_of(steps, device) / count


def _table(figures: dict[str, Any]) -> str:
    rows = [
        (
            name,
            f"{seconds * 1e3:.2f}",
            f"{figures['ratio_to_straightforward'][name]:.2f}",
            f"{figures['ratio_to_straightforward_stored'][name]:.2f}",
            f"{figures['max_logit_difference'][name]:.2g}",
        )
        for name, seconds in figures["seconds"].items()
    ]
    return text_table(("side", "ms a step", "times as fast", "as with stored features", "logits differ by"), rows)


def _bars(cases: list[dict[str, Any]]) -> dict[str, bool]:
    found = {}
    for figures in cases:
        if (figures["size"], figures["batch"], figures["precision"]) == ("base", 32, "bfloat16"):
            for name, bar in BARS.items():
                ratio = figures["ratio_to_straightforward"].get(name)
                text = "not measured" if ratio is None else f"{ratio:.2f}"
                found[f"{name} at least {bar} times as fast as straightforward: {text}"] = (ratio or 0) >= bar
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, and return the exit status."""
    return run_part(__doc__, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
