"""Predict the peak memory of one training step for each L_f, as in the PMF paper's figure of memory over L_f.

Compares full fine-tuning (both encoders trained, a linear classifier on both CLS tokens), straightforward PMF and the
fast path, in float32 with SGD and momentum. The steps run on fake tensors while every storage is tracked, so no
accelerator is needed. The memory of a step comprises all weights in use (without embeddings and layers below L_f on the
fast path, which reads features), gradients, optimizer state, activations and inputs.

Run: python -m benchmarks.training_memory [--size base|large] [--batch 32] [--json FILE] [--quick]
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy

from benchmarks.models import empty_encoders
from benchmarks.straightforward import StraightforwardPMF
from nas.common.units import format_bytes
from nas.memory.tracker import PeakTracker
from nas.models.encoders.base import Encoder
from nas.models.encoders.partial_checkpoint import tail_weights
from nas.models.fusion.base import Features, sizes_of
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.pmf.model import PMF
from nas.run.tables import text_table

CLASSES, TEXT_TOKENS = 101, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("base", "large"), default="base")
    parser.add_argument("--batch", type=int, default=32, help="samples per batch (default: 32)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="two values of L_f, to try the script")
    options = parser.parse_args()
    with FakeTensorMode():
        image, text = empty_encoders(options.size)
        num_layers = image.num_layers
        chosen = range(0, num_layers, 2 if options.size == "base" else 4)
        layers = [num_layers - 4, num_layers - 2] if options.quick else sorted({*chosen, num_layers - 2})
        full = full_fine_tuning(image, text, options.batch)
        rows = [(layer, *pmf(image, text, options.batch, layer)) for layer in layers]
    figures: dict[str, Any] = {
        "size": options.size,
        "batch": options.batch,
        "text_tokens": TEXT_TOKENS,
        "full_fine_tuning_bytes": full,
        "by_fusion_layer": {
            str(layer): {
                "straightforward_bytes": slow,
                "fast_bytes": fast,
                "saving_of_straightforward": 1 - slow / full,
                "saving_of_fast": 1 - fast / full,
            }
            for layer, slow, fast in rows
        },
    }
    print(f"Predicted peak of full fine-tuning: {format_bytes(full)}")
    header = ("L_f", "straightforward", "fast", "saving, straightforward", "saving, fast")
    shown = [
        (str(layer), format_bytes(slow), format_bytes(fast), f"{1 - slow / full:.0%}", f"{1 - fast / full:.1%}")
        for layer, slow, fast in rows
    ]
    print(text_table(header, shown))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def raw_inputs(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return pixel values, token ids and labels."""
    return torch.randn(batch, 3, 224, 224), torch.ones(batch, TEXT_TOKENS, dtype=torch.int64), torch.zeros(batch).long()


def full_fine_tuning(image: Encoder, text: Encoder, batch: int) -> int:
    """Return the peak of training both encoders and a linear classifier on their CLS tokens, in bytes."""
    weights = [*image.parameters(), *text.parameters()]
    head = nn.Linear(image.hidden_size + text.hidden_size, CLASSES)
    for weight in weights:
        weight.requires_grad_(True)
    pixels, ids, labels = raw_inputs(batch)

    def forward() -> Tensor:
        z = image.model(pixels).last_hidden_state[:, 0]
        t = text.model(ids).last_hidden_state[:, 0]
        logits: Tensor = head(torch.cat([z, t], dim=1))
        return logits

    trained = [*weights, *head.parameters()]
    peak = step_peak(forward, labels, inputs=(pixels, ids), weights=trained)
    for weight in weights:
        weight.requires_grad_(False)
        weight.grad = None
    return peak + 2 * size_of(trained)  # the weights themselves and SGD's momentum


def pmf(image: Encoder, text: Encoder, batch: int, fusion_layer: int) -> tuple[int, int]:
    """Return the peaks of straightforward and fast PMF in bytes, with all M = 4 and h half the hidden size."""
    architecture = PMFArchitecture(fusion_layer, 4, 4, 4, image.hidden_size // 2)
    model = PMF(image_encoder=image, text_encoder=text, architecture=architecture, num_classes=CLASSES)
    frozen, trained = [*image.parameters(), *text.parameters()], list(model.parameters())
    pixels, ids, labels = raw_inputs(batch)
    straightforward = StraightforwardPMF(model)
    slow = step_peak(lambda: straightforward(pixels, ids, None), labels, inputs=(pixels, ids), weights=frozen + trained)
    for parameter in trained:
        parameter.grad = None
    rows = (image.config.image_size // image.config.patch_size) ** 2 + 1
    features = Features(
        torch.randn(batch, rows, image.hidden_size), torch.randn(batch, TEXT_TOKENS, text.hidden_size), None
    )
    fast = step_peak(
        lambda: model(features),
        labels,
        inputs=(features.image_tokens, features.text_tokens),
        weights=frozen + trained,
    )
    fusing = architecture.prompted_layers(sizes_of(image, text))
    needed = [
        tensor for encoder in (image, text) for tensor in tail_weights(encoder, encoder.num_layers - fusing).values()
    ]
    return slow + size_of(frozen) + 2 * size_of(trained), fast + size_of(needed) + 2 * size_of(trained)


def step_peak(
    forward: Callable[[], Tensor], labels: Tensor, *, inputs: Iterable[Tensor], weights: Sequence[Tensor]
) -> int:
    """Return the peak of forward and backward pass in bytes, with gradients and inputs, without weights."""
    with PeakTracker(weights) as tracker:
        for tensor in inputs:
            tracker.follow(tensor)
        cross_entropy(forward(), labels).backward()
    peak_bytes: int = tracker.peak_bytes
    return peak_bytes


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of all elements of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


if __name__ == "__main__":
    main()
