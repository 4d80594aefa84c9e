"""Predicted peak memory of one training step over L_f: the counterpart of the PMF paper's figure of memory over L_f.

Full fine-tuning (both encoders trained, a linear classifier on both CLS rows), PMF read straightforwardly, and the fast
path; float32, SGD with momentum. The steps run on fake tensors under a mode that follows every storage, so no
accelerator is needed: these are predictions. A step's memory is all weights in use (without the embeddings and layers
below L_f where features are read), gradients, optimiser state, activations and inputs.

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
from nas.models.fusion.pmf.architecture import PMFArchitecture, entry_layers_from
from nas.models.fusion.pmf.model import PMF
from nas.run.tables import text_table

CLASSES, TEXT_TOKENS = 101, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("base", "large"), default="base")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="two values of L_f: shows that the script works")
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
    print(f"predicted; full fine-tuning: {format_bytes(full)}")
    header = ("L_f", "straightforward", "fast", "less than full fine-tuning", "fast, less than full fine-tuning")
    shown = [
        (str(layer), format_bytes(slow), format_bytes(fast), f"{1 - slow / full:.0%}", f"{1 - fast / full:.1%}")
        for layer, slow, fast in rows
    ]
    print(text_table(header, shown))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def raw_inputs(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(batch, 3, 224, 224), torch.ones(batch, TEXT_TOKENS, dtype=torch.int64), torch.zeros(batch).long()


def full_fine_tuning(image: Encoder, text: Encoder, batch: int) -> int:
    """Both encoders and a linear classifier on their CLS rows are trained."""
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
    """Straightforward and fast PMF with all M = 4, mapping width half the encoders'."""
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
    starts = entry_layers_from(sizes_of(image, text), fusion_layer)
    needed = [
        tensor
        for encoder, start in zip((image, text), starts, strict=True)
        for tensor in tail_weights(encoder, start).values()
    ]
    return slow + size_of(frozen) + 2 * size_of(trained), fast + size_of(needed) + 2 * size_of(trained)


def step_peak(
    forward: Callable[[], Tensor], labels: Tensor, *, inputs: Iterable[Tensor], weights: Sequence[Tensor]
) -> int:
    """Peak of forward and backward without the weights; gradients count, they are made by it."""
    with PeakTracker(weights) as tracker:
        for tensor in inputs:
            tracker.follow(tensor)
        cross_entropy(forward(), labels).backward()  # type: ignore[no-untyped-call]
    return tracker.peak_bytes


def size_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


if __name__ == "__main__":
    main()
